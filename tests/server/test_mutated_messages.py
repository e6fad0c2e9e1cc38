"""Messages that are none are refused, whatever the call, and leave nothing behind."""

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from tests import films
from tests.films import Kind
from tests.server.guarded import METHODS, Guarded, piece, raw


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
