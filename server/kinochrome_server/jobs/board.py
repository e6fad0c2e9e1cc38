"""All jobs of a server, on its event loop: what may be asked of them, who is coloured next, what is cleared away.

What must survive a crash is in the database before anybody is told of it. What blocks runs in threads; what changes a
job runs to its end though the call that asked for it may be gone.
"""

import asyncio
import contextlib
import logging
import re
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import Any

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire

from .. import metrics, wired
from ..pool import WorkerPool
from . import taking_up, uploads
from .folders import Spool
from .job import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Job, clean, no_such_job
from .limits import Limits
from .places import Hooks, Places
from .quota import Quota
from .runner import Coloured
from .store import Store
from .tasks import Tasks

KEEP_HOUSE_S = 0.5
MEASURE_S = 2.0
PRIORITIES = range(-10, 11)
MOST_ENDED = 4
"""Times the number of jobs that an owner may have: so many that failed or were cancelled are remembered."""
STOP_RETRY_S = 2.0
"""After which a client looks for the server that comes after this one."""

log = logging.getLogger(__name__)


class Board:
    """All jobs. Made, asked and closed on the event loop."""

    def __init__(
        self, spool: Spool, store: Store, pool: WorkerPool, engine: str, engine_words: str, limits: Limits
    ) -> None:
        """
        Args:
            spool: where their bytes are.
            store: what is known of them.
            pool: the workers.
            engine: the one that colours all films; who serves chooses it, not who calls.
            engine_words: it with its version and device: others colour a little otherwise.
            limits: what jobs may take.
        """
        self.limits, self._spool, self._store, self._engine = limits, spool, store, engine
        self._jobs: dict[str, Job] = {}
        self._creating = asyncio.Lock()
        self.tasks = Tasks()
        self._quota = Quota(limits, self._jobs, store.usage())
        self._places = Places(
            limits.active,
            self._jobs,
            store,
            pool,
            (engine, engine_words),
            self._quota,
            self.tasks,
            Hooks(self._finish, partial(self._end, FAILED), self._make_film),
        )
        self._house: asyncio.Task[None] | None = None
        self._unnoted: dict[str, dict[str, Any] | None] = {}
        """Ends of jobs that could not be noted yet: what they ended with, None for a deletion."""
        self._stop_hashing = threading.Event()
        self.is_draining = False

    # ---- taking up and ending

    async def begin(self) -> None:
        """Take up what an earlier server left, and keep house from now on."""
        found = await self.tasks.in_thread(taking_up.take_up, self._store, self._spool)
        try:
            await taking_up.note(self._store, found)
        except sqlite3.Error as fault:
            # A full disk, say: then there must be a server by which something can be deleted.
            log.warning("what was found in the spool cannot be noted; the next server finds it again: %s", fault)
        jobs = found.jobs
        self._jobs.update((job.id, job) for job in jobs)
        if jobs:
            log.info("taken up: %s", ", ".join(f"{count} {name}" for name, count in sorted(self._by_state().items())))
        self._house = self.tasks.spawn(self._keep_house())
        self._places.schedule()

    def drain(self) -> None:
        """Take no more: calls under way end, jobs stop where they are. Colorize calls go on until `close`."""
        self.is_draining = self._places.is_draining = True
        self._stop_hashing.set()
        for job in self._jobs.values():
            if not job.passing:
                self._places.stop(job, "drain")
                self._end_upload(job, _stopping())
            job.touch()

    async def close(self) -> None:
        """Stop all that runs, and leave the spool as the next server wants it."""
        self.drain()
        if self._house:
            self._house.cancel()
        for job in list(self._jobs.values()):
            self._end_upload(job, _stopping())
            if job.passing and not job.gone:
                self.tasks.spawn(self._delete(job))
        await self._places.end()
        await self._quota.save(self._store)
        await self.tasks.end()
        await self._note_ends()
        for job in self._jobs.values():
            job.close_film()

    @property
    def passing(self) -> int:
        """Colorize calls under way."""
        return sum(job.passing for job in self._jobs.values())

    # ---- what may be asked

    def find(self, owner: str, job_id: str) -> Job:
        """A job of that owner. Raises NoSuchJob, for another's too."""
        job = self._jobs.get(job_id)
        if job is None or job.owner != owner or job.gone:
            raise no_such_job(job_id)
        return job

    def of_owner(self, owner: str) -> list[Job]:
        """All of an owner's jobs, newest first."""
        return sorted((job for job in self._jobs.values() if job.owner == owner and not job.gone), key=lambda j: -j.seq)

    def message(self, job: Job) -> wire.Job:
        """The job for its owner."""
        return job.message(self._expires_s(job))

    async def create(self, owner: str, request: wire.CreateJobRequest, *, passing: bool = False) -> Job:
        """A new job, or the one that the same request made before.

        Raises BadSettings, UnknownColorizer, QuotaReached, ServerFull, ServerUnreachable.
        """
        self.check_open()
        if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", request.request_id):
            raise errors.BadSettings("request_id takes 1 to 64 letters, digits and hyphens").at("request_id")
        if request.priority not in PRIORITIES:
            raise errors.BadSettings(f"a priority of {request.priority} is out of range: -10 to 10").at("priority")
        if request.film_size < 0:
            raise errors.BadSettings("film_size is negative").at("film_size")
        await self.tasks.in_thread(wired.check, request.settings, self._engine)
        return await self.tasks.unbroken(self._create(owner, request, passing))

    async def _create(self, owner: str, request: wire.CreateJobRequest, passing: bool) -> Job:
        settings = request.settings.SerializeToString(deterministic=True)
        async with self._creating:
            for job in self._jobs.values():
                if (job.owner, job.request_id) == (owner, request.request_id) and not job.gone:
                    if await self._store.settings(job.id) != settings:
                        raise errors.BadSettings("this request_id made a job with other settings").at("request_id")
                    return job
            free = await self.tasks.in_thread(self._spool.free)
            self._quota.check_new(owner, request.film_size, free)
            self._forget_ended(owner)
            now = time.time()
            job_id = uuid.uuid4().hex
            job = Job(
                id=job_id,
                owner=owner,
                request_id=request.request_id,
                priority=request.priority,
                film_size=request.film_size,
                passing=passing,
                folder=self._spool.job(job_id),
                created_s=now,
                queued_s=now,
                touched_s=now,
                streamable=None,
            )
            await self.tasks.in_thread(job.folder.make)
            try:
                names = "id owner request_id priority film_size created_s queued_s touched_s state"
                row = {name: getattr(job, name) for name in names.split()}
                job.seq = await self._store.insert({**row, "passing": int(passing), "settings": settings})
            except BaseException:
                await self.tasks.in_thread(job.folder.remove)
                raise
            self._jobs[job.id] = job
        log.info("created", extra={"job": job.id, "owner": owner})
        return job

    async def upload(
        self, job: Job, requests: AsyncIterator[Any], bytes_of: Callable[[Any, int], bytes]
    ) -> AsyncGenerator[int, None]:
        """Take bytes of a job's film; gives those that are safe. An older upload to the job ends.

        Raises WrongOffset, DamagedOnTheWay, BadSettings, QuotaReached, ServerFull, ServerUnreachable, the reason why
        the job has ended, OSError, sqlite3.Error.
        """
        self.check_open(job)
        self._check_growing(job)
        self._end_upload(job, errors.Cancelled("a later upload of this film has begun, and counts"))
        job.upload = ended = asyncio.get_running_loop().create_future()
        try:
            async with job.uploading:  # what the older one was writing is written
                offset = job.uploaded
            incoming = uploads.pieces(
                requests,
                bytes_of,
                offset,
                self.limits.upload_idle_s,
                lambda pieces: self.tasks.unbroken(self._append(job, ended, pieces)),
                ended,
            )
            async with contextlib.aclosing(incoming):
                async for uploaded in incoming:
                    yield uploaded
        finally:
            if job.upload is ended:
                job.upload = None

    async def _append(self, job: Job, ended: "asyncio.Future[errors.KinochromeError]", pieces: list[bytes]) -> int:
        async with job.uploading:
            if ended.done():
                raise ended.result()
            self._check_growing(job)
            self._quota.check_more(job, sum(map(len, pieces)))
            writer = await self._writer(job)
            now = time.time()
            try:
                size = await self.tasks.in_thread(writer.append, pieces)
                if not job.passing:
                    await self._store.update(job.id, uploaded=size, touched_s=now)
            except BaseException:
                job.close_film()  # what came, but could not be noted, comes again
                raise
            metrics.bytes_in(size - job.uploaded)
            job.uploaded, job.touched_s = size, now
            if job.streamable is None:
                job.streamable = await self.tasks.in_thread(uploads.streamable, job.folder.source(job.film), size)
        job.touch()
        self._places.schedule()
        return size

    async def _make_film(self, job: Job) -> None:
        async with job.uploading:
            if job.has_ended or job.gone:
                return
            if job.committed:
                await self.tasks.in_thread(job.folder.source(job.film).finish)
            else:
                await self._writer(job)

    async def _writer(self, job: Job) -> uploads.FilmFile:
        if job.writer is None:
            source = job.folder.source(job.film)
            job.writer = await self.tasks.in_thread(
                partial(uploads.FilmFile, source, job.uploaded, durable=not job.passing)
            )
        return job.writer

    async def commit(self, job: Job, size: int, sha256: bytes | None) -> None:
        """The film is whole. `sha256`: None of a film that goes as it comes, whose client has not said.

        Raises BadSettings, WrongOffset while bytes are missing, DamagedOnTheWay, the reason why the job has ended.
        """
        self.check_open(job)
        if size < 0:
            raise errors.BadSettings("size is negative").at("size")
        if sha256 is not None and len(sha256) != 32:
            raise errors.BadSettings(f"a SHA-256 has 32 bytes, not {len(sha256)}").at("sha256")
        await self.tasks.unbroken(self._commit(job, size, sha256))

    async def _commit(self, job: Job, size: int, sha256: bytes | None) -> None:
        async with job.uploading:
            if job.gone or job.state in (FAILED, CANCELLED):
                raise job.fault()
            if job.committed:
                if (size, sha256) != (job.uploaded, job.sha256):
                    raise errors.DamagedOnTheWay("the job has another film already: create a new job")
                return
            if size > job.uploaded:
                raise errors.WrongOffset(f"{job.uploaded} of {size} bytes are here: carry on from there").at("size")
            writer = await self._writer(job)
            is_whole = sha256 is None or (size == job.uploaded and await self._sha256(writer) == sha256)
            if is_whole:
                now, source = time.time(), job.folder.source(job.film)
                await self.tasks.in_thread(source.finish)
                try:
                    await self._store.update(
                        job.id, committed=1, sha256=sha256, state=QUEUED, queued_s=now, touched_s=now
                    )
                except BaseException:
                    await self.tasks.in_thread(source.carry_on)
                    raise
                job.committed, job.sha256, job.state, job.queued_s, job.touched_s = True, sha256, QUEUED, now, now
                job.close_film()
        if not is_whole:
            await self._begin_anew(job)
            raise errors.DamagedOnTheWay(
                "the film arrived otherwise than it was sent, or changed meanwhile: send it again from the start"
            )
        if self._places.has(job) and job.state == QUEUED:  # a clip may be done by now
            job.state = RUNNING
        job.retry_at = 0
        self._end_upload(job, errors.WrongOffset("the film is whole: nothing more is taken"))
        job.touch()
        self._places.schedule()

    async def _sha256(self, writer: uploads.FilmFile) -> bytes:
        try:
            return await self.tasks.in_thread(writer.sha256, self._stop_hashing)
        except errors.Cancelled:
            raise _stopping() from None

    async def _begin_anew(self, job: Job) -> None:
        """Forget the film and all that was made of it. Without the job's lock: its run may want that to end."""
        with job.held_back():
            await self._places.halt(job, "anew")
            await self._forget_film(job)
        job.touch()

    async def _forget_film(self, job: Job) -> None:
        async with job.uploading:
            if job.gone or job.has_ended or job.committed:
                return
            self._end_upload(job, errors.DamagedOnTheWay("the film has to be sent again from the start"))
            job.close_film()
            await self._store.update(job.id, film=job.film + 1, uploaded=0, segments=0, deaths=0)
            job.film, job.uploaded, job.coloured, job.frames, job.segments = job.film + 1, 0, 0, 0, 0
            job.streamable = None
            await self.tasks.in_thread(job.folder.only)

    async def cancel(self, job: Job) -> None:
        """Stop it for good; once this returns nothing works for it. One that has ended stays as it is."""
        if not job.has_ended and not job.gone:
            await self.tasks.unbroken(self._end(CANCELLED, job))

    async def fail(self, job: Job, error: errors.KinochromeError) -> None:
        """Let it end with an error."""
        if not job.has_ended and not job.gone:
            await self.tasks.unbroken(self._end(FAILED, job, error))

    async def delete(self, job: Job) -> None:
        """Remove it with all its bytes."""
        if not job.gone:
            await self.tasks.unbroken(self._delete(job))

    async def _delete(self, job: Job) -> None:
        job.gone = True
        self._end_upload(job, job.fault())
        job.touch()
        await self._places.halt(job, "delete")
        async with job.uploading:
            job.close_film()
            await self._note_end(job, None)
            await self.tasks.in_thread(job.folder.remove)
        self._jobs.pop(job.id, None)
        self._places.schedule()

    def _forget_ended(self, owner: str) -> None:
        """Of jobs that came to nothing only so many are remembered."""
        ended = [job for job in self.of_owner(owner) if job.state in (FAILED, CANCELLED)]
        for job in ended[MOST_ENDED * self.limits.owner_jobs :]:
            self.tasks.spawn(self._delete(job))

    def check_open(self, job: Job | None = None) -> None:
        """Whether anything is still taken, for that job. Raises ServerUnreachable."""
        if self.is_draining and not (job and job.passing):
            raise _stopping()

    def _check_growing(self, job: Job) -> None:
        if job.gone or job.state in (FAILED, CANCELLED):
            raise job.fault()
        if job.committed:
            raise errors.WrongOffset("the film is whole: nothing more is taken").at("job_id")

    # ---- ends

    async def _finish(self, job: Job, film: Coloured) -> None:
        """The coloured film is there: note it, and wait for the commit if that is still to come."""
        job.coloured = film.size
        while not job.committed:
            # A clip ends before its film does: it counts once the film is known to be the one that was meant.
            seen = job.version
            if self._places.is_stopping(job) or job.gone or job.has_ended:
                return
            await job.change(seen)
        finished = wire.Finished(frames=film.frames, size=film.size, sha256=film.sha256)
        now = time.time()
        await self._store.update(
            job.id,
            state=DONE,
            running=0,
            coloured=film.size,
            frames=film.frames,
            expected=job.expected,
            engine=job.engine,
            warnings=job.warnings,
            patches=film.patches,
            finished=finished.SerializeToString(),
            touched_s=now,
        )
        job.frames, job.finished, job.patches, job.touched_s, job.state = film.frames, finished, film.patches, now, DONE
        job.passing_bytes = 0
        metrics.job_ended("DONE")
        log.info("is done: %d frames, %d bytes", film.frames, film.size)
        job.touch()
        await self.tasks.in_thread(job.folder.only, job.folder.coloured)

    async def _end(self, state: int, job: Job, error: errors.KinochromeError | None = None) -> None:
        """Let it end without a film."""
        self._end_upload(job, error or errors.Cancelled("the job was cancelled"))
        with job.held_back():
            await self._places.halt(job, "cancel")
            await self._note_failure(state, job, error)
        self._places.schedule()

    async def _note_failure(self, state: int, job: Job, error: errors.KinochromeError | None) -> None:
        values: dict[str, Any] = {"state": state, "running": 0, "touched_s": time.time(), "warnings": job.warnings}
        values |= {"reason": error.reason, "failure": clean(str(error))} if error else {}
        async with job.uploading:
            if job.has_ended or job.gone:
                return
            job.close_film()
            await self._note_end(job, values)
            job.state, job.touched_s, job.coloured, job.passing_bytes = state, values["touched_s"], 0, 0
            if error:
                job.reason, job.failure, job.retry_s = error.reason, values["failure"], error.retry_s
            await self.tasks.in_thread(job.folder.remove)
        metrics.job_ended(wire.JobState.Name(job.message(0).state).removeprefix("JOB_STATE_"), job.reason)
        log.info("ended: %s", error or "cancelled", extra={"job": job.id, "owner": job.owner})
        job.touch()

    async def _note_end(self, job: Job, values: dict[str, Any] | None) -> None:
        """Note what a job ended with, None for its deletion; what cannot be noted yet is noted later.

        A server that dies before finds a job without a folder, and forgets it.
        """
        try:
            await self._store_end(job.id, values)
        except sqlite3.Error as fault:
            # A full disk has no room even for noting that there is more: the film makes some.
            log.warning("ended before that could be noted: %s", fault, extra={"job": job.id})
            await self.tasks.in_thread(job.folder.remove)
            self._unnoted[job.id] = values
            await self._note_ends()

    async def _note_ends(self) -> None:
        for job_id, values in list(self._unnoted.items()):
            with contextlib.suppress(sqlite3.Error):
                await self._store_end(job_id, values)
                if self._unnoted.get(job_id, "") == values:
                    del self._unnoted[job_id]

    async def _store_end(self, job_id: str, values: dict[str, Any] | None) -> None:
        if values is None:
            await self._store.delete([job_id])
            self._unnoted.pop(job_id, None)
        else:
            await self._store.update(job_id, **values)

    def _end_upload(self, job: Job, error: errors.KinochromeError) -> None:
        if job.upload and not job.upload.done():
            job.upload.set_result(error)

    # ---- keeping house

    async def _keep_house(self) -> None:
        measured = 0.0
        while True:
            await asyncio.sleep(KEEP_HOUSE_S)
            try:
                self._expire()
                await self._note_ends()
                self._places.free_stalled()
                if (now := time.monotonic()) - measured > MEASURE_S:
                    measured = now
                    await self._measure()
                    await self._quota.save(self._store)
                self._places.schedule()
            except Exception:
                log.exception("keeping house failed; it is tried again")

    def _expires_s(self, job: Job) -> float:
        if job.has_ended:
            return job.touched_s + self.limits.keep_done_s
        return 0.0 if job.committed else job.touched_s + self.limits.keep_abandoned_s

    def _expire(self) -> None:
        now = time.time()
        for job in list(self._jobs.values()):
            expires = self._expires_s(job)
            fetched = job.fetching and time.monotonic() - job.fetched_at < self.limits.upload_idle_s
            wanted = fetched or (job.upload is not None and not job.upload.done()) or job.passing
            if expires and expires < now and not wanted and not job.gone:
                log.info("has expired", extra={"job": job.id, "owner": job.owner})
                self.tasks.spawn(self._delete(job))

    async def _measure(self) -> None:
        """What finished segments take, and whether all together still fits."""
        for job in self._places.taken:
            if not job.passing:
                job.passing_bytes = await self.tasks.in_thread(job.folder.passing_bytes)
        used = self._quota.spool_bytes
        metrics.spool(used, self.limits.spool_bytes)
        metrics.jobs(self._by_state())
        # What has grown most makes the most room: of its own coloured film, which is made again from segments.
        running = sorted((job for job in self._places.taken if not job.has_ended), key=lambda job: -job.grown)
        if used > self.limits.spool_bytes and running:
            self._places.stop(running[0], "full")
        for owner in {job.owner for job in running}:
            if self._quota.holds_too_much(owner):
                self._places.stop(next(job for job in running if job.owner == owner), "owner")

    def _by_state(self) -> dict[str, int]:
        names = Counter(wire.JobState.Name(job.state) for job in self._jobs.values())  # type: ignore[arg-type]
        return {name.removeprefix("JOB_STATE_"): count for name, count in names.items()}


def _stopping() -> errors.KinochromeError:
    return errors.ServerUnreachable("the server is being stopped: try again in a moment").retried_in(STOP_RETRY_S)
