"""A film being coloured, in a thread of its own: what the pipeline says becomes news for the event loop."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from kinochrome_proto.errors import Cancelled

from .. import pipeline, tracing
from ..about import about
from ..durable import to_disk
from ..facts import Facts
from ..journal import Journal
from ..pool import WorkerPool
from ..sources import GrowingSource
from ..turns import Turn
from .coloured import ColouredFile
from .folders import JobFolder

AHEAD_BYTES = 32 << 20
"""Of a film that goes as it is sent, coloured bytes that may wait for a slow client before the pipeline waits too."""

SLOW_S = 30.0
"""Longest wait for a byte to be taken: then the film is finished on the disk, so that its place is free again."""


@dataclass(frozen=True)
class Order:
    """What is to be coloured, and how."""

    job_id: str
    owner: str
    folder: JobFolder
    source: GrowingSource
    settings: pipeline.Settings
    identity: dict[str, Any]
    """Of the journal: a run of anything else is not mixed in."""
    durable: bool
    """Whether finished segments are kept, so that the next run carries on."""
    turn: Turn
    restart: bool = False
    """Whether what an earlier run left in the journal is thrown away."""


@dataclass(frozen=True)
class Coloured:
    """A film that is done, on the disk, proven."""

    frames: int
    size: int
    sha256: bytes
    patches: list[tuple[int, int]]


@dataclass
class News:
    """What is new of a run; the newest counts."""

    frames: int = 0
    resumed: int = 0
    expected: int = 0
    coloured: int = 0
    engine: str = ""
    pixels: int = 0
    """Of a frame."""
    segments: int = 0
    """Finished ones that the journal holds."""
    warnings: tuple[str, ...] = ()


class Run:
    """One colouring of a job. Made and asked on the event loop; colours in a thread."""

    def __init__(self, order: Order, pool: WorkerPool, on_news: Callable[[News], None], sent: int = 0) -> None:
        """
        Args:
            order: what.
            pool: the workers.
            on_news: called on the event loop, soon after something has happened, never for each thing apart.
            sent: of a film that goes as it is sent: what its client has of it already, by a run before this one.
        """
        self.order, self._pool, self._on_news = order, pool, on_news
        self._loop = asyncio.get_running_loop()
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._news = News()
        self._told = True
        self._sent = sent
        """Of a film that goes as it is sent: how far that has come."""
        self._gave_up_at = -1
        """How far it had come when its client was waited for in vain; it is not waited for again before it moves."""
        self.charged = 0
        """Frames that its owner has been charged for."""
        self.future: asyncio.Future[Coloured]

    def start(self, threads: ThreadPoolExecutor) -> None:
        """Begin; `future` gives the outcome: what the pipeline raises, Cancelled once stopped."""
        self.future = self._loop.run_in_executor(threads, self._coloured)

    def stop(self) -> None:
        """Make it end soon, whatever it waits for."""
        self._cancelled.set()
        with contextlib.suppress(OSError):  # its folder may be gone, and the run with it
            self.order.source.abandon()

    def sent(self, size: int) -> None:
        """Of a film that goes as it is sent: the client has so much of it."""
        self._sent = size

    def _coloured(self) -> Coloured:
        order = self.order
        with about(order.job_id, order.owner), tracing.job(order.job_id, order.owner) as trace:
            coloured = self._colour()
            trace.note(engine=self._news.engine, frames=coloured.frames, resumed=self._news.resumed)
            return coloured

    def _colour(self) -> Coloured:
        order = self.order
        abandoned = order.source.path.with_suffix(".abandoned")
        abandoned.unlink(missing_ok=True)  # by a run before this one
        try:
            if self._cancelled.is_set():
                raise Cancelled("cancelled")
            if not order.durable:
                order.folder.journal.mkdir(exist_ok=True)
                return self._with(None)
            with Journal(order.folder.journal, order.identity, restart=order.restart) as journal:
                return self._with(journal)
        finally:
            abandoned.unlink(missing_ok=True)

    def _with(self, journal: Journal | None) -> Coloured:
        order = self.order

        def on_progress(frames: int, expected: int) -> None:
            self._tell(frames=frames, expected=expected, segments=len(journal.records) if journal else 0)

        on_progress(0, 0)
        with ColouredFile(order.folder.coloured, lambda size: self._tell(coloured=size), self._room) as sink:
            report = pipeline.colorize(
                order.source,
                cast(BinaryIO, sink),
                order.settings,
                on_engine=lambda words: self._tell(engine=words),
                on_facts=self._on_facts,
                on_progress=on_progress,
                on_resumed=lambda frames: self._tell(resumed=frames),
                on_warning=self._warn,
                cancelled=self._cancelled,
                server_only=True,
                pool=self._pool,
                journal=journal,
                scratch=order.folder.journal,
                turn=order.turn,
            )
            if order.durable:
                sink.to_disk()
                to_disk(order.folder.path)  # the file's name as well: what it was made of is deleted next
            return Coloured(report.frames, sink.size, sink.digest(self._cancelled), sink.patches)

    def _on_facts(self, facts: Facts) -> None:
        self._tell(pixels=facts.picture.width * facts.picture.height, expected=facts.frames_expected)

    def _room(self, size: int) -> None:
        """Wait while a client that is sent the film as it grows is far behind; for one that stands still, not long."""
        if self.order.durable:
            return
        seen, since = self._sent, time.monotonic()
        while size - self._sent > AHEAD_BYTES and self._sent != self._gave_up_at:
            if self._cancelled.wait(0.05):
                raise Cancelled("cancelled")
            if self._sent != seen:
                seen, since = self._sent, time.monotonic()
            elif time.monotonic() - since >= SLOW_S:
                self._gave_up_at = seen

    def _warn(self, text: str) -> None:
        with self._lock:
            warnings = (*self._news.warnings, text)
        self._tell(warnings=warnings)

    def _tell(self, **values: Any) -> None:
        with self._lock:
            for name, value in values.items():
                setattr(self._news, name, value)
            told, self._told = self._told, False
        if told:
            self._loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        with self._lock:
            self._told = True
            news = News(**vars(self._news))
        self._on_news(news)
