"""A server among strangers: each attack ends with the right code, and leaves nothing behind."""

import hashlib
import json
import os
import random
import re
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from kinochrome_client import Client
from kinochrome_client.access import Access
from kinochrome_proto.errors import NoSuchJob, NotAllowed
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc
from kinochrome_server import tokens
from tests import films
from tests.films import Kind
from tests.server import serving
from tests.server.certificates import DAY, Authority

SERVICE = wire.DESCRIPTOR.services_by_name["ColorizerService"]
METHODS = {method.name: method for method in SERVICE.methods}
IDLE_S = 2
OF_A_JOB = ("GetJob", "CommitFilm", "WatchJob", "DownloadFilm", "CancelJob", "UploadFilm")


@dataclass(frozen=True)
class Guarded:
    """A server with tokens."""

    server: serving.Server
    file: Path
    tokens: dict[str, str]
    figures: str
    """Address of its metrics."""

    @property
    def address(self) -> str:
        return self.server.address

    def metadata(self, owner: str) -> Any:
        return Access(self.address, token=self.tokens[owner]).metadata

    def stub(self, channel: grpc.Channel) -> Any:
        return wire_grpc.ColorizerServiceStub(channel)

    def jobs_on_disk(self) -> list[str]:
        return sorted(entry.name for entry in (self.server.spool / "jobs").iterdir())

    def is_well(self) -> bool:
        with grpc.insecure_channel(self.address) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def scraped(self) -> dict[tuple[str, ...], float]:
        """Samples by name and values of their labels."""
        with urllib.request.urlopen(f"http://{self.figures}/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


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


def code_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """Of a call, or of a stream read to its end."""
    try:
        answer = call()
        if hasattr(answer, "__next__"):
            for _ in answer:
                pass
    except grpc.RpcError as error:
        failure: Any = error
        return failure.code(), failure.details()
    return grpc.StatusCode.OK, ""


def piece(job_id: str, data: bytes = b"film", offset: int = 0) -> wire.UploadFilmRequest:
    return wire.UploadFilmRequest(job_id=job_id, offset=offset, data=data, crc32c=google_crc32c.value(data))


def about_job(stub: Any, method: str, job_id: str, metadata: Any) -> Callable[[], Any]:
    request = piece(job_id) if method == "UploadFilm" else getattr(wire, f"{method}Request")(job_id=job_id)
    given = iter([request]) if method == "UploadFilm" else request
    return lambda: getattr(stub, method)(given, timeout=20, metadata=metadata)


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


@pytest.fixture
def alices(guarded: Guarded) -> Iterator[str]:
    """A job of alice that is being uploaded; gone afterwards."""
    with grpc.insecure_channel(guarded.address) as channel:
        stub, metadata = guarded.stub(channel), guarded.metadata("alice")
        job = stub.CreateJob(wire.CreateJobRequest(request_id="a" * 32), metadata=metadata).job
        list(stub.UploadFilm(iter([piece(job.id)]), metadata=metadata))
        yield job.id
        stub.DeleteJob(wire.DeleteJobRequest(job_id=job.id), metadata=metadata)


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


# ---- messages that are none


def raw(channel: grpc.Channel, method: str) -> Callable[[Iterable[bytes], Any], Any]:
    """A call of a method with bytes in the place of messages."""
    about = METHODS[method]
    place = f"{'stream' if about.client_streaming else 'unary'}_{'stream' if about.server_streaming else 'unary'}"
    call = getattr(channel, place)(f"/{SERVICE.full_name}/{method}")

    def do(messages: Iterable[bytes], metadata: Any) -> Any:
        given = iter(list(messages)) if about.client_streaming else next(iter(messages))
        return call(given, metadata=metadata, timeout=30)

    return do


def samples(job_id: str) -> dict[str, list[Message]]:
    """Messages that a method understands."""
    look = wire.Look(saturation=1.2, warmth=-0.5, seed=7, references=[b"\x89PNG\r\n\x1a\n" + bytes(20)])
    settings = wire.Settings(codec="h264", container="mkv", crf=20, look=look, from_us=1000, to_us=2000)
    return {
        "GetServerInfo": [wire.GetServerInfoRequest()],
        "CreateJob": [wire.CreateJobRequest(request_id="c" * 32, settings=settings, film_size=1000, priority=3)],
        "GetJob": [wire.GetJobRequest(job_id=job_id)],
        "ListJobs": [wire.ListJobsRequest(page_size=5, page_token="17")],
        "UploadFilm": [piece(job_id), piece("", b"more", 4), piece(job_id, bytes(5000), 8)],
        "CommitFilm": [wire.CommitFilmRequest(job_id=job_id, size=4, sha256=bytes(32))],
        "WatchJob": [wire.WatchJobRequest(job_id=job_id)],
        "DownloadFilm": [wire.DownloadFilmRequest(job_id=job_id, offset=3)],
        "CancelJob": [wire.CancelJobRequest(job_id=job_id)],
        "DeleteJob": [wire.DeleteJobRequest(job_id=job_id)],
        "Colorize": [
            wire.ColorizeRequest(settings=settings),
            wire.ColorizeRequest(film=b"\x1aE\xdf\xa3" + bytes(60)),
            wire.ColorizeRequest(film=b"more"),
        ],
    }


def mutated(message: bytes, chance: random.Random) -> bytes:
    """One to four random changes."""
    data = bytearray(message)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : at + chance.randint(1, 8)]
            case 2:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            case 3:
                data[at:at] = data[at : at + chance.randint(1, 40)]
            case 4:  # a field that nobody knows, or a length that cannot be
                data[at:at] = bytes([chance.randrange(256)]) + b"\xff" * chance.randint(1, 9) + b"\x7f"
            case _:
                data = bytearray(chance.randbytes(chance.randint(0, 60)))
    return bytes(data)


