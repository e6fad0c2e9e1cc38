"""Who is coloured: places for so many jobs, given to those whose turn it is, and taken back.

A place is a running pipeline; the workers' time is shared among all that have one (`turns`). A film that is still
being sent may have a place while nobody waits for it whose film is here; one that has nothing to do for want of bytes
gives it back to whoever does, and its journal keeps what is finished.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire

from .. import metrics, wired
from ..about import about
from ..pool import WorkerPool
from ..refusals import FULL_RETRY_S, in_our_words, is_disk_full
from ..turns import Turn
from .job import QUEUED, RUNNING, UPLOADING, Job
from .queue import in_turn
from .quota import Quota
from .runner import Coloured, News, Order, Run
from .store import Store
from .taking_up import WARY_DEATHS
from .tasks import Tasks

MOST_FAULTS = 3
"""Tries of a job that may fail in ways that are not its film's fault."""
STARVED_S = 3.0
"""A film that is still being sent, and of which no frame was coloured for so long, makes room for one that is here."""
STALLED_S = 15.0
"""An upload that brings nothing for so long gives its place back though nobody waits for it."""
WAITS_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Between tries of a job that found the disk full, or failed in a way that may pass."""
FOR_GOOD = ("cancel", "delete", "anew")
"""Reasons to stop after which whoever stopped the job goes on with it."""
MOST_OVERFLOWS = 20
"""Times that a job is stopped because the spool is full; then it is given up: it may be what fills it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hooks:
    """What the places leave to others."""

    done: Callable[[Job, Coloured], Awaitable[None]]
    """A film is coloured."""
    failed: Callable[[Job, errors.KinochromeError], Awaitable[None]]
    """A film cannot be."""
    make_film: Callable[[Job], Awaitable[None]]
    """A film's file must be there before it is read."""


