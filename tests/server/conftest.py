"""What tests share: workers, for starting them takes most of a short film's time, and a server among strangers."""

import re
from collections.abc import Iterator

import grpc
import pytest

from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_server import tokens
from kinochrome_server.pool import WorkerPool
from tests.server import colouring, serving
from tests.server.guarded import IDLE_S, Guarded, piece


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def shared_workers(pool: WorkerPool) -> None:
    """For films that `colouring.run` colours."""
    colouring.POOL = pool


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "tokens"
    known = {name: tokens.add(file, name) for name in ("alice", "bob", "mallory")}
    options = ["--tokens", str(file), "--metrics", "127.0.0.1:0", "--log-format", "json"]
    options += ["--upload-idle", f"{IDLE_S}s", "--owner-jobs", "50"]
    with serving.running(folder, *options) as server:
        said = "".join(server.said)
        found = re.search(r"http://(127\.0\.0\.1:\d+)/metrics", said)
        assert found, said
        yield Guarded(server, file, known, found[1])


@pytest.fixture
def alices(guarded: Guarded) -> Iterator[str]:
    """A job of alice that is being uploaded; gone afterwards."""
    with grpc.insecure_channel(guarded.address) as channel:
        stub, metadata = guarded.stub(channel), guarded.metadata("alice")
        job = stub.CreateJob(wire.CreateJobRequest(request_id="a" * 32), metadata=metadata).job
        list(stub.UploadFilm(iter([piece(job.id)]), metadata=metadata))
        yield job.id
        stub.DeleteJob(wire.DeleteJobRequest(job_id=job.id), metadata=metadata)