STRANGE: dict[int, list[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: [0, -1, 1, 11, 2**31 - 1, -(2**31)],
    FieldDescriptor.CPPTYPE_INT64: [0, -1, 1, 2**40, 2**63 - 1, -(2**63)],
    FieldDescriptor.CPPTYPE_UINT32: [0, 1, 2**32 - 1],
    FieldDescriptor.CPPTYPE_DOUBLE: [0.0, -0.0, 1e308, -1e308, float("nan"), float("inf"), 5e-324],
    FieldDescriptor.CPPTYPE_BOOL: [True, False],
    FieldDescriptor.CPPTYPE_STRING: [
        "",
        "..",
        "/etc/passwd",
        "\x00",
        "é" * 40,
        "x" * 70_000,
        "-1",
        "%n",
        "\u202e",
        "9" * 40,
    ],
}


def make_strange(message: Any, chance: random.Random) -> None:
    """Give one of its fields what it can hold, and should not."""
    if not message.DESCRIPTOR.fields:
        return
    field = chance.choice(message.DESCRIPTOR.fields)
    if field.message_type is not None:
        inner = getattr(message, field.name)
        inner.SetInParent()
        return make_strange(inner, chance)
    value = chance.choice(STRANGE[field.cpp_type])
    if field.type == FieldDescriptor.TYPE_BYTES:
        value = value.encode()
    if field.is_repeated:
        getattr(message, field.name).extend([value] * chance.randint(1, 50))
    else:
        setattr(message, field.name, value)


UNDERSTOOD = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,  # of a job that an earlier message cancelled
}
MESSAGES = int(os.environ.get("KINOCHROME_MUTATIONS", "1000"))
"""Calls of each method with mutated messages."""


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_mutated_messages_are_understood_or_refused(guarded: Guarded, method: str, tmp_path: Path) -> None:
    """Seeded: but for the ids of jobs the same thousand calls every time. No traceback, nothing left in the spool."""
    chance = random.Random(f"kinochrome {method}")
    metadata = guarded.metadata("mallory")
    said = len(guarded.server.said)
    codes: dict[str, int] = {}
    with grpc.insecure_channel(guarded.address) as channel:
        stub, call = guarded.stub(channel), raw(channel, method)
        job_id = ""

        def clear() -> None:
            for job in stub.ListJobs(wire.ListJobsRequest(), metadata=metadata, timeout=30).jobs:
                stub.DeleteJob(wire.DeleteJobRequest(job_id=job.id), metadata=metadata, timeout=30)

        def made() -> str:
            create = wire.CreateJobRequest(request_id=f"{chance.getrandbits(128):032x}")
            return str(stub.CreateJob(create, metadata=metadata, timeout=30).job.id)

        for number in range(MESSAGES):
            if method == "DownloadFilm":  # of one that is done: of others it would wait
                job_id = job_id or done(stub, metadata, made(), films.make(tmp_path, Kind("film.mkv", frames=8)))
            elif number % 40 == 0:
                clear()
                job_id = made()
            whole = samples(job_id)[method]
            at = chance.randrange(len(whole))
            if is_well_formed := chance.random() < 0.5:
                make_strange(whole[at], chance)
            messages = [message.SerializeToString() for message in whole]
            if not is_well_formed:
                messages[at] = mutated(messages[at], chance)
            code, details = watched(call, messages, metadata)
            codes[code.name] = codes.get(code.name, 0) + 1
            assert code in UNDERSTOOD, (number, messages, code, details)
            assert "\n" not in details, (number, messages, details)
        clear()
    print(method, codes)
    assert sum(codes.values()) == MESSAGES
    assert guarded.jobs_on_disk() == []
    assert guarded.is_well() and guarded.server.process.poll() is None
    log = "".join(guarded.server.said[said:])
    assert "Traceback" not in log, log[-5000:]


