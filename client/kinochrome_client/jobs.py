"""Jobs of a server, as a program that uses the client sees them."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire


class State(StrEnum):
    """How a job stands."""

    UPLOADING = "uploading"
    """Its film is not all there yet; what is there may be in work."""
    QUEUED = "queued"
    """Its film is there, and others are before it."""
    RUNNING = "running"
    DONE = "done"
    """The coloured film can be fetched."""
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (State.DONE, State.FAILED, State.CANCELLED)


_STATES = {
    wire.JOB_STATE_UPLOADING: State.UPLOADING,
    wire.JOB_STATE_QUEUED: State.QUEUED,
    wire.JOB_STATE_RUNNING: State.RUNNING,
    wire.JOB_STATE_DONE: State.DONE,
    wire.JOB_STATE_FAILED: State.FAILED,
    wire.JOB_STATE_CANCELLED: State.CANCELLED,
}


@dataclass(frozen=True)
class Job:
    """A film on its way through a server."""

    id: str
    state: State
    uploaded: int
    """Bytes of the film that the server has."""
    ahead: int
    """Jobs that will be begun before this one."""
    frames: int
    """Frames coloured so far."""
    frames_expected: int
    """Frames that the film says it has; 0 when it does not say, or is not read yet."""
    coloured: int
    """Bytes of the coloured film so far."""
    warnings: tuple[str, ...]
    priority: int
    engine: str
    """What colours it, in words; empty until it runs."""
    created: datetime | None
    expires: datetime | None
    """When the server will remove it and its bytes."""
    size: int
    """Bytes of the coloured film, of a job that is done."""
    sha256: str
    """SHA-256 of the coloured film, of a job that is done; hexadecimal."""
    failure: str
    """Why it failed, a line for people."""
    failure_reason: str
    """The same as a name: one of those in `kinochrome_proto.errors`."""

    @classmethod
    def of(cls, job: wire.Job) -> "Job":
        """The same as it came over the wire."""
        return cls(
            job.id,
            _STATES.get(job.state, State.UPLOADING),
            job.uploaded,
            job.ahead,
            job.progress.frames,
            job.progress.frames_expected,
            job.coloured,
            tuple(warning.text for warning in job.warnings),
            job.priority,
            job.engine,
            datetime.fromtimestamp(job.created_s, UTC) if job.created_s else None,
            datetime.fromtimestamp(job.expires_s, UTC) if job.expires_s else None,
            job.finished.size,
            job.finished.sha256.hex(),
            job.failure.text,
            job.failure.reason,
        )

    def plain(self) -> dict[str, Any]:
        """For JSON; times as ISO 8601, or null."""
        plain = asdict(self)
        for key in ("created", "expires"):
            plain[key] = plain[key].isoformat() if plain[key] else None
        return plain

    def error(self) -> errors.KinochromeError | None:
        """What a job that came to a bad end stands for; None of any other."""
        if self.state == State.FAILED:
            stated = errors.BY_REASON.get(self.failure_reason, errors.ServerFailed)
            return stated(self.failure or f"job {self.id} failed, and the server does not say why")
        if self.state == State.CANCELLED:
            return errors.Cancelled(f"job {self.id} was cancelled on the server")
        return None


@dataclass(frozen=True)
class Progress:
    """How far a film is that is coloured on a server."""

    job: Job
    film_size: int
    """Bytes of the film; of one that is not sent from here, as many as the server has."""
    uploaded: int
    """Bytes of the film that are safe on the server."""
    downloaded: int
    """Bytes of the coloured film that are here."""
    trouble: str = ""
    """Why nothing moves just now: the line is being tried again. Empty when all is well."""


@dataclass(frozen=True)
class Coloured:
    """A film that was coloured and is here, proven by its SHA-256."""

    out: Path
    """Of MP4 and MOV its index was moved to the front after the proof, so that it plays while it still arrives."""
    frames: int
    size: int
    """Bytes of the coloured film as it came over the wire."""
    sha256: str
    """Of the coloured film as it came over the wire, hexadecimal."""
    job_id: str
