"""Colouring a whole film: the library's one door.

with open("coloured.mp4", "wb") as sink:
    report = colorize(FileSource(Path("film.mp4")), sink, Settings())
"""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from types import TracebackType
from typing import BinaryIO

from kinochrome_proto.errors import BadFilm, Cancelled

from . import colorizers
from .chroma import Geometry
from .codecs import Container, Encoding, choose_codec, choose_container
from .engine import CpuEngine
from .film import Facts, Film, Segment, Source
from .muxer import Muxer
from .worker import Chunk, Worker


@dataclass(frozen=True)
class Settings:
    """How a film is to be coloured."""

    colorizer: str = ""
    """Name of a shipped colorizer or an .onnx file; "" is the default."""
    codec: str = ""
    """A key of `codecs.CODECS`; "" is the container's usual one."""
    container: str = ""
    """A key of `codecs.CONTAINERS`; "" is mp4."""
    lenient: bool = False
    """Colour what can be read of a damaged film instead of refusing it."""


@dataclass(frozen=True)
class Report:
    """Proof of a film coloured."""

    frames: int
    """Frames decoded, coloured and written."""


def colorize(
    source: Source,
    sink: BinaryIO,
    settings: Settings,
    *,
    on_progress: Callable[[int, int], None] = lambda frames, expected: None,
    on_warning: Callable[[str], None] = lambda text: None,
    cancelled: threading.Event | None = None,
    server_only: bool = False,
    workers: int | None = None,
) -> Report:
    """Colour a film from `source` into `sink`, a file object that can seek.

    Args:
        source: the film. It may still be growing: reads block until bytes are there.
        sink: where the coloured film goes. On an exception what it holds is no film: throw it away.
        settings: how.
        on_progress: called with the frames coloured so far and those that the film says it has (0: it does not say).
        on_warning: called with what the user should know. Both are called from several threads, one call at a time.
        cancelled: set it from another thread to stop; `Cancelled` is raised. A run that fails sets it too, for a
            source that makes its readers wait.
        server_only: refuse colorizers named by file.
        workers: segments coloured at a time; by default one per core.

    Raises BadFilm, BadSettings, UnknownColorizer, BadColorizer, Cancelled, and OSError of the sink.
    """
    cancelled = cancelled or threading.Event()
    listener = _Listener(on_progress, on_warning)
    container = choose_container(settings.container)
    colorizer = colorizers.load(settings.colorizer, files=not server_only)
    engine = CpuEngine(colorizer)
    with Film(source) as film:
        codec, pix_fmt = choose_codec(settings.codec, container, film.facts.picture)
        encoding = Encoding(codec, pix_fmt, film.facts)
        encoding.check()
        for text in _caveats(film.facts, container):
            listener.on_warning(text)
        geometry = Geometry.of(film.facts.picture, colorizer.manifest, pix_fmt)
        listener.expected = film.facts.frames_expected
        pool = _Workers(
            workers or cpu_count() or 1,
            cancelled,
            lambda: Worker(
                source,
                engine,
                geometry,
                encoding,
                lenient=settings.lenient,
                cancelled=cancelled,
                on_frames=listener.on_frames,
            ),
        )
        muxer = Muxer(sink, film, container, encoding, listener.on_warning)
        try:
            coloured = 0
            with pool:
                for segment, chunk in pool.run(film.segments(lenient=settings.lenient, warn=listener.on_warning)):
                    for text in chunk.warnings:
                        listener.on_warning(text)
                    coloured += chunk.frames
                    muxer.write(segment, chunk)
            if not coloured:
                raise BadFilm(f"{source.name}: not one frame of its video can be decoded")
            if muxer.frames != coloured:
                raise RuntimeError(f"{coloured} frames were coloured but {muxer.frames} written")
            muxer.finish()
        except BaseException:
            muxer.abandon()
            raise
    return Report(coloured)


def _caveats(facts: Facts, container: Container) -> Iterator[str]:
    """What of this film will not come through whole."""
    if not facts.has_timestamps:
        yield f"the film has no timestamps: its frames are counted at {float(facts.frame_rate):g} a second"
    if facts.picture.interlaced:
        yield "the film is interlaced: its fields are kept as they are, but marked as whole frames"
    if facts.picture.has_alpha:
        yield "the film has transparency, which is left out"
    if container.format == "matroska" and (1000 * facts.time_base).denominator > 1:
        yield "Matroska keeps whole milliseconds: frames move by up to half of one; MP4 and MOV keep times exactly"


class _Listener:
    """Brings several threads' news to the caller, one call at a time."""

    def __init__(self, on_progress: Callable[[int, int], None], on_warning: Callable[[str], None]) -> None:
        self._on_progress, self._on_warning = on_progress, on_warning
        self._lock = threading.RLock()
        self._frames, self.expected = 0, 0

    def on_frames(self, count: int) -> None:
        with self._lock:
            self._frames += count
            self._on_progress(self._frames, self.expected)

    def on_warning(self, text: str) -> None:
        with self._lock:
            self._on_warning(text)


class _Workers:
    """Colours segments on several threads (decoder, colorizer and encoder release the GIL) and keeps their order."""

    def __init__(self, count: int, cancelled: threading.Event, make: Callable[[], Worker]) -> None:
        self._count, self._cancelled, self._make = count, cancelled, make
        self._local = threading.local()
        self._reader: threading.Thread | None = None
        self._made: list[Worker] = []

    def __enter__(self) -> "_Workers":
        self._pool = ThreadPoolExecutor(self._count, "worker")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._cancelled.set()  # whatever failed, nobody wants the segments that are still being coloured
        if self._reader:
            self._reader.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for worker in self._made:
            worker.close()

    def run(self, segments: Iterator[Segment]) -> Iterator[tuple[Segment, Chunk]]:
        """Segments with their chunks, in order. At most a few segments are held at a time, however long the film."""
        ahead: queue.Queue[tuple[Segment, Future[Chunk]] | BaseException | None] = queue.Queue(self._count + 1)

        def put(item: tuple[Segment, Future[Chunk]] | BaseException | None) -> bool:
            while not self._cancelled.is_set():
                try:
                    ahead.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        def read() -> None:
            # Reading has a thread of its own: finished segments go out while the next bytes are still awaited.
            try:
                for segment in segments:
                    if not put((segment, self._pool.submit(self._colorize, segment))):
                        return
                put(None)
            except BaseException as error:
                put(error)

        self._reader = threading.Thread(target=read, name="reader")
        self._reader.start()
        while (item := self._next(ahead)) is not None:
            segment, future = item
            yield segment, future.result()

    def _next(
        self, ahead: "queue.Queue[tuple[Segment, Future[Chunk]] | BaseException | None]"
    ) -> tuple[Segment, Future[Chunk]] | None:
        while True:
            if self._cancelled.is_set():
                raise Cancelled("cancelled")
            try:
                item = ahead.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def _colorize(self, segment: Segment) -> Chunk:
        if not hasattr(self._local, "worker"):
            self._local.worker = self._make()
            self._made.append(self._local.worker)
        worker: Worker = self._local.worker
        return worker.colorize(segment)
