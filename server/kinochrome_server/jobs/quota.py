"""Whether there is room: for one more job, for more of a film, for more to be coloured."""

import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from kinochrome_proto import errors

from ..refusals import FULL_RETRY_S
from .job import CANCELLED, FAILED, Job
from .limits import UPLOAD_SHARE, Limits
from .store import Store

DAY_HOURS = 24


class Quota:
    """What jobs take of what they may. On the event loop."""

    def __init__(self, limits: Limits, jobs: Mapping[str, Job], usage: Iterable[tuple[str, int, int]]) -> None:
        """
        Args:
            limits: what jobs may take.
            jobs: all there are, by id; grows and shrinks.
            usage: what was coloured already: owner, hour since 1970, pixels.
        """
        self._limits, self._jobs = limits, jobs
        self._usage: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for owner, hour, pixels in usage:
            self._usage[owner][hour] = pixels
        self._unsaved: Counter[tuple[str, int]] = Counter()

    @property
    def spool_bytes(self) -> int:
        """Bytes in the spool."""
        return sum(job.stored for job in self._jobs.values() if not job.gone)

    def holds_too_much(self, owner: str) -> errors.QuotaReached | None:
        """Why no more may be made for an owner, if its jobs take more than they may, with what was made of them."""
        try:
            self._check_bytes(sum(job.stored for job in self._of(owner)), 0)
        except errors.QuotaReached as reached:
            return reached
        return None

    def check_new(self, owner: str, film_size: int, free: int) -> None:
        """Whether there may be one more job.

        Args:
            owner: whose.
            film_size: bytes of its film; 0 if that is not known.
            free: bytes that the disk has left.

        Raises QuotaReached, ServerFull.
        """
        limits = self._limits
        held = [job for job in self._of(owner) if job.state not in (FAILED, CANCELLED)]
        if len(held) >= limits.owner_jobs:
            raise errors.QuotaReached(
                f"{len(held)} jobs are as many as you may have here: fetch or delete some (`kinochrome jobs list`)"
            ).retried_in(FULL_RETRY_S)
        self._check_bytes(sum(job.stored + job.reserved for job in held), film_size)
        if limits.owner_pixels and self._pixels_of_day(owner) >= limits.owner_pixels:
            raise self.too_many_pixels()
        share = int(UPLOAD_SHARE * limits.spool_bytes)
        if film_size > share:
            raise errors.ServerFull(f"a film of {film_size} bytes is more than this server takes: {share}").at(
                "film_size"
            )
        expected = sum(job.stored + job.reserved for job in self._jobs.values())
        if expected + film_size > share or free < film_size:
            raise errors.ServerFull("the server has no room for the film: try again later").retried_in(FULL_RETRY_S)

    def check_more(self, job: Job, more: int) -> None:
        """Whether so many bytes of a job's film may come. Raises QuotaReached, ServerFull."""
        self._check_bytes(sum(other.stored for other in self._of(job.owner)), more)
        if self.spool_bytes + more > UPLOAD_SHARE * self._limits.spool_bytes:
            raise errors.ServerFull("the server has no room for more of the film: carry on later").retried_in(
                FULL_RETRY_S
            )

    def charge(self, owner: str, pixels: int, to_come: int) -> bool:
        """Note pixels that were coloured; gives whether those and what is to come are within what the owner may."""
        if pixels:
            hour = int(time.time() // 3600)
            self._usage[owner][hour] += pixels
            self._unsaved[owner, hour] += pixels
        limit = self._limits.owner_pixels
        return not limit or self._pixels_of_day(owner) + to_come <= limit

    def too_many_pixels(self) -> errors.QuotaReached:
        """Of an owner whose day's pixels are used up."""
        return errors.QuotaReached(
            f"{self._limits.owner_pixels} pixels a day are as many as are coloured for you here: try again tomorrow"
        ).retried_in(3600)

    def never_fits(self, job: Job) -> errors.ServerFull | None:
        """Why a job cannot be coloured here, if what it takes by itself is more than the spool may hold."""
        if job.stored <= self._limits.spool_bytes:
            return None
        return errors.ServerFull(
            f"film and coloured film take more than the {self._limits.spool_bytes} bytes that this server has for all"
        )

    async def save(self, store: Store) -> None:
        """Keep what was coloured for the next server; what cannot be written now is written the next time."""
        unsaved, self._unsaved = self._unsaved, Counter()
        for (owner, hour), pixels in unsaved.items():
            try:
                await store.add_usage(owner, hour, pixels)
            except sqlite3.Error:
                self._unsaved[owner, hour] += pixels
        oldest = int(time.time() // 3600) - 2 * DAY_HOURS
        for owner in list(self._usage):
            self._usage[owner] = Counter({hour: n for hour, n in self._usage[owner].items() if hour >= oldest})
            if not self._usage[owner]:
                del self._usage[owner]

    def _of(self, owner: str) -> list[Job]:
        return [job for job in self._jobs.values() if job.owner == owner and not job.gone]

    def _check_bytes(self, held: int, more: int) -> None:
        if self._limits.owner_bytes and held + more > self._limits.owner_bytes:
            raise errors.QuotaReached(
                f"your jobs hold {held} of the {self._limits.owner_bytes} bytes that they may: fetch or delete some"
            ).retried_in(FULL_RETRY_S)

    def _pixels_of_day(self, owner: str) -> int:
        since = int(time.time() // 3600) - DAY_HOURS
        return sum(pixels for hour, pixels in self._usage[owner].items() if hour > since)
