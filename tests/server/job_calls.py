"""Jobs by the bare stub: what any client in any language has to do, without retries of its own."""

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc

WAIT_S = 120
"""Longest wait for anything."""
ENDED = (wire.JOB_STATE_DONE, wire.JOB_STATE_FAILED, wire.JOB_STATE_CANCELLED)


@dataclass
class Calls:
    """A caller of a server."""

    stub: wire_grpc.ColorizerServiceStub
    metadata: tuple[tuple[str, str | bytes], ...] = ()

    def create(self, settings: wire.Settings | None = None, **fields: Any) -> wire.Job:
        request = wire.CreateJobRequest(
            **{"request_id": str(uuid.uuid4()), "settings": settings or wire.Settings(), **fields}
        )
        return self.stub.CreateJob(request, timeout=WAIT_S, metadata=self.metadata).job

    def get(self, job_id: str) -> wire.Job:
        return self.stub.GetJob(wire.GetJobRequest(job_id=job_id), timeout=WAIT_S, metadata=self.metadata).job

    def upload(self, job_id: str, data: bytes, offset: int = 0, piece: int = 256 * 1024) -> int:
        """Upload from an offset on to the end of `data`; gives what is safe then."""
        uploaded = offset
        for response in self.stub.UploadFilm(pieces(job_id, data, offset, piece), timeout=WAIT_S):
            uploaded = response.uploaded
        return uploaded

    def commit(self, job_id: str, data: bytes) -> wire.Job:
        request = wire.CommitFilmRequest(job_id=job_id, size=len(data), sha256=hashlib.sha256(data).digest())
        return self.stub.CommitFilm(request, timeout=WAIT_S).job

    def sent(self, data: bytes, settings: wire.Settings | None = None, **fields: Any) -> str:
        """A job with its whole film; gives its id."""
        job = self.create(settings, **fields)
        assert self.upload(job.id, data) == len(data)
        self.commit(job.id, data)
        return job.id

    def watch(self, job_id: str) -> Iterator[wire.Job]:
        for response in self.stub.WatchJob(wire.WatchJobRequest(job_id=job_id), timeout=WAIT_S):
            yield response.job

    def ended(self, job_id: str) -> wire.Job:
        """Wait for its end."""
        job = None
        for job in self.watch(job_id):  # noqa: B007
            pass
        assert job is not None and job.state in ENDED
        return job

    def download(self, job_id: str, film: bytearray, stop_at: int | None = None) -> wire.Finished | None:
        """Carry on a download; with `stop_at`, leave once so many bytes are there."""
        call = self.stub.DownloadFilm(wire.DownloadFilmRequest(job_id=job_id, offset=len(film)), timeout=WAIT_S)
        try:
            for response in call:
                if response.HasField("finished"):
                    return response.finished
                assert google_crc32c.value(response.media.data) == response.media.crc32c
                put(film, response.media)
                if stop_at is not None and len(film) >= stop_at:
                    return None
        finally:
            call.cancel()
        raise AssertionError("a download ended without `finished`")

    def fetched(self, job_id: str) -> bytes:
        """The whole coloured film, proven."""
        film = bytearray()
        finished = self.download(job_id, film)
        assert finished is not None
        assert (finished.size, finished.sha256) == (len(film), hashlib.sha256(film).digest())
        return bytes(film)

    def cancel(self, job_id: str) -> wire.Job:
        return self.stub.CancelJob(wire.CancelJobRequest(job_id=job_id), timeout=WAIT_S).job

    def delete(self, job_id: str) -> None:
        self.stub.DeleteJob(wire.DeleteJobRequest(job_id=job_id), timeout=WAIT_S)

    def jobs(self, page_size: int = 0, page_token: str = "") -> wire.ListJobsResponse:
        return self.stub.ListJobs(wire.ListJobsRequest(page_size=page_size, page_token=page_token), timeout=WAIT_S)


@contextmanager
def calling(address: str) -> Iterator[Calls]:
    """A caller of the server at an address."""
    with grpc.insecure_channel(address) as channel:
        yield Calls(wire_grpc.ColorizerServiceStub(channel))


def pieces(job_id: str, data: bytes, offset: int = 0, piece: int = 256 * 1024) -> Iterator[wire.UploadFilmRequest]:
    """An upload's messages."""
    for start in range(offset, len(data), piece):
        part = data[start : start + piece]
        yield wire.UploadFilmRequest(job_id=job_id, offset=start, data=part, crc32c=google_crc32c.value(part))


def put(film: bytearray, media: wire.Media) -> None:
    """Bytes of a coloured film at their place."""
    assert media.offset <= len(film), "a hole"
    film[media.offset : media.offset + len(media.data)] = media.data


@dataclass(frozen=True)
class Refusal:
    """What a call was refused with."""

    code: grpc.StatusCode
    text: str
    reason: str
    field: str
    retry_s: float | None


@contextmanager
def refused() -> Iterator[list[Refusal]]:
    """Of calls that must be refused: yields a list that then holds how."""
    found: list[Refusal] = []
    try:
        yield found
    except grpc.RpcError as error:
        call: Any = error
        status = rpc_status.from_call(call)
        assert status is not None, f"no google.rpc.Status: {error}"
        reason, field, retry_s = "", "", None
        for detail in status.details:
            info, bad, retry = (
                error_details_pb2.ErrorInfo(),
                error_details_pb2.BadRequest(),
                error_details_pb2.RetryInfo(),
            )
            if detail.Unpack(info):
                assert info.domain == "kinochrome"
                reason = info.reason
            elif detail.Unpack(bad):
                field = bad.field_violations[0].field
            elif detail.Unpack(retry):
                retry_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        found.append(Refusal(call.code(), status.message, reason, field, retry_s))
    else:
        raise AssertionError("the call was not refused")


def coloured_here(film: Path, container: str = "mp4") -> bytes:
    """What an undisturbed run in this process makes of a film."""
    from kinochrome_server.pipeline import Settings, colorize
    from kinochrome_server.sources import FileSource

    out = film.with_name(f"{film.name}.local")
    with out.open("wb") as sink:
        colorize(FileSource(film), sink, Settings(container=container))
    return out.read_bytes()
