"""A server that colours nothing: it keeps the agreement of the wire, and breaks it where a test wants it to.

For faults that a real server cannot be made to show. Jobs are kept across `stop` and `start`, as on a disk.
"""

import hashlib
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NoReturn

import google_crc32c
import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc

HEADER, FINAL_HEADER = b"growing:", b"coloured"
CODES = {
    errors.NoSuchJob: grpc.StatusCode.NOT_FOUND,
    errors.WrongOffset: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DamagedOnTheWay: grpc.StatusCode.DATA_LOSS,
    errors.NotAllowed: grpc.StatusCode.UNAUTHENTICATED,
    errors.QuotaReached: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ServerFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.BadSettings: grpc.StatusCode.INVALID_ARGUMENT,
}
_FLIP = bytes(value ^ 0x55 for value in range(256))


def coloured(film: bytes) -> bytes:
    """What becomes of a film here."""
    return FINAL_HEADER + film.translate(_FLIP)


@dataclass
class FakeJob:
    """A film, and how it stands."""

    id: str
    priority: int = 0
    film: bytearray = field(default_factory=bytearray)
    state: "wire.JobState.ValueType" = wire.JOB_STATE_UPLOADING
    failure: wire.Failure | None = None
    ahead: int = 0

    def growing(self) -> bytes:
        """What has been appended to the coloured film."""
        return HEADER + bytes(self.film).translate(_FLIP) if self.film else b""

    def message(self) -> wire.Job:
        job = wire.Job(
            id=self.id,
            state=self.state,
            uploaded=len(self.film),
            coloured=len(self.growing()),
            ahead=self.ahead,
            priority=self.priority,
            engine="paint",
            created_s=1_700_000_000,
            expires_s=1_800_000_000,
            progress=wire.Progress(frames=len(self.film) // 1000, frames_expected=100),
            warnings=[wire.Warning(text="something to know")],
        )
        if self.state == wire.JOB_STATE_DONE:
            job.finished.CopyFrom(self.finished())
        if self.failure is not None:
            job.failure.CopyFrom(self.failure)
        return job

    def finished(self) -> wire.Finished:
        film = coloured(bytes(self.film))
        return wire.Finished(frames=len(self.film) // 1000, size=len(film), sha256=hashlib.sha256(film).digest())


class FakeServer(wire_grpc.ColorizerServiceServicer):
    """Use as a context manager: `start` and `stop` may be called in between."""

    def __init__(self, *, token: str = "") -> None:
        self.jobs: dict[str, FakeJob] = {}
        self.requests: dict[str, str] = {}
        """Job ids by request id."""
        self.refusals: dict[str, list[errors.KinochromeError | grpc.StatusCode]] = {}
        """What the next calls of a method, by name, end in instead."""
        self.calls: list[str] = []
        """Methods that were called, in order."""
        self.retry_s = 0.0
        """Of a RetryInfo with what is refused; 0: none."""
        self.after: dict[str, int] = {}
        """Bytes after which an upload or download, by method, breaks off; each once."""
        self.spoil: list[str] = []
        """Damage the next: "piece" of a download, whole "film" of it."""
        self.lose: set[str] = set()
        """Methods whose next answer is lost on the way, though all is done."""
        self.done = True
        """Whether jobs are done when they are committed."""
        self._token, self._port = token, 0
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> "FakeServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Serve; after a stop at the same address."""
        self.stopping = False
        self._threads = ThreadPoolExecutor(32)
        self._server = grpc.server(self._threads, options=[("grpc.so_reuseport", 0)])
        wire_grpc.add_ColorizerServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        self._server.start()

    def stop(self) -> None:
        """Break off all calls, and answer no more."""
        self.stopping = True
        with self._changed:
            self._changed.notify_all()
        self._server.stop(0).wait(10)
        self._threads.shutdown()

    def change(self, job: FakeJob, **values: Any) -> None:
        """Change a job, and tell who watches it."""
        with self._changed:
            for name, value in values.items():
                setattr(job, name, value)
            self._changed.notify_all()

    def GetServerInfo(self, request: wire.GetServerInfoRequest, context: Any) -> wire.GetServerInfoResponse:
        self._called("GetServerInfo", context)
        return wire.GetServerInfoResponse(version="0", engine="paint")

    def Colorize(self, request_iterator: Iterator[wire.ColorizeRequest], context: Any) -> NoReturn:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "jobs alone")
        raise AssertionError("abort returned")

    def CreateJob(self, request: wire.CreateJobRequest, context: Any) -> wire.CreateJobResponse:
        self._called("CreateJob", context)
        with self._changed:
            if request.request_id not in self.requests:
                job = FakeJob(f"job-{next(self._numbers)}", request.priority)
                self.jobs[job.id], self.requests[request.request_id] = job, job.id
            job = self._job(self.requests[request.request_id], context)
        self._perhaps_lost("CreateJob", context)
        return wire.CreateJobResponse(job=job.message())

    def GetJob(self, request: wire.GetJobRequest, context: Any) -> wire.GetJobResponse:
        self._called("GetJob", context)
        return wire.GetJobResponse(job=self._job(request.job_id, context).message())

    def ListJobs(self, request: wire.ListJobsRequest, context: Any) -> wire.ListJobsResponse:
        """Pages of one."""
        self._called("ListJobs", context)
        every = list(reversed(self.jobs.values()))
        place = int(request.page_token or 0)
        following = str(place + 1) if place + 1 < len(every) else ""
        return wire.ListJobsResponse(
            jobs=[job.message() for job in every[place : place + 1]], next_page_token=following
        )

    def UploadFilm(
        self, request_iterator: Iterator[wire.UploadFilmRequest], context: Any
    ) -> Iterator[wire.UploadFilmResponse]:
        self._called("UploadFilm", context)
        job, stop_after = None, self.after.pop("UploadFilm", None)
        for request in request_iterator:
            job = job or self._job(request.job_id, context)
            if job.state != wire.JOB_STATE_UPLOADING:
                self._abort(context, errors.WrongOffset("the film is committed"))
            if request.offset != len(job.film):
                self._abort(context, errors.WrongOffset(f"the upload is at {len(job.film)}"))
            if google_crc32c.value(request.data) != request.crc32c:
                self._abort(context, errors.DamagedOnTheWay("the piece is damaged"))
            self.change(job, film=job.film + request.data)
            yield wire.UploadFilmResponse(uploaded=len(job.film))
            if stop_after is not None and len(job.film) >= stop_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "broken off")

    def CommitFilm(self, request: wire.CommitFilmRequest, context: Any) -> wire.CommitFilmResponse:
        self._called("CommitFilm", context)
        job = self._job(request.job_id, context)
        if job.state == wire.JOB_STATE_UPLOADING:
            if (len(job.film), hashlib.sha256(job.film).digest()) != (request.size, request.sha256):
                self.change(job, film=bytearray())
                self._abort(context, errors.DamagedOnTheWay("the film is another than stated"))
            self.change(job, state=wire.JOB_STATE_DONE if self.done else wire.JOB_STATE_RUNNING)
        self._perhaps_lost("CommitFilm", context)
        return wire.CommitFilmResponse(job=job.message())

    def WatchJob(self, request: wire.WatchJobRequest, context: Any) -> Iterator[wire.WatchJobResponse]:
        self._called("WatchJob", context)
        told = None
        while not self.stopping and context.is_active():
            message = self._job(request.job_id, context).message()
            if message != told:
                told = message
                yield wire.WatchJobResponse(job=message)
            if message.state in (wire.JOB_STATE_DONE, wire.JOB_STATE_FAILED, wire.JOB_STATE_CANCELLED):
                return
            with self._changed:
                self._changed.wait(0.1)
        context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")

    def DownloadFilm(self, request: wire.DownloadFilmRequest, context: Any) -> Iterator[wire.DownloadFilmResponse]:
        self._called("DownloadFilm", context)
        job, at = self._job(request.job_id, context), request.offset
        stop_after = self.after.pop("DownloadFilm", None)
        spoil_film = "film" in self.spoil
        if spoil_film:
            self.spoil.remove("film")
        while not self.stopping and context.is_active():
            done, growing = job.state == wire.JOB_STATE_DONE, job.growing()
            if done and at > len(growing):
                self._abort(context, errors.WrongOffset(f"the film ends at {len(growing)}"))
            while at < len(growing):
                data = growing[at : at + 4096]
                yield self._media(at, bytes(len(data)) if spoil_film else data)
                at += len(data)
                if stop_after is not None and at >= stop_after:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "broken off")
            if done:
                yield self._media(0, FINAL_HEADER)
                yield wire.DownloadFilmResponse(finished=job.finished())
                return
            time.sleep(0.02)
        context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")

    def CancelJob(self, request: wire.CancelJobRequest, context: Any) -> wire.CancelJobResponse:
        self._called("CancelJob", context)
        job = self._job(request.job_id, context)
        if job.state != wire.JOB_STATE_DONE:
            self.change(job, state=wire.JOB_STATE_CANCELLED)
        return wire.CancelJobResponse(job=job.message())

    def DeleteJob(self, request: wire.DeleteJobRequest, context: Any) -> wire.DeleteJobResponse:
        self._called("DeleteJob", context)
        self.jobs.pop(request.job_id, None)
        return wire.DeleteJobResponse()

    def _media(self, offset: int, data: bytes) -> wire.DownloadFilmResponse:
        checksum = google_crc32c.value(data)
        if "piece" in self.spoil:
            self.spoil.remove("piece")
            data = bytes(len(data))
        return wire.DownloadFilmResponse(media=wire.Media(offset=offset, data=data, crc32c=checksum))

    def _called(self, method: str, context: Any) -> None:
        self.calls.append(method)
        if self._token and ("authorization", f"Bearer {self._token}") not in context.invocation_metadata():
            self._abort(context, errors.NotAllowed("the server does not know your token: see --token-file"))
        if waiting := self.refusals.get(method):
            refusal = waiting.pop(0)
            if isinstance(refusal, errors.KinochromeError):
                self._abort(context, refusal)
            context.abort(refusal, "as the test wants it")

    def _perhaps_lost(self, method: str, context: Any) -> None:
        if method in self.lose:
            self.lose.discard(method)
            context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")

    def _job(self, job_id: str, context: Any) -> FakeJob:
        if job_id not in self.jobs:
            self._abort(context, errors.NoSuchJob(f"there is no job {job_id}"))
        return self.jobs[job_id]

    def _abort(self, context: Any, error: errors.KinochromeError) -> NoReturn:
        details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain="kinochrome")]
        if self.retry_s:
            delay = duration_pb2.Duration(nanos=int(self.retry_s * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        packed = []
        for detail in details:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        code = CODES.get(type(error), grpc.StatusCode.INTERNAL)
        status = status_pb2.Status(code=code.value[0], message=str(error), details=packed)
        context.abort_with_status(rpc_status.to_status(status))
        raise AssertionError("abort returned")
