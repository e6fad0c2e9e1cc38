"""What is known of jobs, for people and as plain values."""

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import known_jobs
from .jobs import Job, State
from .models_report import listing as table

HEADING = ("id", "state", "frames", "film", "begun", "goes")


def plain(job: Job) -> dict[str, Any]:
    """For JSON: the job, and of one that was begun on this machine its film and output here."""
    known = known_jobs.find(job.id)
    return {**job.plain(), "film": known.film if known else None, "out": known.out if known else None}


def listing(jobs: Sequence[Job]) -> None:
    """Print a table of jobs."""
    if not jobs:
        print("no jobs")
        return
    rows = []
    for job in jobs:
        known = known_jobs.find(job.id)
        film = known.film.rpartition("/")[2] if known else ""
        rows.append([job.id, _state(job), _frames(job), film, _when(job.created), _when(job.expires)])
    table(HEADING, rows)


def show(job: Job) -> None:
    """Print how a job stands."""
    rows = Table(box=None, show_header=False)
    rows.add_column(style="dim")
    rows.add_column(overflow="fold")
    for key, value in _rows(job):
        rows.add_row(Text(key), Text(value))
    Console(width=None if sys.stdout.isatty() else 160).print(rows)


def _rows(job: Job) -> Iterator[tuple[str, str]]:
    yield "job", job.id
    yield "state", _state(job)
    if job.failure:
        yield "why", job.failure
    if known := known_jobs.find(job.id):
        yield "film", known.film or "sent from elsewhere"
        yield "output", known.out
    yield "sent", f"{job.uploaded / 1e6:.1f} MB"
    yield "frames", _frames(job)
    yield "coloured", f"{job.coloured / 1e6:.1f} MB"
    if job.sha256:
        yield "sha256", job.sha256
    if job.engine:
        yield "engine", job.engine
    if job.priority:
        yield "priority", f"{job.priority:+d}"
    yield "begun", _when(job.created)
    yield "goes", _when(job.expires)
    for warning in job.warnings:
        yield "warning", warning


def _state(job: Job) -> str:
    ahead = f", {job.ahead} before it" if job.ahead and not job.state.ended else ""
    return f"{job.state}{ahead}"


def _frames(job: Job) -> str:
    expected = f" of {job.frames_expected}" if job.frames_expected and job.state != State.DONE else ""
    return f"{job.frames}{expected}"


def _when(time: datetime | None) -> str:
    """A time near to now, in words."""
    if time is None:
        return ""
    seconds = (time - datetime.now(UTC)).total_seconds()
    span = abs(seconds)
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if span >= 2 * unit or unit == 1:
            words = f"{span / unit:.0f} {name}"
            break
    return f"in {words}" if seconds > 0 else f"{words} ago"
