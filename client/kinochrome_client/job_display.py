"""How a job on a server looks to people while it goes on, and what they are told when it breaks off."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kinochrome_proto.errors import (
    KinochromeError,
    NotAllowed,
    QuotaReached,
    ServerFailed,
    ServerFull,
    ServerUnreachable,
)

from .jobs import Job, Progress, State
from .progress import Display
from .siblings import local_errors
from .unfinished import folder_of, recorded


class Shown:
    """Shows a job on a display: call it with each `Progress`."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._begun = False
        self._engine = ""

    def __call__(self, progress: Progress) -> None:
        self._show(progress.job, _note(progress))

    def job(self, job: Job) -> None:
        """The same of a job that is only looked at."""
        self._show(job, _stand(job))

    def _show(self, job: Job, note: str) -> None:
        if job.engine != self._engine:
            self._engine = job.engine
            self._display.say(f"engine {job.engine}")
        if not self._begun and (job.frames or job.state == State.RUNNING):
            self._begun = True
            if not job.state.ended:  # the film of one that has ended is short, or was coloured before
                self._display.begin()
                self._display.skip(job.frames)
        self._display.update(job.frames, job.frames_expected, note)


def _note(progress: Progress) -> str:
    job = progress.job
    if progress.trouble:
        return f"{progress.trouble}: trying again"
    if progress.uploaded < progress.film_size:
        sent = f"sent {_share(progress.uploaded, progress.film_size)}"
        return f"{sent}, {_ahead(job)}" if job.ahead else sent
    if job.state == State.DONE:
        return f"fetched {_share(progress.downloaded, job.size)}"
    return _stand(job)


def _stand(job: Job) -> str:
    if job.state == State.UPLOADING:
        return f"sent {job.uploaded / 1e6:.1f} MB"
    if job.state == State.QUEUED:
        return _ahead(job)
    return ""


def _ahead(job: Job) -> str:
    return f"{job.ahead} before it" if job.ahead else "next"


def _share(part: int, whole: int) -> str:
    return f"{min(1.0, part / whole) if whole else 1.0:.0%}"


@contextmanager
def remote_errors(out: Path) -> Iterator[None]:
    """Like `local_errors`, for what is to become `out`: says what goes on at the server, and how to carry on."""
    with local_errors(lambda: how_to_go_on(out)):
        try:
            yield
        except (NotAllowed, QuotaReached, ServerFailed, ServerFull, ServerUnreachable) as error:
            if not folder_of(out).exists():
                raise
            raise type(error)(f"{error}; {how_to_go_on(out)}") from None


def how_to_go_on(out: Path) -> str:
    """What is left of the way to `out`, here and at the server."""
    try:
        record = recorded(out)
    except KinochromeError:
        record = None
    if record is None:
        return "nothing was left behind"
    if not record.job_id:
        return f"{folder_of(out)} is kept: the same command carries on"
    carry_on = f"the same command, or `kinochrome jobs resume {record.job_id}`, carries on"
    if record.film and not record.sent:
        return f"the film is not wholly sent yet: {carry_on}"
    return f"the job goes on at {record.server}: {carry_on}; `kinochrome jobs cancel {record.job_id}` would stop it"


def watched(changes: Iterator[Job], show: Callable[[Job], None]) -> Job:
    """Show a job until it has ended; return it then. Raises ServerFailed when nothing is said of it."""
    job = None
    for job in changes:
        show(job)
    if job is None:
        raise ServerFailed("the server says nothing of the job")
    return job
