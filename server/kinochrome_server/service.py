"""kinochrome.v1.ColorizerService: what comes over the wire, said to the jobs, and what they say back."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc

from . import callers, colorizers, metrics
from .about import about
from .codecs import CODECS, CONTAINERS
from .jobs import downloads, uploads
from .jobs.board import Board
from .jobs.job import QUEUED, Job
from .refusals import in_our_words, refuse

SERVICE = "kinochrome.v1.ColorizerService"
WATCH_S = 0.1
"""Least time between two reports of a job: what happens meanwhile is told together."""
PAGE, LARGEST_PAGE = 100, 1000
"""Jobs of a list."""
LARGEST_LIST = 2 << 20
"""Bytes of a list, more or less: clients take messages of 4 MiB, and jobs with many warnings are large."""

log = logging.getLogger(__name__)


class ColorizerService(wire_grpc.ColorizerServiceServicer):
    """Implements kinochrome.v1.ColorizerService. Who calls is known already: see `callers`."""

    def __init__(self, board: Board, engine: str) -> None:
        """
        Args:
            board: the jobs.
            engine: the one that colours all films; who serves chooses it, not who calls.
        """
        self._board, self._engine = board, engine
        self._infos: list[wire.ColorizerInfo] = []

    async def GetServerInfo(self, request: wire.GetServerInfoRequest, context: Any) -> wire.GetServerInfoResponse:
        del request, context
        if not self._infos:  # reading them costs too much to do it for whoever asks
            with _told():
                self._infos = await self._board.tasks.in_thread(_infos)
        return wire.GetServerInfoResponse(
            version=version("kinochrome"),
            engine=self._engine,
            colorizers=self._infos,
            codecs=list(CODECS),
            containers=list(CONTAINERS),
        )

    async def CreateJob(self, request: wire.CreateJobRequest, context: Any) -> wire.CreateJobResponse:
        del context
        with _told():
            job = await self._board.create(callers.owner.get(), request)
            return wire.CreateJobResponse(job=self._board.message(job))

    async def GetJob(self, request: wire.GetJobRequest, context: Any) -> wire.GetJobResponse:
        del context
        return wire.GetJobResponse(job=self._board.message(self._find(request.job_id)))

    async def ListJobs(self, request: wire.ListJobsRequest, context: Any) -> wire.ListJobsResponse:
        del context
        if request.page_size < 0:
            raise errors.BadSettings(f"page_size is negative: {request.page_size}").at("page_size")
        if request.page_token and not (request.page_token.isascii() and request.page_token.isdecimal()):
            raise errors.BadSettings("page_token is none that this server gave").at("page_token")
        most = min(request.page_size or PAGE, LARGEST_PAGE)
        before = int(request.page_token[:18]) if request.page_token else None
        jobs = [job for job in self._board.of_owner(callers.owner.get()) if before is None or job.seq < before]
        page, size = wire.ListJobsResponse(), 0
        for job in jobs[:most]:
            page.jobs.append(self._board.message(job))
            size += page.jobs[-1].ByteSize()
            if size > LARGEST_LIST:
                break
        if len(page.jobs) < len(jobs):
            page.next_page_token = str(jobs[len(page.jobs) - 1].seq)
        return page

    async def UploadFilm(
        self, requests: AsyncIterator[wire.UploadFilmRequest], context: Any
    ) -> AsyncIterator[wire.UploadFilmResponse]:
        del context
        incoming = aiter(requests)
        idle_s = self._board.limits.upload_idle_s
        with _told():
            try:
                async with asyncio.timeout(idle_s):
                    first = await anext(incoming, None)
            except TimeoutError:
                raise errors.ServerUnreachable(f"nothing was uploaded in {idle_s:g} s").retried_in(1) from None
            if first is None:
                raise errors.BadSettings("an upload's first message names its job").at("job_id")
            job = self._find(first.job_id)
            with about(job.id, job.owner):
                taken = self._board.upload(job, _again(first, incoming), uploads.checked)
                async with contextlib.aclosing(taken):
                    async for uploaded in taken:
                        yield wire.UploadFilmResponse(uploaded=uploaded)

    async def CommitFilm(self, request: wire.CommitFilmRequest, context: Any) -> wire.CommitFilmResponse:
        del context
        job = self._find(request.job_id)
        with _told(job):
            await self._board.commit(job, request.size, request.sha256)
            return wire.CommitFilmResponse(job=self._board.message(job))

    async def WatchJob(self, request: wire.WatchJobRequest, context: Any) -> AsyncIterator[wire.WatchJobResponse]:
        del context
        job = self._find(request.job_id)
        while True:
            seen = job.version
            if job.gone:
                raise job.fault()
            yield wire.WatchJobResponse(job=self._board.message(job))
            if job.has_ended:
                return
            self._board.check_open()
            await job.change(seen)
            if not job.has_ended:
                await asyncio.sleep(WATCH_S)

    async def DownloadFilm(
        self, request: wire.DownloadFilmRequest, context: Any
    ) -> AsyncIterator[wire.DownloadFilmResponse]:
        job = self._find(request.job_id)
        job.fetching += 1
        job.fetched_at = time.monotonic()
        try:
            with _told(job):
                stream = downloads.media(job, request.offset, self._read)
                async with contextlib.aclosing(stream):
                    async for media in stream:
                        if media is not None:
                            with self._taken(job, context):
                                yield wire.DownloadFilmResponse(media=media)
                            metrics.bytes_out(len(media.data))
                        self._board.check_open()
                yield wire.DownloadFilmResponse(finished=job.finished)
        finally:
            job.fetching -= 1

    @contextlib.contextmanager
    def _taken(self, job: Job, context: Any) -> Iterator[None]:
        """Around what is sent of a job: a client that does not take it in time is left, and nothing waits for it."""
        call = asyncio.current_task()
        idle_s = self._board.limits.upload_idle_s

        async def leave() -> None:
            text = f"nothing of the download was read in {idle_s:g} s, and it was ended: carry on from where it stopped"
            log.info("a download was ended: nobody reads it", extra={"job": job.id, "owner": job.owner})
            with contextlib.suppress(Exception):  # the call may have ended by itself just now
                await refuse(context, errors.ServerUnreachable(text).retried_in(1))
            if call:
                call.cancel()

        late = asyncio.get_running_loop().call_later(idle_s, lambda: self._board.tasks.spawn(leave()))
        try:
            yield
            job.fetched_at = time.monotonic()
        finally:
            late.cancel()

    async def CancelJob(self, request: wire.CancelJobRequest, context: Any) -> wire.CancelJobResponse:
        del context
        job = self._find(request.job_id)
        with _told(job):
            await self._board.cancel(job)
            return wire.CancelJobResponse(job=self._board.message(job))

    async def DeleteJob(self, request: wire.DeleteJobRequest, context: Any) -> wire.DeleteJobResponse:
        del context
        with contextlib.suppress(errors.NoSuchJob):  # gone already, or another's: there is nothing to tell of it
            job = self._find(request.job_id)
            with _told(job):
                await self._board.delete(job)
        return wire.DeleteJobResponse()

    async def Colorize(
        self, requests: AsyncIterator[wire.ColorizeRequest], context: Any
    ) -> AsyncIterator[wire.ColorizeResponse]:
        del context
        incoming = aiter(requests)
        idle_s = self._board.limits.upload_idle_s
        with _told():
            try:
                async with asyncio.timeout(idle_s):
                    first = await anext(incoming, None)
            except TimeoutError:
                raise errors.ServerUnreachable(f"nothing was sent in {idle_s:g} s: send it again").retried_in(
                    1
                ) from None
            if first is None or first.WhichOneof("request") != "settings":
                raise errors.BadSettings("the first message of a call must be its settings").at("settings")
            asked = wire.CreateJobRequest(request_id=str(uuid.uuid4()), settings=first.settings)
            job = await self._board.create(callers.owner.get(), asked, passing=True)
            with about(job.id, job.owner):
                taking = asyncio.create_task(self._take(job, incoming))
                try:
                    responses = self._responses(job)
                    async with contextlib.aclosing(responses):
                        async for response in responses:
                            yield response
                finally:
                    # Reached at success, failure and when the client is gone (CancelledError): nothing stays behind.
                    taking.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await taking
                    await self._board.delete(job)

    async def _take(self, job: Job, incoming: AsyncIterator[wire.ColorizeRequest]) -> None:
        """The film of a Colorize call. What ends it too early ends the job."""
        try:
            taken = self._board.upload(job, incoming, _bare)
            async with contextlib.aclosing(taken):
                async for _ in taken:
                    pass
            await self._board.commit(job, job.uploaded, None)
        except errors.ServerUnreachable as silent:
            idle_s = self._board.limits.upload_idle_s
            said = f"no more of the film came in {idle_s:g} s, and the call was ended: send it again"
            await self._board.fail(
                job, silent if self._board.is_draining else errors.ServerUnreachable(said).retried_in(1)
            )
        except asyncio.CancelledError:
            raise
        except Exception as fault:
            await self._board.fail(job, in_our_words(fault))

    async def _responses(self, job: Job) -> AsyncGenerator[wire.ColorizeResponse, None]:
        """What there is to say of a Colorize call's job, in one stream."""
        warned, told = 0, (0, 0, -1)
        stream = downloads.media(job, 0, self._read)
        async with contextlib.aclosing(stream):
            async for media in stream:
                for warning in job.warnings[warned:]:
                    warned += 1
                    yield wire.ColorizeResponse(warning=wire.Warning(text=warning))
                now = (job.frames, job.expected, job.ahead)
                if told != now and (job.frames or job.state == QUEUED):
                    told = now
                    progress = wire.Progress(frames=job.frames, frames_expected=job.expected, ahead=job.ahead)
                    yield wire.ColorizeResponse(progress=progress)
                if media is not None:
                    yield wire.ColorizeResponse(media=media)
                    metrics.bytes_out(len(media.data))
                    job.sent(media.offset + len(media.data))
        yield wire.ColorizeResponse(finished=job.finished)

    def _find(self, job_id: str) -> Job:
        return self._board.find(callers.owner.get(), job_id)

    async def _read(self, path: Path, offset: int, length: int) -> bytes:
        return await self._board.tasks.in_thread(downloads.piece_of, path, offset, length)


def _infos() -> list[wire.ColorizerInfo]:
    return [wire.ColorizerInfo(name=name, sha256=colorizers.load(name).sha256) for name in colorizers.shipped()]


async def _again(first: wire.UploadFilmRequest, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """A message that was looked at already, and those after it."""
    yield first
    async for message in rest:
        yield message


def _bare(request: wire.ColorizeRequest, offset: int) -> bytes:
    """A Colorize call's bytes: they carry no offset and no checksum. Raises BadSettings."""
    del offset
    if request.WhichOneof("request") != "film":
        raise errors.BadSettings("only the first message of a call holds its settings").at("settings")
    return request.film


@contextlib.contextmanager
def _told(job: Job | None = None) -> "Any":
    """Errors in words for people; those that are faults of the server go to its log in full."""
    with about(job.id, job.owner) if job else contextlib.nullcontext():
        try:
            yield
        except errors.KinochromeError as fault:
            log.info("refused: %s", fault)
            raise
        except Exception as fault:
            spoken = in_our_words(fault)
            if isinstance(spoken, errors.ServerFailed):
                log.exception("a call failed")
            else:
                log.warning("a call failed: %s", fault)
            raise spoken from fault
