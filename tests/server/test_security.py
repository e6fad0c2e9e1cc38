"""A server among strangers: each attack ends with the right code, and leaves nothing behind."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kinochrome_client import Client
from kinochrome_proto.errors import NotAllowed
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_server import tokens
from tests import films
from tests.films import Kind
from tests.server.guarded import IDLE_S, METHODS, OF_A_JOB, Guarded, about_job, code_of, piece, raw


@pytest.mark.parametrize("method", METHODS)
def test_no_call_goes_without_a_token(guarded: Guarded, method: str) -> None:
    for metadata in ((), (("authorization", f"Bearer {tokens.new()}"),)):
        with grpc.insecure_channel(guarded.address) as channel:
            empty = getattr(wire, f"{method}Request")()
            given = iter([empty]) if METHODS[method].client_streaming else empty
            call = getattr(guarded.stub(channel), method)
            code, _ = code_of(lambda: call(given, timeout=20, metadata=metadata))  # noqa: B023
            assert code == grpc.StatusCode.UNAUTHENTICATED


def test_the_client_says_in_one_line_that_a_token_is_needed(guarded: Guarded, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4", frames=3))
    with Client(guarded.address) as client, pytest.raises(NotAllowed, match="wants a token"):
        client.colorize(film, tmp_path / "out.mp4")
    with Client(guarded.address, token=tokens.new()) as client, pytest.raises(NotAllowed, match="does not know"):
        client.colorize(film, tmp_path / "out.mp4")


@pytest.mark.parametrize("method", OF_A_JOB)
def test_anothers_job_does_not_exist(guarded: Guarded, alices: str, method: str) -> None:
    with grpc.insecure_channel(guarded.address) as channel:
        stub = guarded.stub(channel)
        theirs = code_of(about_job(stub, method, alices, guarded.metadata("mallory")))
        nobodys = code_of(about_job(stub, method, "0" * 32, guarded.metadata("mallory")))
    assert theirs[0] == nobodys[0] == grpc.StatusCode.NOT_FOUND
    assert theirs[1].replace(alices, "") == nobodys[1].replace("0" * 32, "")  # nothing tells them apart


def test_anothers_job_is_not_listed_deleted_or_stumbled_upon(guarded: Guarded, alices: str) -> None:
    with grpc.insecure_channel(guarded.address) as channel:
        stub = guarded.stub(channel)
        mallory, alice = guarded.metadata("mallory"), guarded.metadata("alice")
        assert not stub.ListJobs(wire.ListJobsRequest(), metadata=mallory).jobs
        assert [job.id for job in stub.ListJobs(wire.ListJobsRequest(), metadata=alice).jobs] == [alices]
        stub.DeleteJob(wire.DeleteJobRequest(job_id=alices), metadata=mallory)
        assert stub.GetJob(wire.GetJobRequest(job_id=alices), metadata=alice).job.uploaded == 4
        # The same request id is another job where it is another owner's.
        job = stub.CreateJob(wire.CreateJobRequest(request_id="a" * 32), metadata=mallory).job
        assert job.id != alices and job.uploaded == 0
        stub.DeleteJob(wire.DeleteJobRequest(job_id=job.id), metadata=mallory)


def test_a_revoked_token_ends_what_runs_under_it(guarded: Guarded) -> None:
    guarded.tokens["eve"] = tokens.add(guarded.file, "eve")
    with grpc.insecure_channel(guarded.address) as channel:
        stub, metadata = guarded.stub(channel), guarded.metadata("eve")
        job = stub.CreateJob(wire.CreateJobRequest(request_id="e" * 32), metadata=metadata).job
        watching = stub.WatchJob(wire.WatchJobRequest(job_id=job.id), metadata=metadata, timeout=30)
        assert next(watching).job.id == job.id
        uploading = stub.UploadFilm(iter([piece(job.id)]), metadata=metadata)
        list(uploading)
        before = guarded.file.read_text()
        guarded.file.write_text("".join(line for line in before.splitlines(True) if not line.startswith("eve:")))
        assert code_of(lambda: watching)[0] == grpc.StatusCode.UNAUTHENTICATED
        assert code_of(lambda: stub.ListJobs(wire.ListJobsRequest(), metadata=metadata))[0] == (
            grpc.StatusCode.UNAUTHENTICATED
        )
        guarded.file.write_text(before)  # eve is back, and so is her job
        stub.DeleteJob(wire.DeleteJobRequest(job_id=job.id), metadata=metadata)
    assert job.id not in guarded.jobs_on_disk()


TRICKS = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "/etc/passwd",
    "jobs/../lock",
    "{id}/../{id}",
    "{id}/",
    "./{id}",
    "{id}\x00",
    "{ID}",
    "{id}\n",
    "\u202e{id}",
    "a" * 100_000,
    "' or '1'='1",
    "${{jndi:ldap://127.0.0.1/a}}",
    "%s%s%s%n",
]


@pytest.mark.parametrize("method", OF_A_JOB)
def test_path_tricks_in_job_ids_find_nothing(guarded: Guarded, alices: str, method: str) -> None:
    before = guarded.jobs_on_disk()
    with grpc.insecure_channel(guarded.address) as channel:
        for trick in TRICKS:
            job_id = trick.replace("{id}", alices).replace("{ID}", alices.upper())
            code, details = code_of(about_job(guarded.stub(channel), method, job_id, guarded.metadata("alice")))
            assert code == grpc.StatusCode.NOT_FOUND or (job_id == "" and code == grpc.StatusCode.INVALID_ARGUMENT)
            assert "\n" not in details and len(details) < 1000
    assert guarded.jobs_on_disk() == before == [alices]


def test_path_tricks_elsewhere_are_refused(guarded: Guarded, tmp_path: Path) -> None:
    with grpc.insecure_channel(guarded.address) as channel:
        stub, metadata = guarded.stub(channel), guarded.metadata("mallory")
        for trick in TRICKS:
            create = wire.CreateJobRequest(request_id=trick)
            assert code_of(lambda: stub.CreateJob(create, metadata=metadata))[0] == (  # noqa: B023
                grpc.StatusCode.INVALID_ARGUMENT
            )
            if trick:
                listed = wire.ListJobsRequest(page_token=trick)
                assert code_of(lambda: stub.ListJobs(listed, metadata=metadata))[0] == (  # noqa: B023
                    grpc.StatusCode.INVALID_ARGUMENT
                )
                settings = wire.Settings(colorizer=trick[:1000])
                create = wire.CreateJobRequest(request_id="b" * 32, settings=settings)
                assert code_of(lambda: stub.CreateJob(create, metadata=metadata))[0] in (  # noqa: B023
                    grpc.StatusCode.NOT_FOUND,
                    grpc.StatusCode.INVALID_ARGUMENT,
                )
    assert guarded.jobs_on_disk() == []


def test_the_clients_file_name_is_used_nowhere(guarded: Guarded, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    film = films.make(tmp_path, Kind("film.mkv", frames=8))
    odd = film.rename(tmp_path / "in" / "..; touch owned $(id).mkv")
    with Client(guarded.address, token=guarded.tokens["bob"]) as client:
        client.colorize(odd, tmp_path / "out.mkv")
    spool = guarded.server.spool
    names = [entry.name for entry in spool.rglob("*")]
    assert not any("owned" in name or "touch" in name for name in names)
    assert b"owned" not in b"".join(entry.read_bytes() for entry in spool.rglob("*") if entry.is_file())
    assert "owned" not in "".join(guarded.server.said)


def test_the_spool_is_its_owners_alone(guarded: Guarded, alices: str) -> None:
    assert guarded.server.spool.stat().st_mode & 0o777 == 0o700
    others = [entry for entry in (guarded.server.spool / "jobs" / alices).rglob("*") if entry.stat().st_mode & 0o077]
    assert (guarded.server.spool / "jobs" / alices).stat().st_mode & 0o077 == 0 and not others


@pytest.mark.parametrize("method", METHODS)
def test_an_oversized_message_ends_its_call_and_nothing_else(guarded: Guarded, method: str) -> None:
    huge = b"\x0a" + b"\x80\x80\x80\x03" + bytes(6 << 20)
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(guarded.address, options=options) as channel:
        code, _ = code_of(lambda: raw(channel, method)([huge], guarded.metadata("mallory")))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert guarded.is_well()


def test_a_piece_that_is_too_large_is_refused(guarded: Guarded, alices: str) -> None:
    with grpc.insecure_channel(guarded.address) as channel:
        stub = guarded.stub(channel)
        request = piece(alices, bytes((1 << 20) + 1), offset=4)
        code, details = code_of(lambda: stub.UploadFilm(iter([request]), metadata=guarded.metadata("alice")))
        assert code == grpc.StatusCode.INVALID_ARGUMENT and "too large" in details
        assert stub.GetJob(wire.GetJobRequest(job_id=alices), metadata=guarded.metadata("alice")).job.uploaded == 4


def test_slow_uploads_are_ended_and_keep_nobody_waiting(guarded: Guarded, alices: str, tmp_path: Path) -> None:
    """One client says nothing, one sends a byte now and then, twenty open a connection and no call; another works."""
    host, _, port = guarded.address.rpartition(":")
    silent = [socket.create_connection((host, int(port)), timeout=60) for _ in range(20)]
    for line in silent[:10]:
        line.sendall(b"PRI * HTTP/2.0\r\n")
    stop = threading.Event()

    def trickle(data: bool) -> Iterator[wire.UploadFilmRequest]:
        yield piece(alices, b"", offset=4)
        offset = 4
        while not stop.wait(0.2):
            if data:
                yield piece(alices, b"x", offset)
                offset += 1

    with grpc.insecure_channel(guarded.address) as channel:
        stub, metadata = guarded.stub(channel), guarded.metadata("alice")
        for data in (False, True):
            began = time.monotonic()
            slow = stub.UploadFilm(trickle(data), metadata=metadata, timeout=60)
            film = films.make(tmp_path, Kind(f"film{data}.mkv", frames=8))
            with Client(guarded.address, token=guarded.tokens["bob"]) as client:
                assert client.colorize(film, tmp_path / f"out{data}.mkv").frames == 8
            code, details = code_of(lambda: slow)  # noqa: B023
            assert code == grpc.StatusCode.UNAVAILABLE and "stood still" in details
            assert IDLE_S - 0.5 < time.monotonic() - began < 30
    stop.set()
    for line in silent:
        while line.recv(1000):  # the server's own first words; then it hangs up
            pass
        line.close()
    assert guarded.is_well()