def done(stub: Any, metadata: Any, job_id: str, film: Path) -> str:
    """Have a job's film coloured."""
    data = film.read_bytes()
    for _ in stub.UploadFilm(iter([piece(job_id, data)]), metadata=metadata, timeout=30):
        pass
    commit = wire.CommitFilmRequest(job_id=job_id, size=len(data), sha256=hashlib.sha256(data).digest())
    stub.CommitFilm(commit, metadata=metadata, timeout=30)
    *_, last = stub.WatchJob(wire.WatchJobRequest(job_id=job_id), metadata=metadata, timeout=60)
    assert last.job.state == wire.JOB_STATE_DONE
    return job_id


def watched(call: Callable[..., Any], messages: list[bytes], metadata: Any) -> tuple[grpc.StatusCode, str]:
    """A call's code; one that goes on saying things is cancelled at the first, and counts as OK."""
    stream = None
    try:
        stream = call(messages, metadata)
        if hasattr(stream, "__next__"):
            for _ in stream:
                if len(messages) == 1:
                    break
    except grpc.RpcError as error:
        failure: Any = error
        return failure.code(), failure.details()
    finally:
        if cancel := getattr(stream, "cancel", None):
            cancel()
    return grpc.StatusCode.OK, ""


# ---- what the server says of itself


def test_the_log_is_json_and_names_jobs_and_owners(guarded: Guarded, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=8))
    with Client(guarded.address, token=guarded.tokens["bob"]) as client:
        job_id = client.colorize(film, tmp_path / "out.mkv").job_id
    for _ in range(100):
        records = list(map(json.loads, guarded.server.said))  # every line
        if any(record.get("job") == job_id for record in records):
            break
        time.sleep(0.05)
    of_job = [record for record in records if record.get("job") == job_id]
    assert of_job and {record["owner"] for record in of_job} == {"bob"}
    assert all(record["level"] in ("info", "warning") for record in of_job)


def test_no_token_is_ever_logged(guarded: Guarded) -> None:
    log = "".join(guarded.server.said)
    assert not any(token in log or token.removeprefix("kc_") in log for token in guarded.tokens.values())


def test_the_figures_count_a_film(guarded: Guarded, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=60))
    bad = tmp_path / "bad.mkv"
    bad.write_bytes(b"to be or not to be\n" * 1000)
    before = guarded.scraped()
    with Client(guarded.address, token=guarded.tokens["bob"]) as client:
        client.colorize(film, tmp_path / "out.mkv")
        with pytest.raises(Exception, match="is not a film"):
            client.colorize(bad, tmp_path / "bad.out.mkv")

    def grown(*name: str) -> float:
        return guarded.scraped().get(name, 0.0) - before.get(name, 0.0)

    for name, least, most in (
        (("kinochrome_frames_total",), 60, 60),
        (("kinochrome_batch_frames_total",), 60, 200),  # a segment paints its neighbours' frames too
        (("kinochrome_batches_total",), 4, 100),
        (("kinochrome_received_bytes_total",), film.stat().st_size, film.stat().st_size + bad.stat().st_size),
        (("kinochrome_sent_bytes_total",), (tmp_path / "out.mkv").stat().st_size, 1 << 24),
        (("kinochrome_jobs_ended_total", "DONE"), 1, 1),
        (("kinochrome_jobs_ended_total", "FAILED"), 1, 1),
        (("kinochrome_failures_total", "BAD_FILM"), 1, 1),
        (("kinochrome_calls_total", "OK", "CreateJob"), 2, 2),
    ):
        assert least <= grown(*name) <= most, (name, grown(*name))
    for stage in ("decode", "colour", "encode"):
        assert grown("kinochrome_stage_seconds_count", stage) >= 1
    after = guarded.scraped()
    assert after["kinochrome_ready",] == 1 and after["kinochrome_spool_limit_bytes",] == 100 << 30
    assert after["kinochrome_batch_fill_count",] == after["kinochrome_batches_total",]


