"""On whose behalf something is done: what logs and traces say of it, and what an owner's rights are held against.

with about(job.id, job.owner):     # in the thread or task that works for a job
    log.info("coloured %d frames", frames)
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar, Token
from typing import Any

LOCAL = "local"
"""The owner where callers are not told apart: a loopback server without tokens and client certificates."""

owner: ContextVar[str] = ContextVar("owner", default=LOCAL)
"""Who called: a token's name, or a client certificate's subject."""
job: ContextVar[str] = ContextVar("job", default="")
"""The id of the job that is worked for. A thread of its own begins without one, and with the owner LOCAL."""


@contextlib.contextmanager
def about(job_id: str, owner_name: str | None = None) -> Iterator[None]:
    """What is done meanwhile, in this thread or task, is about this job.

    Args:
        job_id: the job; "" where it has none.
        owner_name: its owner, "" where that is not known here; by default it stays who it is.
    """
    before, was = job.set(job_id), owner.set(owner.get() if owner_name is None else owner_name)
    try:
        yield
    finally:
        _reset(owner, was)
        _reset(job, before)


def _reset(variable: "ContextVar[str]", token: "Token[Any]") -> None:
    # A generator that is thrown away ends in another context than it began in: there is nothing to put back there.
    with contextlib.suppress(ValueError):
        variable.reset(token)
