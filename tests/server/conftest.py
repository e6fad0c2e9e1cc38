"""Workers that all tests of a process share: starting them takes most of a short film's time."""

from collections.abc import Iterator

import pytest

from kinochrome_server.pool import WorkerPool
from tests.server import colouring


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def shared_workers(pool: WorkerPool) -> None:
    """For films that `colouring.run` colours."""
    colouring.POOL = pool
