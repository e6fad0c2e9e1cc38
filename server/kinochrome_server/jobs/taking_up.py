"""Jobs as an earlier server left them, however it ended: what the database and the disk say, brought together."""

import contextlib
import logging
import time

from kinochrome_proto import errors

from .folders import Spool
from .job import CANCELLED, DONE, FAILED, QUEUED, UPLOADING, Job
from .store import Store

MOST_DEATHS = 20
"""Servers that may die in mid-job, one after the other, with not one segment more: then the job is given up."""
WARY_DEATHS = 5
"""From so many on the job waits longer each time: if it is its film that kills them, others get done meanwhile."""

log = logging.getLogger(__name__)


def take_up(store: Store, spool: Spool) -> tuple[list[Job], list[str]]:
    """The jobs that go on, and the ids of those that are to be forgotten. Blocks. Nothing else is left in the spool."""
    jobs: list[Job] = []
    forgotten: list[str] = []
    for row in store.jobs():
        job = Job.of(row, spool.job(row["id"]))
        if not job.passing and _goes_on(job, was_running=bool(row["running"])):
            jobs.append(job)
        else:
            forgotten.append(job.id)
    kept = {job.id for job in jobs if job.state not in (FAILED, CANCELLED)}
    for name in spool.sweep(kept):
        log.info("cleared away what a server left behind: %s", name)
    return jobs, forgotten


async def note(store: Store, job: Job) -> None:
    """Bring the database up to what was found."""
    await store.update(
        job.id,
        state=job.state,
        reason=job.reason,
        failure=job.failure,
        running=0,
        deaths=job.deaths,
        segments=job.segments,
        uploaded=job.uploaded,
        touched_s=job.touched_s,
    )


def _goes_on(job: Job, *, was_running: bool) -> bool:
    if job.state == DONE:
        size = job.folder.coloured.stat().st_size if job.folder.coloured.exists() else -1
        if job.finished is None or size != job.finished.size:
            log.error("the coloured film is gone from the spool, or damaged", extra={"job": job.id})
            return False
        job.folder.only(job.folder.coloured)
    elif not job.has_ended:
        job.folder.make()
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
    if job.committed:
        source.finish()
    else:
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
