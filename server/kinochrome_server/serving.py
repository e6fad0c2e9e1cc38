"""The server put together: spool, jobs, workers, doors; and how it comes up and goes down."""

import asyncio
import contextlib
import logging
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc

from . import callers, front, logs, metrics, pipeline, tls, tokens, tracing
from .engines import choice
from .jobs.board import Board
from .jobs.folders import Spool, default_spool
from .jobs.limits import Limits
from .jobs.store import Store
from .pool import Watching, WorkerPool
from .refusals import in_our_words, is_disk_full
from .sandbox import Terms
from .service import SERVICE, ColorizerService
from .tls import Files
from .worker import Start

MAX_MESSAGE = 4 << 20  # bytes
LAST_WORDS_S = 1.0
"""Time in which calls that are ended tell their clients so."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeSettings:
    """How a server is run."""

    listen: str = "127.0.0.1:50551"
    """HOST:PORT; port 0 takes a free one."""
    spool: Path | None = None
    """Where jobs outlive the server; None: see `folders.default_spool`."""
    engine: str = choice.AUTO
    """A key of `engines.choice.ENGINES`, or "auto", the best that works here."""
    limits: Limits = field(default_factory=Limits)
    tls: Files | None = None
    tokens: Path | None = None
    """Of those who may call; None: whoever reaches the port."""
    metrics_listen: str = ""
    """HOST:PORT of the figures for Prometheus; "": none."""
    reflection: bool = False
    """Whether callers may ask for the .proto."""
    log_format: logs.Format = "text"
    drain_s: float = 8.0
    """Asked to stop, the server is gone within about so many seconds, 0.1 to 3600."""
    traces: str = ""
    """OTLP endpoint; "": no traces."""

    def __post_init__(self) -> None:
        """Raises BadSettings."""
        if not 0.1 <= self.drain_s <= 3600:
            raise errors.BadSettings(f"--drain {self.drain_s:g} s is out of range: 0.1 to 3600")


async def serve(settings: ServeSettings, *, on_ready: Callable[[int], None] = lambda port: None) -> None:
    """Serve until SIGINT or SIGTERM; then take no more, stop jobs where they are, and end.

    Jobs that were stopped, by this or by a kill, are carried on by the next server on the same spool.

    Args:
        settings: how.
        on_ready: called with the port once a batch has gone through the default colorizer on the engine, and jobs of
            an earlier server are taken up.

    Raises BadSettings when an address, a file or the spool cannot be had, Unusable when the engine cannot; ServerFull,
    ServerFailed when the spool's disk fails it.
    """
    try:
        await _serve(settings, on_ready)
    except (sqlite3.Error, OSError) as fault:
        if is_disk_full(fault):
            raise in_our_words(fault) from fault
        raise errors.ServerFailed(f"the server cannot go on: {fault}") from fault


async def _serve(settings: ServeSettings, on_ready: Callable[[int], None]) -> None:
    logs.configure(settings.log_format)
    known = settings.tokens is not None or bool(settings.tls and settings.tls.client_ca)
    front.check_address(settings.listen, encrypted=settings.tls is not None, known=known)
    asked = _asked_to_stop()
    async with contextlib.AsyncExitStack() as stack:
        spool = Spool(settings.spool or default_spool())
        stack.callback(spool.close)
        server = _server(settings)
        port = _port(server, settings)
        stack.push_async_callback(server.stop, 0)
        where = stack.enter_context(metrics.served(settings.metrics_listen))
        stack.callback(tracing.configure(settings.traces))
        store = Store(spool.database)
        stack.callback(store.close)
        pool = WorkerPool(
            terms=Terms.of_worker(reads=[], writes=[spool.jobs]),
            watching=Watching(batch=metrics.batch, stage=_note_stage, death=metrics.worker_died),
        )
        metrics.tasks_waiting(lambda: pool.waiting)
        stack.callback(pool.close)
        for _ in range(pool.count):
            pool.submit(Start())
        engine, words = await asyncio.get_running_loop().run_in_executor(None, _engine, settings.engine)
        board = Board(spool, store, pool, engine, words, settings.limits)
        stack.push_async_callback(board.close)
        await board.begin()
        status = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(status, server)
        wire_grpc.add_ColorizerServiceServicer_to_server(ColorizerService(board, engine), server)
        if settings.reflection:
            front.reflect(server, SERVICE, health.SERVICE_NAME)
        front.warn_of_root()
        await server.start()
        for name in ("", SERVICE):
            await status.set(name, health_pb2.HealthCheckResponse.SERVING)
        metrics.serving(words)
        host = settings.listen.rpartition(":")[0]
        log.info("serving on %s:%d, engine %s, spool %s", host, port, words, spool.path)
        if where:
            log.info("metrics on http://%s/metrics", where)
        on_ready(port)
        await asked.wait()
        await _drain(settings, server, status, board)
    log.info("stopped")


def _server(settings: ServeSettings) -> grpc.aio.Server:
    known = tokens.Tokens(settings.tokens) if settings.tokens else None
    certificates = bool(settings.tls and settings.tls.client_ca)
    return grpc.aio.server(
        interceptors=[callers.Interceptor(known, certificates=certificates)],
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.so_reuseport", 0),  # two servers on one port are a mistake, not a feature
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),  # clients ping every 30 s
            ("grpc.server_handshake_timeout_ms", 10_000),  # a connection that says nothing holds a descriptor
            # What a client cannot be reached by is not waited for: its line may be dead without a word.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
        ],
    )


def _port(server: grpc.aio.Server, settings: ServeSettings) -> int:
    try:
        if settings.tls:
            return server.add_secure_port(settings.listen, tls.credentials(settings.tls))
        return server.add_insecure_port(settings.listen)
    except RuntimeError:
        raise errors.BadSettings(f"--listen {settings.listen}: the address is in use or not of this machine") from None


async def _drain(settings: ServeSettings, server: grpc.aio.Server, status: HealthServicer, board: Board) -> None:
    """Take no more, let films of Colorize calls end if they do in time, and say goodbye."""
    deadline = time.monotonic() + settings.drain_s
    log.info("asked to stop: within %g s", settings.drain_s)
    metrics.draining()
    await status.enter_graceful_shutdown()
    board.drain()
    last_words_s = min(LAST_WORDS_S, settings.drain_s / 4)
    while board.passing and time.monotonic() < deadline - 2 * last_words_s:
        await asyncio.sleep(0.05)
    stopping = asyncio.create_task(server.stop(last_words_s))
    await board.close()
    await stopping


def _note_stage(name: str, seconds: float) -> None:
    metrics.stage(name, seconds)
    tracing.stage(name, seconds)


def _engine(word: str) -> tuple[str, str]:
    """The engine to serve with, and what it is in words: ready means that it works."""
    settings = pipeline.decided(pipeline.Settings(engine=word), log.warning)
    return settings.engine, choice.described(settings.engine)


def _asked_to_stop() -> asyncio.Event:
    """Set once somebody wants the server to stop. A second time there is no waiting."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    return asked
