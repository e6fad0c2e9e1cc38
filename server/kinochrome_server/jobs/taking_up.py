"""Jobs as an earlier server left them, however it ended: what the database and the disk say, brought together."""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from kinochrome_proto import errors

from .folders import Spool
from .job import CANCELLED, DONE, FAILED, QUEUED, UPLOADING, Job
from .store import Store

MOST_DEATHS = 20
"""Servers that may die in mid-job, one after the other, with not one segment more: then the job is given up."""
WARY_DEATHS = 5
"""From so many on the job waits longer each time, and is coloured alone: its film may be what kills them."""

_NOTED = ("state", "reason", "failure", "deaths", "segments", "uploaded", "touched_s")

log = logging.getLogger(__name__)


@dataclass
class Found:
    """What an earlier server left."""

    jobs: list[Job] = field(default_factory=list)
    """Those that go on."""
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By job: what the database is to know of it now."""
    forgotten: list[str] = field(default_factory=list)
    """Jobs that do not."""


def take_up(store: Store, spool: Spool) -> Found:
    """What an earlier server left; nothing else is in the spool afterwards. Blocks. Raises sqlite3.Error, OSError."""
    found = Found()
    for row in store.jobs():
        job = Job.of(row, spool.job(row["id"]))
        if not job.passing and _goes_on(job, was_running=bool(row["running"])):
            found.jobs.append(job)
            now = {name: getattr(job, name) for name in _NOTED} | {"running": 0}
            if changes := {name: value for name, value in now.items() if row[name] != value}:
                found.changes[job.id] = changes
        else:
            found.forgotten.append(job.id)
    kept = {job.id for job in found.jobs if job.state not in (FAILED, CANCELLED)}
    for name in spool.sweep(kept):
        log.info("cleared away what a server left behind: %s", name)
    return found


async def note(store: Store, found: Found) -> None:
    """Bring the database up to what was found. Raises sqlite3.Error."""
    if found.forgotten:
        await store.delete(found.forgotten)
    await asyncio.gather(*(store.update(job_id, **changes) for job_id, changes in found.changes.items()))


def _goes_on(job: Job, *, was_running: bool) -> bool:
    if job.state == DONE:
        size = job.folder.coloured.stat().st_size if job.folder.coloured.exists() else -1
        if job.finished is None or size != job.finished.size:
            log.error("the coloured film is gone from the spool, or damaged", extra={"job": job.id})
            return False
        job.folder.only(job.folder.coloured)
    elif not job.has_ended:
        if not job.folder.path.exists():
            log.warning("its folder is gone: it was ended or deleted", extra={"job": job.id})
            return False
        job.coloured, job.state = 0, QUEUED if job.committed else UPLOADING
        if error := _film_is_lost(job) or (_counted_death(job) if was_running else None):
            job.state, job.reason, job.failure, job.touched_s = FAILED, error.reason, str(error), time.time()
    return True


def _film_is_lost(job: Job) -> errors.KinochromeError | None:
    source = job.folder.source(job.film)
    job.folder.only(source.path, job.folder.journal)
    there = source.path.stat().st_size if source.path.exists() else 0
    if there < job.uploaded:
        log.error("%d of %d bytes of the film are left", there, job.uploaded, extra={"job": job.id})
        if job.committed:
            return errors.ServerFailed("the server lost the film: send it again")
        job.uploaded = there
    if not job.committed:
        job.streamable = None
    return None


def _counted_death(job: Job) -> errors.KinochromeError | None:
    """A server has died while it coloured the job."""
    job.deaths += 1
    with contextlib.suppress(OSError), (job.folder.journal / "journal").open("rb") as journal:
        segments = sum(1 for _ in journal) - 1
        if segments > job.segments:
            job.segments, job.deaths = segments, 0
    if job.deaths >= MOST_DEATHS:
        text = f"{job.deaths} servers died while they coloured it: it is given up, and their logs say why"
        return errors.ServerFailed(text)
    if job.deaths >= WARY_DEATHS:
        job.retry_at = time.monotonic() + min(60.0, 2.0 ** (job.deaths - WARY_DEATHS))
    return None
