"""The gRPC service: bytes and state on the event loop, the pipeline in threads, nothing unbounded between."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import shutil
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_status import rpc_status

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc

from . import colorizers, pipeline, wired
from .codecs import CODECS, CONTAINERS
from .engines import choice
from .pool import WorkerPool
from .spool import Run, SentFile, Upload

SERVICE = "kinochrome.v1.ColorizerService"
MAX_MESSAGE = 4 << 20  # bytes
AHEAD = 16
"""Responses that may wait for a slow client before the pipeline waits too."""
IDLE_S = 120.0
"""Longest silence of an upload: one that stands still must not keep others waiting for its turn."""
DRAIN_S = 5.0
"""Time that running calls get to end when the server is asked to stop."""

_CODES: dict[type[errors.KinochromeError], int] = {
    errors.BadFilm: code_pb2.INVALID_ARGUMENT,
    errors.BadSettings: code_pb2.INVALID_ARGUMENT,
    errors.UnknownColorizer: code_pb2.NOT_FOUND,
    errors.BadColorizer: code_pb2.FAILED_PRECONDITION,
    errors.Unusable: code_pb2.FAILED_PRECONDITION,
    errors.Cancelled: code_pb2.CANCELLED,
    errors.ServerFull: code_pb2.RESOURCE_EXHAUSTED,
    errors.ServerFailed: code_pb2.INTERNAL,
}

log = logging.getLogger(__name__)


class ColorizerService(wire_grpc.ColorizerServiceServicer):
    """Implements kinochrome.v1.ColorizerService on the pipeline."""

    def __init__(self, spool: Path, pool: WorkerPool, engine: str) -> None:
        """As many films are coloured at a time as the pool has workers; others wait, and their uploads with them.

        Args:
            spool: folder for films on their way.
            pool: the workers.
            engine: the one that colours all films; who serves chooses it, not who calls.
        """
        jobs = pool.count
        self._spool, self._pool, self._engine = spool, pool, engine
        self._turn = asyncio.Semaphore(jobs)
        self._threads = ThreadPoolExecutor(2 * jobs + 2, "service")

    async def GetServerInfo(self, request: wire.GetServerInfoRequest, context: Any) -> wire.GetServerInfoResponse:
        del request, context
        loop = asyncio.get_running_loop()
        infos = await loop.run_in_executor(
            self._threads,
            lambda: [
                wire.ColorizerInfo(name=name, sha256=colorizers.load(name).sha256) for name in colorizers.shipped()
            ],
        )
        return wire.GetServerInfoResponse(
            version=version("kinochrome"),
            engine=self._engine,
            colorizers=infos,
            codecs=list(CODECS),
            containers=list(CONTAINERS),
        )

    async def Colorize(
        self,
        requests: AsyncIterator[wire.ColorizeRequest],
        context: Any,
    ) -> AsyncIterator[wire.ColorizeResponse]:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("request") != "settings":
            await _abort(context, errors.BadSettings("the first message of a call must be its settings"))
        try:
            settings = wired.settings(first.settings, self._engine)
        except errors.BadSettings as fault:
            await _abort(context, fault)
        async with self._turn:
            try:
                folder = Path(tempfile.mkdtemp(prefix="call-", dir=self._spool))
                call = _Call(folder, settings, self._pool, asyncio.get_running_loop())
            except OSError as unwritable:
                log.error("the spool cannot be used: %s", unwritable)
                await _abort(context, _in_our_words(unwritable))
            reading = asyncio.create_task(call.read(requests, self._threads))
            colouring = asyncio.get_running_loop().run_in_executor(self._threads, call.run)
            try:
                async for response in call.responses(colouring):
                    yield response
            except (errors.KinochromeError, OSError) as fault:
                error = call.fault or _in_our_words(fault)
                log.info("call refused: %s", error)
                await _abort(context, error)
            except Exception:
                log.exception("call failed")
                await _abort(context, errors.ServerFailed("the server failed at this film; its log says why"))
            finally:
                # Reached at success, failure and when the client is gone (CancelledError): nothing stays behind.
                call.cancel()
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await reading
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await asyncio.shield(colouring)
                shutil.rmtree(folder, ignore_errors=True)


class _Call:
    """One film on its way: its upload, its pipeline, its responses."""

    def __init__(
        self, folder: Path, settings: pipeline.Settings, pool: WorkerPool, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._settings, self._pool, self._loop = settings, pool, loop
        self._cancelled = threading.Event()
        self._upload = Upload(folder / "source")
        self._coloured = folder / "coloured"
        self._responses: asyncio.Queue[wire.ColorizeResponse] = asyncio.Queue()
        self._room = threading.Semaphore(AHEAD)
        self.fault: errors.KinochromeError | None = None
        """Why the upload ended the call, if it did."""

    async def read(self, requests: AsyncIterator[wire.ColorizeRequest], threads: ThreadPoolExecutor) -> None:
        """Spool the film. An upload that breaks off, stalls or finds no room ends the call."""
        incoming = aiter(requests)
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    request = await anext(incoming, None)
                if request is None:
                    break
                await self._loop.run_in_executor(threads, self._upload.append, request.film)
            self._upload.finish()
        except TimeoutError:
            self.fault = errors.BadFilm(f"the upload stood still for {IDLE_S:.0f} s: send it again")
            self.cancel()
        except OSError as error:
            self.fault = _in_our_words(error)
            self.cancel()
        except BaseException:
            self.cancel()
            raise

    def run(self) -> wire.Finished:
        """Colour the film; called in a thread."""
        with SentFile(self._coloured, self._send) as sink:
            report = pipeline.colorize(
                self._upload.source,
                cast(BinaryIO, sink),
                self._settings,
                on_progress=self._progress,
                on_warning=self._warn,
                cancelled=self._cancelled,
                server_only=True,
                pool=self._pool,
                scratch=self._coloured.parent,
            )
            size, sha256 = sink.digest()
        return wire.Finished(frames=report.frames, size=size, sha256=sha256)

    async def responses(self, colouring: "asyncio.Future[wire.Finished]") -> AsyncIterator[wire.ColorizeResponse]:
        """What the pipeline says, as it says it, and its proof at the end. Raises what the pipeline raised."""
        while not colouring.done() or not self._responses.empty():
            waiting = asyncio.ensure_future(self._responses.get())
            either: set[asyncio.Future[Any]] = {waiting, colouring}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not waiting.done():
                    waiting.cancel()
            if not waiting.done() or waiting.cancelled():
                continue
            self._room.release()
            yield waiting.result()
        yield wire.ColorizeResponse(finished=colouring.result())

    def cancel(self) -> None:
        """Make the pipeline stop at its next step, whatever it waits for."""
        self._cancelled.set()
        self._upload.abandon()

    def _say(self, response: wire.ColorizeResponse, *, droppable: bool = False) -> None:
        """Queue a response, from any thread; waits while the client is slow. A droppable one is dropped instead."""
        while not self._room.acquire(blocking=not droppable, timeout=None if droppable else 0.1):
            if droppable:
                return
            if self._cancelled.is_set():
                raise errors.Cancelled("cancelled")
        self._loop.call_soon_threadsafe(self._responses.put_nowait, response)

    def _progress(self, frames: int, expected: int) -> None:
        progress = wire.Progress(frames=frames, frames_expected=expected)
        self._say(wire.ColorizeResponse(progress=progress), droppable=True)

    def _warn(self, text: str) -> None:
        self._say(wire.ColorizeResponse(warning=wire.Warning(text=text)))

    def _send(self, run: Run) -> None:
        self._say(wire.ColorizeResponse(media=wire.Media(offset=run.offset, data=run.data)))


def _in_our_words(fault: errors.KinochromeError | OSError) -> errors.KinochromeError:
    if isinstance(fault, errors.KinochromeError):
        return fault
    if fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.ServerFull("the server's disk is full: try again later")
    return errors.ServerFailed(f"the server cannot store the film: {fault.strerror or 'its log says why'}")


async def _abort(context: Any, error: errors.KinochromeError) -> NoReturn:
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain="kinochrome"))
    status = status_pb2.Status(code=_CODES.get(type(error), code_pb2.INTERNAL), message=str(error), details=[info])
    rich = rpc_status.to_status(status)
    await context.abort(rich.code, rich.details, rich.trailing_metadata)
    raise AssertionError("abort returned")


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise errors.BadSettings(f"--listen takes HOST:PORT with a port of 0 to 65535, not {address!r}")
    if not _is_loopback(host.strip("[]")):
        raise errors.BadSettings(
            f"--listen {address} is not a loopback address: without TLS only this machine is served"
        )


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


async def serve(
    listen: str, spool: Path | None = None, engine: str = choice.AUTO, *, on_ready: Callable[[int], None]
) -> None:
    """Serve until SIGINT or SIGTERM, then let running calls end within DRAIN_S.

    Args:
        listen: HOST:PORT; port 0 takes a free one. Loopback only: there is no encryption yet.
        spool: folder for films on their way, private to this process; by default a temporary one.
        engine: a key of `engines.choice.ENGINES`, or "auto", the best that works here.
        on_ready: called with the port once a picture has gone through the default colorizer on that engine.

    Raises BadSettings when the address cannot be had, Unusable when the engine cannot.
    """
    _check_address(listen)
    own = spool is None
    folder = Path(tempfile.mkdtemp(prefix="kinochrome-")) if spool is None else spool
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise errors.BadSettings(f"--spool {folder} cannot be a folder for films: {error.strerror}") from None
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.so_reuseport", 0),  # two servers on one port are a mistake, not a feature
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),  # clients ping every 30 s
        ]
    )
    pool = WorkerPool()
    status = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    try:
        try:
            port = server.add_insecure_port(listen)
        except RuntimeError:
            raise errors.BadSettings(f"--listen {listen}: the address is in use or not of this machine") from None
        engine, words = await asyncio.get_running_loop().run_in_executor(None, _engine, engine)
        wire_grpc.add_ColorizerServiceServicer_to_server(ColorizerService(folder, pool, engine), server)
        await server.start()
        for name in ("", SERVICE):
            await status.set(name, health_pb2.HealthCheckResponse.SERVING)
        log.info("serving on %s:%d, engine %s, spool %s", listen.rpartition(":")[0], port, words, folder)
        on_ready(port)
        await _asked_to_stop()
        await status.enter_graceful_shutdown()
        await server.stop(DRAIN_S)
    finally:
        await server.stop(0)
        pool.close()
        if own:
            shutil.rmtree(folder, ignore_errors=True)


def _engine(word: str) -> tuple[str, str]:
    """The engine to serve with, and what it is in words: ready means that it works."""
    settings = pipeline.decided(pipeline.Settings(engine=word), log.warning)
    return settings.engine, choice.described(settings.engine)


async def _asked_to_stop() -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    try:
        await asked.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