class Places:
    """On the event loop."""

    def __init__(
        self,
        count: int,
        jobs: Mapping[str, Job],
        store: Store,
        pool: WorkerPool,
        engine: tuple[str, str],
        quota: Quota,
        tasks: Tasks,
        hooks: Hooks,
    ) -> None:
        """
        Args:
            count: how many there are.
            jobs: all there are, by id; grows and shrinks.
            store: what is known of them.
            pool: the workers.
            engine: the one that colours all films; it with its version and device, for others colour otherwise.
            quota: what owners may have coloured.
            tasks: where runs go on.
            hooks: what is left to others.
        """
        self._count, self._jobs, self._store, self._pool = count, jobs, store, pool
        self._engine, self._quota, self._tasks, self._hooks = engine, quota, tasks, hooks
        self._placed: dict[Job, asyncio.Task[None]] = {}
        """Jobs that have a place: they are coloured, or about to be, or what came of it is noted."""
        self._stopping: dict[Job, str] = {}
        self._threads = ThreadPoolExecutor(count, "job")
        self.is_draining = False
        """While the server stops only Colorize calls under way are still begun."""

    @property
    def taken(self) -> list[Job]:
        """Jobs that have one."""
        return list(self._placed)

    def has(self, job: Job) -> bool:
        """Whether the job has one."""
        return job in self._placed

    def schedule(self) -> None:
        """Give free places to those whose turn it is, and tell the others how many are before them."""
        now = time.monotonic()
        waiting = [job for job in self._jobs.values() if job.state == QUEUED and self._may_begin(job)]
        free = self._count - len(self._placed)
        alone = any(map(_is_wary, self._placed))
        ahead = wanting = 0
        for job in sorted(in_turn(waiting, self._placed), key=_is_wary):
            if job.retry_at <= now and free > 0 and not alone and not (_is_wary(job) and self._placed):
                free -= 1
                alone = _is_wary(job)
                self._begin(job)
                continue
            wanting += job.retry_at <= now
            if job.ahead != ahead:
                job.ahead = ahead
                job.touch()
            ahead += 1
        if wanting:
            starved = [job for job in self._placed if not job.committed and now - job.moved_at > STARVED_S]
            for job in starved[:wanting]:
                self.stop(job, "starved")
        elif free > 0 and not alone:
            growing = [job for job in self._jobs.values() if self._can_begin_early(job, now)]
            for job in in_turn(growing, self._placed)[:free]:
                self._begin(job)

    def free_stalled(self) -> None:
        """Take back the places of films whose next byte does not come. A Colorize call's goes with its upload."""
        now = time.time()
        for job in self.taken:
            if not job.committed and not job.passing and now - job.touched_s > STALLED_S:
                self.stop(job, "stalled")

    def stop(self, job: Job, why: str) -> None:
        """Make its run end soon; the first reason counts, but for those that are for good."""
        if job not in self._placed:
            return
        if why in FOR_GOOD or job not in self._stopping:
            self._stopping[job] = why
        if job.run:
            job.run.stop()
        job.touch()

    async def halt(self, job: Job, why: str) -> None:
        """Stop its run and wait until it has ended."""
        self.stop(job, why)
        task = self._placed.get(job)
        if task and task is not asyncio.current_task():
            await asyncio.wait([task])

    async def end(self) -> None:
        """Stop all runs, and wait until they have ended."""
        self.is_draining = True
        for job in self.taken:
            self.stop(job, "drain")
        if self._placed:
            await asyncio.wait(self._placed.values())
        self._threads.shutdown()

    def is_stopping(self, job: Job) -> bool:
        """Whether its run has been asked to end."""
        return job in self._stopping

    def _may_begin(self, job: Job) -> bool:
        return not job.gone and not job.ending and job not in self._placed and (job.passing or not self.is_draining)

    def _can_begin_early(self, job: Job, now: float) -> bool:
        return (
            job.state == UPLOADING
            and bool(job.streamable)
            and not _is_wary(job)
            and self._may_begin(job)
            and job.upload is not None
            and not job.upload.done()
            and job.retry_at <= now
            and time.time() - job.touched_s < STALLED_S
        )

    def _begin(self, job: Job) -> None:
        job.ahead, job.moved_at = 0, time.monotonic()
        if job.committed:
            job.state = RUNNING
            metrics.waited(max(0.0, time.time() - job.queued_s))
        job.touch()
        self._placed[job] = self._tasks.spawn(self._colour(job))

    async def _colour(self, job: Job) -> None:
        """Colour it, and see to what comes of that."""
        outcome: Coloured | BaseException
        with about(job.id, job.owner):
            try:
                outcome = await self._run(job)
            except (Exception, asyncio.CancelledError) as fault:
                outcome = fault
            finally:
                job.run = None
            try:
                await self._settle(job, outcome)
            except Exception as fault:
                # What the film came to could not be noted: it is coloured again from its journal, and noted then.
                log.warning("cannot be noted, and is tried again: %s", fault)
                _put_off(job)
                job.faults += not is_disk_full(fault)
                if job.faults >= MOST_FAULTS and not job.has_ended:
                    log.error("is given up", exc_info=fault)
                    text = "the server cannot note what became of the film; its log says why"
                    await self._hooks.failed(job, errors.ServerFailed(text))
            finally:
                del self._placed[job]
                self._stopping.pop(job, None)
                if not job.has_ended:
                    job.state = QUEUED if job.committed else UPLOADING
                job.touch()
                self.schedule()

    async def _run(self, job: Job) -> Coloured:
        settings = wire.Settings.FromString(await self._store.settings(job.id))
        given = wired.settings(settings, self._engine[0])
        if not job.passing:
            await self._store.update(job.id, running=1)
        await self._hooks.make_film(job)
        identity = {
            "job": job.id,
            "film": job.film,
            "settings": hashlib.sha256(settings.SerializeToString(deterministic=True)).hexdigest(),
            "engine": self._engine[1],
            "version": version("kinochrome"),
        }
        # Less than others if its owner says so, never more: what is more for one is less for other owners.
        turn = Turn(job.id, weight=round(2 ** ((min(job.priority, 0) + 10) / 4)))
        restart, job.anew = job.anew, False
        order = Order(
            job.id, job.owner, job.folder, job.folder.source(job.film), given, identity, not job.passing, turn, restart
        )
        job.run = run = Run(order, self._pool, lambda news: self._hear(job, run, news), job.given)
        if job in self._stopping:
            raise errors.Cancelled("cancelled")
        log.info("is coloured")
        run.start(self._threads)
        try:
            return await run.future
        except errors.OutputInTheWay as fault:
            # Of another engine's version, say. What is kept there is of no use, and nobody's to ask about.
            if restart:
                raise RuntimeError("the journal cannot even be begun anew") from fault
            job.anew, job.segments = True, 0
            raise

    def _hear(self, job: Job, run: Run, news: News) -> None:
        """What is new of a run."""
        if job.run is not run or job.gone:
            return
        if news.frames != job.frames:
            job.moved_at = time.monotonic()
        job.coloured, job.frames, job.expected = news.coloured, news.frames, news.expected
        job.engine = news.engine or job.engine
        for text in news.warnings:
            job.warn(text)
        if news.segments > job.segments:
            job.segments, job.deaths = news.segments, 0
        fresh = max(0, news.frames - news.resumed - run.charged)
        run.charged += fresh
        metrics.frames_coloured(fresh)
        to_come = max(0, news.expected - news.frames) * news.pixels
        if not self._quota.charge(job.owner, fresh * news.pixels, to_come):
            self.stop(job, "quota")
        job.touch()

    async def _settle(self, job: Job, outcome: Coloured | BaseException) -> None:
        """What becomes of a job whose run has ended."""
        why = self._stopping.get(job, "")
        if why in FOR_GOOD:
            return
        if isinstance(outcome, Coloured):
            return await self._hooks.done(job, outcome)
        if why == "quota":
            return await self._hooks.failed(job, self._quota.too_many_pixels())
        if why == "owner" and (reached := self._quota.holds_too_much(job.owner)):
            return await self._hooks.failed(job, reached)
        if why == "full" or is_disk_full(outcome):
            job.overflows += why == "full"
            if error := self._quota.never_fits(job) or (_no_room() if job.overflows >= MOST_OVERFLOWS else None):
                return await self._hooks.failed(job, error)
            log.warning("waits: there is no room for what is coloured")
            job.coloured = 0
            # It is made again from the segments, which stay.
            await self._tasks.in_thread(partial(job.folder.coloured.unlink, missing_ok=True))
            _put_off(job)
        elif why:
            log.info("stops here for now (%s): what is finished is kept", why)
        elif isinstance(outcome, errors.OutputInTheWay):
            log.info("begins anew, for what is kept of it is of no use here: %s", outcome)
        elif isinstance(outcome, errors.KinochromeError) and not isinstance(outcome, errors.Cancelled):
            return await self._hooks.failed(job, outcome)
        else:
            log.error("broke off", exc_info=outcome)
            job.faults += 1
            if job.faults >= MOST_FAULTS:
                return await self._hooks.failed(job, in_our_words(outcome))
            _put_off(job)
        if not job.passing:
            await self._store.update(job.id, running=0, deaths=job.deaths, segments=job.segments)


def _is_wary(job: Job) -> bool:
    """Whether its film may be what kills servers: it is coloured while no other is, which would count as killed too."""
    return job.deaths >= WARY_DEATHS


def _no_room() -> errors.KinochromeError:
    return errors.ServerFull("the server has no room for what is coloured: try again later").retried_in(FULL_RETRY_S)


def _put_off(job: Job) -> None:
    """Let others go first for a while."""
    job.retry_at = time.monotonic() + WAITS_S[min(job.put_off, len(WAITS_S) - 1)]
    job.put_off += 1
