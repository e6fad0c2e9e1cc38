"""A job as the event loop knows it. Nothing here is touched by another thread."""

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire

from .folders import JobFolder
from .store import Row

if TYPE_CHECKING:
    from .runner import Run
    from .uploads import FilmFile

UPLOADING, QUEUED, RUNNING = wire.JOB_STATE_UPLOADING, wire.JOB_STATE_QUEUED, wire.JOB_STATE_RUNNING
DONE, FAILED, CANCELLED = wire.JOB_STATE_DONE, wire.JOB_STATE_FAILED, wire.JOB_STATE_CANCELLED
ENDED = (DONE, FAILED, CANCELLED)
MAX_WARNINGS = 200
"""That are kept; a film has a few kinds of flaws, and repeated ones are summed up by the pipeline."""
MAX_WARNING = 500
"""Characters of one."""

Range = tuple[int, int]
"""Offset and length, in bytes."""


@dataclass(eq=False)
class Job:
    """A film on its way through the server."""

    id: str
    owner: str
    request_id: str
    priority: int
    film_size: int
    """As stated by the client; 0 if it was not."""
    passing: bool
    """Of a Colorize call, with which it goes."""
    folder: JobFolder
    created_s: float
    queued_s: float
    """When it joined those that wait for a place."""
    touched_s: float
    """When something last happened: what expiry is counted from."""
    seq: int = 0
    state: int = UPLOADING
    film: int = 1
    """Which try of the upload."""
    uploaded: int = 0
    committed: bool = False
    sha256: bytes | None = None
    segments: int = 0
    deaths: int = 0
    coloured: int = 0
    """Bytes of the coloured film that are there to be read."""
    frames: int = 0
    expected: int = 0
    engine: str = ""
    warnings: list[str] = field(default_factory=list)
    patches: Sequence[Range] = ()
    """Of a finished film: what was written again after it had been appended."""
    finished: wire.Finished | None = None
    reason: str = ""
    failure: str = ""

    # What does not outlive the server.
    run: "Run | None" = None
    """What colours it now."""
    writer: "FilmFile | None" = None
    """What its film is written with, while it is not committed."""
    upload: "asyncio.Future[errors.KinochromeError] | None" = None
    """Of the call that uploads it now: given an error, it ends."""
    uploading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever writes, commits or begins the film anew."""
    fetching: int = 0
    """Downloads under way: it does not expire while they bring anything."""
    streamable: bool | None = False
    """Whether colouring can begin before the film is whole; None while that is not known."""
    given: int = 0
    """Of a Colorize call: bytes of the coloured film that its client has."""
    fetched_at: float = 0.0
    """On the monotonic clock: when a download last brought bytes to its client."""
    ahead: int = 0
    passing_bytes: int = 0
    """Of finished segments, as last measured."""
    moved_at: float = 0.0
    """On the monotonic clock: when it was begun, or another frame was coloured."""
    retry_at: float = 0.0
    """On the monotonic clock: not to be begun before."""
    faults: int = 0
    """Tries that failed in a way that may pass."""
    gone: bool = False
    """Deleted: calls that still know it end."""
    ending: int = 0
    """How many are about to end it, or to begin it anew: it is not begun meanwhile."""
    anew: bool = False
    """What its journal holds is of no use: the next run throws it away."""
    put_off: int = 0
    """How often it had to wait for room."""
    overflows: int = 0
    """How often it was stopped because the spool was full."""
    retry_s: float | None = None
    """Of one that failed: after which trying again may help."""
    version: int = 0
    _waiters: "set[asyncio.Future[None]]" = field(default_factory=set)

    @classmethod
    def of(cls, row: Row, folder: JobFolder) -> "Job":
        """As the database knows it."""
        names = (
            "id owner request_id priority film_size created_s queued_s touched_s seq state film uploaded sha256 "
            "segments deaths coloured frames expected engine reason failure"
        )
        return cls(
            **{name: row[name] for name in names.split()},
            folder=folder,
            passing=bool(row["passing"]),
            committed=bool(row["committed"]),
            warnings=json.loads(row["warnings"]),
            patches=[tuple(patch) for patch in json.loads(row["patches"])],
            finished=wire.Finished.FromString(row["finished"]) if row["finished"] is not None else None,
        )

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def stored(self) -> int:
        """Bytes in the spool."""
        film = 0 if self.has_ended else self.uploaded
        return film + self.grown

    @property
    def reserved(self) -> int:
        """Bytes of the film that are still to come, as far as its client has said."""
        return 0 if self.committed or self.has_ended else max(0, self.film_size - self.uploaded)

    def touch(self) -> None:
        """Tell all who watch that something has changed."""
        self.version += 1
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def change(self, seen: int) -> int:
        """Wait until the job's version is another than the one seen; gives it. What happened before is not missed."""
        while self.version == seen:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self.version

    @property
    def grown(self) -> int:
        """Bytes in the spool that its colouring has made so far."""
        return self.coloured + self.passing_bytes

    def close_film(self) -> None:
        """Nothing is written to its film now; what was not acknowledged is cut off when it is opened again."""
        if self.writer:
            self.writer.close()
            self.writer = None

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """It is not begun meanwhile."""
        self.ending += 1
        try:
            yield
        finally:
            self.ending -= 1

    def sent(self, size: int) -> None:
        """Of a Colorize call: its client has so much of the coloured film."""
        self.given = size
        if self.run:
            self.run.sent(size)

    def warn(self, text: str) -> None:
        """Keep a warning, once: a run that begins anew says all of them again."""
        text = clean(text)[:MAX_WARNING]
        if text not in self.warnings and len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(text)

    def fault(self) -> errors.KinochromeError:
        """Why there is no coloured film and will be none; of a job that has failed or was cancelled, or is gone."""
        if self.gone:
            return no_such_job(self.id)
        if self.state == CANCELLED:
            return errors.Cancelled("the job was cancelled")
        error = errors.BY_REASON.get(self.reason, errors.ServerFailed)(self.failure)
        return error if self.retry_s is None else error.retried_in(self.retry_s)

    def message(self, expires_s: float) -> wire.Job:
        """The job for its owner."""
        return wire.Job(
            id=self.id,
            state=self.state,  # type: ignore[arg-type]
            uploaded=self.uploaded,
            ahead=self.ahead,
            progress=wire.Progress(frames=self.frames, frames_expected=self.expected),
            warnings=[wire.Warning(text=text) for text in self.warnings],
            coloured=self.coloured,
            finished=self.finished if self.state == DONE else None,
            failure=wire.Failure(reason=self.reason, text=self.failure) if self.state == FAILED else None,
            created_s=int(self.created_s),
            expires_s=int(expires_s),
            priority=self.priority,
            engine=self.engine,
        )


def clean(text: str) -> str:
    """A text that a database and the wire take: workers read strangers' films, and what they say may be no text."""
    return text.encode(errors="replace").decode()


def no_such_job(job_id: str) -> errors.NoSuchJob:
    """Of a job that is not there, or not the caller's."""
    shown = job_id if len(job_id) <= 64 and job_id.isprintable() else "of that id"
    return errors.NoSuchJob(f"the server has no job {shown}: it may have expired; `kinochrome jobs list` tells").at(
        "job_id"
    )