def test_running_as_root_is_warned_of(guarded: Guarded) -> None:
    assert any("running as root" in line for line in guarded.server.said) == (os.geteuid() == 0)


def services(address: str, metadata: Any = ()) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (answer,) = stub.ServerReflectionInfo(asked, timeout=10, metadata=metadata)
        return [service.name for service in answer.list_services_response.service]


def test_reflection_is_off(guarded: Guarded) -> None:
    code, _ = code_of(lambda: services(guarded.address, guarded.metadata("alice")))
    assert code == grpc.StatusCode.UNIMPLEMENTED


def test_with_tls_mutual_and_tokens_a_film_comes_through_and_others_do_not(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "pki"), Authority(tmp_path / "other", "stranger")
    server_pair, alice = authority.pair("server"), authority.pair("alice")
    token = tokens.add(tmp_path / "tokens", "alice")
    (tmp_path / "token").write_text(token + "\n")
    film = films.make(tmp_path, Kind("film.mkv", frames=8))
    options = ["--tls-cert", server_pair.cert, "--tls-key", server_pair.key, "--tls-client-ca", authority.cert]
    options += ["--tokens", tmp_path / "tokens", "--reflection"]
    with serving.running(tmp_path, *map(str, options)) as server:

        def colorize(*given: object) -> "subprocess.CompletedProcess[str]":
            verb = [serving.KINOCHROME, "colorize", film, "-o", tmp_path / "out.mkv", "--server", server.address]
            command = [*map(str, [*verb, "--patience", "1", *given])]
            return subprocess.run(command, capture_output=True, text=True, timeout=120)

        ca = ["--tls-ca", authority.cert]
        shown = ["--tls-cert", alice.cert, "--tls-key", alice.key]
        expired = authority.pair("old", since=-2 * DAY, until=-timedelta(hours=1))
        foreign = other.pair("alice")
        for given, words in (
            ([], "hangs up at once: does it want TLS"),
            ([*ca], "hangs up at once: does it want TLS"),
            (["--tls-ca", other.cert, *shown], "is not trusted, has expired or is another host's: see --tls-ca"),
            ([*ca, *shown, "--tls-name", "films.example.org"], "is not trusted, has expired or is another host's"),
            ([*ca, "--tls-cert", expired.cert, "--tls-key", expired.key], "or a certificate (--tls-cert, --tls-key)?"),
            ([*ca, "--tls-cert", foreign.cert, "--tls-key", foreign.key], "or a certificate (--tls-cert, --tls-key)?"),
            ([*ca, *shown], "wants a token"),
        ):
            refused = colorize(*given)
            assert refused.returncode == 1 and words in refused.stderr, (given, refused.stderr)
            assert refused.stderr.strip().count("\n") == 0
        done = colorize(*ca, *shown, "--token-file", tmp_path / "token")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out.mkv").stat().st_size > 0
        with (
            Client(server.address, token=token, tls_ca=authority.cert, cert=alice.cert, key=alice.key) as client,
            pytest.raises(NoSuchJob),
        ):
            client.cancel("0" * 32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--listen", "0.0.0.0:0"], "without TLS only this machine is served"),
        (["--listen", "0.0.0.0:0", "{tls}"], "would serve whoever comes: give --tokens or --tls-client-ca"),
        (["--tls-cert", "{cert}"], "--tls-key is missing"),
        (["--tls-cert", "{expired}", "--tls-key", "{expired key}"], "expired on"),
        (["--tokens", "nowhere"], "--tokens nowhere: No such file"),
        (["--metrics", "nowhere"], "--metrics takes HOST:PORT"),
        (["--traces", "nowhere"], "--traces takes http://HOST:PORT"),
        (["--log-format", "xml"], "--log-format takes text or json"),
    ],
)
def test_a_server_that_would_not_be_safe_is_refused_in_one_line(options: list[str], words: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    pair, expired = authority.pair("server"), authority.pair("old", since=-2 * DAY, until=-timedelta(hours=1))
    places = {"{cert}": pair.cert, "{key}": pair.key, "{expired}": expired.cert, "{expired key}": expired.key}
    given: list[str] = []
    for option in options:
        tls = ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]
        given += tls if option == "{tls}" else [str(places.get(option, option))]
    command = [str(serving.KINOCHROME), "serve", "--listen", "127.0.0.1:0", "--spool", str(tmp_path / "spool"), *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr and done.stderr.count("\n") == 1, done.stderr
