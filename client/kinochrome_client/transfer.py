"""A film on its way to a server and back: sent, watched and fetched at once, each carried on wherever it broke off."""

import asyncio
import contextlib
import hashlib
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import google_crc32c
import grpc

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire

from .faults import MENDED_BY_SENDING_AGAIN, Fault, Patience
from .jobs import Job, Progress
from .line import Line, damaged, torn

LARGEST_PIECE = 256 * 1024  # bytes of film in one message: larger ones gain little
SMALLEST_PIECE = 8 * 1024  # on a line that breaks sooner than a larger one is through
COMMIT_S = 600.0  # time for a server to read a long film once more
TELL_EVERY_S = 0.1
PROOFS = 2
"""Times that a whole film may turn out to be another one, here or there, before it is given up."""
HASHED = 1 << 20  # bytes at a time


class Transfer:
    """One job and the bytes of it that are on this side."""

    def __init__(
        self,
        line: Line,
        job: wire.Job,
        *,
        film: Path | None,
        coloured: Path,
        on_sent: Callable[[], object] = lambda: None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        on_warning: Callable[[str], None] = lambda text: None,
    ) -> None:
        """
        Args:
            line: to the job's server.
            job: as the server described it last.
            film: to send; None when somebody else does.
            coloured: file for the coloured film; bytes that an earlier run fetched are carried on from.
            on_sent: called once the film is wholly on the server.
            on_progress: called now and then, on the event loop.
            on_warning: called once with each thing the user should know.
        """
        self._line, self._trouble = line.told(self._hear_of_trouble), ""
        self._job, self._film, self._coloured = job, film, coloured
        self._on_sent, self._on_progress, self._on_warning = on_sent, on_progress, on_warning
        self._sending = film is not None and job.state == wire.JOB_STATE_UPLOADING
        self._film_size = film.stat().st_size if film is not None and self._sending else job.uploaded
        self._uploaded, self._downloaded = job.uploaded, _size(coloured)
        self._reached, self._tries = job.uploaded, 0
        self._warned, self._told = 0, 0.0
        self._something_to_fetch = asyncio.Event()

    async def run(self) -> wire.Job:
        """Go on until the job has ended: return it done, its film here and proven, or failed, or cancelled.

        Raises ServerUnreachable when nothing has moved for too long; NoSuchJob, NotAllowed and others that the server
        states; BadFilm when the film changes meanwhile; OSError of the disks here. The job stays as it is then.
        """
        watching = asyncio.create_task(self._watch())
        fetching = asyncio.create_task(self._fetch())
        pending: set[asyncio.Task[Any]] = {watching, fetching}
        if self._film is not None and self._sending:
            pending.add(asyncio.create_task(self._send(self._film)))
        every = list(pending)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                if watching.done() and self._job.state != wire.JOB_STATE_DONE:
                    break
            self._tell(now=True)
            return self._job
        finally:
            for task in every:
                task.cancel()
            await asyncio.gather(*every, return_exceptions=True)

    # Watching

    async def _watch(self) -> None:
        """Until the job has ended."""
        async with contextlib.aclosing(watch(self._line, self._job.id)) as changes:
            async for job in changes:
                self._hear(job)

    def _hear(self, job: wire.Job) -> None:
        changed = (job.state, job.ahead) != (self._job.state, self._job.ahead)
        self._job = job
        for warning in job.warnings[self._warned :]:
            self._on_warning(warning.text)
        self._warned = max(self._warned, len(job.warnings))
        if job.coloured > 0 or job.state == wire.JOB_STATE_DONE:
            self._something_to_fetch.set()
        self._tell(now=changed)

    def _tell(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self._told >= TELL_EVERY_S:
            self._told = time.monotonic()
            job = Job.of(self._job)
            self._on_progress(Progress(job, self._film_size, self._uploaded, self._downloaded, self._trouble))

    def _hear_of_trouble(self, trouble: str) -> None:
        self._trouble = trouble
        self._tell(now=True)

    async def _bear(self, failed: grpc.RpcError | Fault, patience: Patience) -> Fault:
        """Wait for the next try. Where there is none because the job came to a bad end, wait for `_watch` to say so."""
        try:
            return await self._line.bear(failed, patience)
        except errors.ServerUnreachable:
            raise
        except errors.KinochromeError:
            answer = await self._line.ask(self._line.stub.GetJob, wire.GetJobRequest(job_id=self._job.id))
            if Job.of(answer.job).error() is None:
                raise
            await asyncio.Event().wait()  # until `run` cancels
            raise

    # Sending

    async def _send(self, film: Path) -> None:
        """Until the server has the film, and has found it to be what was sent."""
        patience, piece = self._line.patience(), LARGEST_PIECE
        before, stop = _stamp(film), threading.Event()
        digest = asyncio.create_task(asyncio.to_thread(_sha256, film, stop))
        others = 0
        try:
            while True:
                answer = await self._line.ask(self._line.stub.GetJob, wire.GetJobRequest(job_id=self._job.id))
                if answer.job.state != wire.JOB_STATE_UPLOADING:
                    break
                piece = self._piece(piece, answer.job.uploaded, patience)
                try:
                    if self._reached < self._film_size:
                        await self._send_from(film, self._reached, piece, patience)
                    if _stamp(film) != before or self._reached > self._film_size:
                        raise _changed(film)
                    commit = wire.CommitFilmRequest(job_id=self._job.id, size=self._film_size, sha256=await digest)
                    await self._line.ask(self._line.stub.CommitFilm, commit, timeout_s=COMMIT_S)
                    break
                except grpc.RpcError as failed:
                    await self._bear(failed, patience)
                except _Torn as failed:
                    await self._bear(failed.fault, patience)
                except MENDED_BY_SENDING_AGAIN as failed:  # said of the whole: the server begins it anew
                    others += 1
                    await self._bear(Fault(failed, again=others < PROOFS, strange=True), patience)
                except errors.KinochromeError as failed:
                    await self._bear(Fault(failed), patience)
        finally:
            stop.set()
            await asyncio.wait([digest])
            if not digest.cancelled():
                digest.exception()  # seen, or of no interest any more
        self._uploaded = self._film_size
        self._on_sent()
        self._tell(now=True)

    def _piece(self, piece: int, reached: int, patience: Patience) -> int:
        """How much to send at once from `reached` on, after `piece`: a line may always break before one is through."""
        gained, self._uploaded, self._reached = reached - self._reached, reached, reached
        if gained > 0:
            self._line.well(patience)
        if gained <= 0 < self._tries:
            piece = max(SMALLEST_PIECE, piece // 2)
        elif gained >= 8 * piece:
            piece = min(LARGEST_PIECE, 2 * piece)
        self._tries += 1
        return piece

    async def _send_from(self, film: Path, offset: int, piece: int, patience: Patience) -> None:
        """One call: all from `offset` on. Raises RpcError or _Torn when it breaks off; KinochromeError, OSError."""
        call = self._line.stub.UploadFilm(metadata=self._line.access.metadata)  # type: ignore[call-arg]
        writing = asyncio.create_task(self._write(call, film, offset, piece))
        try:
            async for acknowledged in call:
                if acknowledged.uploaded > self._uploaded:
                    self._uploaded = acknowledged.uploaded
                    self._line.well(patience)
                    self._tell()
        finally:
            call.cancel()
            writing.cancel()
            await asyncio.wait([writing])
            fault = None if writing.cancelled() else writing.exception()
            if isinstance(fault, (OSError, errors.KinochromeError)):
                raise fault  # here the film cannot be read; the call was cancelled for it
        if self._uploaded < self._film_size:
            raise _Torn(torn(f"server {self._line.server} ended the upload before its end"))

    async def _write(self, call: "grpc.aio.StreamStreamCall[Any, Any]", film: Path, offset: int, piece: int) -> None:
        try:
            with film.open("rb") as file:
                file.seek(offset)
                while offset < self._film_size:
                    data = file.read(min(piece, self._film_size - offset))
                    if not data:
                        raise _changed(film)
                    await call.write(
                        wire.UploadFilmRequest(
                            job_id=self._job.id, offset=offset, data=data, crc32c=google_crc32c.value(data)
                        )
                    )
                    offset += len(data)
            await call.done_writing()
        except (OSError, errors.KinochromeError):
            call.cancel()
            raise

    # Fetching

    async def _fetch(self) -> None:
        """Until all of the coloured film is here, and proven."""
        await self._something_to_fetch.wait()
        patience, unproven = self._line.patience(), 0
        with self._coloured.open("ab"):
            pass
        while True:
            try:
                finished = await self._fetch_on(patience)
            except grpc.RpcError as failed:
                if not isinstance((await self._bear(failed, patience)).error, errors.WrongOffset):
                    continue
            except _Torn as failed:
                await self._bear(failed.fault, patience)
                continue
            else:
                if await self._is_proven(finished):
                    self._line.well(patience)
                    return
            unproven += 1  # what lies here is another film's, or a power cut's
            if unproven >= PROOFS:
                raise errors.ServerFailed(
                    f"the coloured film arrives otherwise than server {self._line.server} states: try again"
                )
            os.truncate(self._coloured, 0)
            self._downloaded = 0

    async def _is_proven(self, finished: wire.Finished) -> bool:
        stop = threading.Event()
        try:
            digest = await asyncio.to_thread(_sha256, self._coloured, stop)
        finally:
            stop.set()
        return digest == finished.sha256 and _size(self._coloured) == finished.size

    async def _fetch_on(self, patience: Patience) -> wire.Finished:
        """One call: all that is not here yet. Raises RpcError or _Torn when it breaks off."""
        request = wire.DownloadFilmRequest(job_id=self._job.id, offset=self._downloaded)
        call = self._line.stub.DownloadFilm(request, metadata=self._line.access.metadata)
        try:
            with self._coloured.open("r+b", buffering=0) as file:
                async for response in call:
                    if response.HasField("finished"):
                        return response.finished
                    self._take(response.media, file.fileno())
                    self._line.well(patience)
                    self._tell()
        finally:
            call.cancel()
        raise _Torn(torn(f"server {self._line.server} ended the download before its end"))

    def _take(self, media: wire.Media, file: int) -> None:
        if google_crc32c.value(media.data) != media.crc32c:
            raise _Torn(damaged("a piece of the coloured film arrived damaged"))
        if media.offset > self._downloaded:
            raise _Torn(torn(f"server {self._line.server} left out a piece of the coloured film"))
        view, offset = memoryview(media.data), media.offset
        while view:
            written = os.pwrite(file, view, offset)
            view, offset = view[written:], offset + written
        self._downloaded = max(self._downloaded, offset)


class _Torn(Exception):
    """A stream that broke off in another way than by gRPC's own errors."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault.error))
        self.fault = fault


async def watch(line: Line, job_id: str) -> AsyncGenerator[wire.Job, None]:
    """How a job stands now, and whenever that changes, until it has come to an end; across breaks of the line.

    Raises the error that the server states, or ServerUnreachable.
    """
    patience = line.patience()
    while True:
        call = line.stub.WatchJob(wire.WatchJobRequest(job_id=job_id), metadata=line.access.metadata)
        try:
            async for response in call:
                line.well(patience)
                yield response.job
                if Job.of(response.job).state.ended:
                    return
            failed: grpc.RpcError | Fault = torn(f"server {line.server} does not say how the job goes on")
        except grpc.RpcError as error:
            failed = error
        finally:
            call.cancel()
        await line.bear(failed, patience)


def _changed(film: Path) -> errors.BadFilm:
    return errors.BadFilm(f"{film} changed while it was being sent: send it again when it is finished, with --restart")


def _stamp(film: Path) -> tuple[int, int]:
    status = film.stat()
    return status.st_size, status.st_mtime_ns


def _size(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_size
    return 0


def _sha256(file: Path, stop: threading.Event) -> bytes:
    """Of a file; nothing useful once nobody waits for it."""
    digest = hashlib.sha256()
    with file.open("rb") as film:
        while not stop.is_set() and (data := film.read(HASHED)):
            digest.update(data)
    return digest.digest()
