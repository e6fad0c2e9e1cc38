"""Colouring a whole film: the library's one door.

with open("coloured.mp4", "wb") as sink:
    report = colorize(FileSource(Path("film.mp4")), sink, Settings())
"""

import contextlib
import dataclasses
import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from kinochrome_proto.errors import BadFilm, BadSettings, Cancelled

from . import colorizers
from .codecs import Codec, Container, Encoding, choose_codec, choose_container
from .compose import compared_size
from .engines import choice
from .engines.interface import EngineSettings
from .facts import Facts
from .fields import deinterlaced
from .film import Clip, Film
from .journal import Journal, Record, film_identity
from .looks import Look
from .muxer import Muxer
from .opening import opened
from .planes import Picture
from .pool import WorkerPool
from .sandbox import Terms
from .segments import Segment
from .sources import Source, Watched
from .turns import NOBODY, Turn
from .worker import BATCH, Colorize, Job, Probe

MOST_DAMAGES = 10
"""Warnings of single places in a film that are given one by one."""
WORKER_BYTES = 250_000_000
"""Memory of a worker besides pictures: libraries, a colorizer, an encoder's tables."""
WORKER_FRAMES = 50
"""Pictures that a worker holds: those that decoder, stabiliser and encoder wait with."""


@dataclass(frozen=True)
class Settings:
    """How a film is to be coloured."""

    colorizer: str = ""
    """Name of a shipped colorizer or an .onnx file; "" is the default."""
    engine: str = choice.AUTO
    """What runs the colorizer: a key of `engines.choice.ENGINES`, or "auto", the best that does so here."""
    look: Look = field(default_factory=Look)
    clip: Clip = field(default_factory=Clip)
    codec: str = ""
    """A key of `codecs.CODECS`; "" is the container's usual one."""
    container: str = ""
    """A key of `codecs.CONTAINERS`; "" is mp4."""
    crf: int | None = None
    """Constant rate factor, in the codec's own scale (lower is better); None is the codec's usual one."""
    preset: str = ""
    """Speed against size, in the codec's own words; "" is the codec's usual one."""
    pix_fmt: str = ""
    """Output pixel format; "" keeps the film's luma depth and chroma grid."""
    keep_color: bool = False
    """Leave shots as they are that are in colour already."""
    deinterlace: bool = False
    """Turn interlaced film into whole frames."""
    compare: bool = False
    """Show the film in gray and coloured, side by side in one picture."""
    lenient: bool = False
    """Colour what can be read of a damaged film instead of refusing it."""
    strict: bool = False
    """Refuse a film of which anything would be lost, instead of warning."""


@dataclass(frozen=True)
class Report:
    """Proof of a film coloured."""

    frames: int
    """Frames decoded, coloured and written."""
    resumed: int
    """Those of them that an earlier, interrupted run had coloured."""
    engine: str
    """What ran the colorizer, in words: name, versions, device."""


def colorize(
    source: Source,
    sink: BinaryIO,
    settings: Settings,
    *,
    on_engine: Callable[[str], None] = lambda words: None,
    on_facts: Callable[[Facts], None] = lambda facts: None,
    on_progress: Callable[[int, int], None] = lambda frames, expected: None,
    on_resumed: Callable[[int], None] = lambda frames: None,
    on_warning: Callable[[str], None] = lambda text: None,
    cancelled: threading.Event | None = None,
    server_only: bool = False,
    pool: WorkerPool | None = None,
    journal: Journal | None = None,
    scratch: Path | None = None,
    turn: Turn = NOBODY,
) -> Report:
    """Colour a film from `source` into `sink`, a file object that can seek.

    Args:
        source: the film. It may still be growing: reads block until bytes are there.
        sink: where the coloured film goes. On an exception what it holds is no film: throw it away.
        settings: how.
        on_engine: called once, with the first coloured frames, with what runs the colorizer, as in `Report`.
        on_facts: called once, before anything is coloured, with what is known of the film.
        on_progress: called with the frames coloured so far and those that the film says it has (0: it does not say).
        on_resumed: called with the frames that need not be coloured, for an earlier run has done so; may come again.
        on_warning: called with what the user should know. Each is called from several threads, one call at a time.
        cancelled: set it from another thread to stop; `Cancelled` is raised.
        server_only: refuse colorizers named by file.
        pool: the workers; by default as many as there are cores, for this film alone.
        journal: of this film and these settings, from `journal_in`: the same call after an interruption carries on
            from there, to the same bytes. The caller removes it once the film is safe. By default nothing is kept.
        scratch: a folder for passing files where there is no journal; by default the system's temporary one.
        turn: on whose account, where several films share the workers.

    Raises BadFilm, BadSettings, UnknownColorizer, BadColorizer, Unusable (the engine), OutputInTheWay (of the
    journal), Cancelled, and OSError of the sink or the journal.
    """
    if settings.strict and settings.lenient:
        raise BadSettings("--strict and --lenient exclude each other: choose one")
    listener = _Listener(on_progress, on_resumed, on_warning, settings.strict)
    container = choose_container(settings.container)
    codec = choose_codec(settings.codec, container, crf=settings.crf, preset=settings.preset)
    colorizer = colorizers.load(settings.colorizer, files=not server_only)
    if settings.engine == choice.AUTO:
        settings = decided(settings, listener.on_warning)
    engine = choice.described(settings.engine)
    if settings.look.seed and not colorizer.manifest.noise_length:
        listener.on_warning(f"colorizer {colorizer.name} has one style only: --seed changes nothing")
    cancelled = cancelled or threading.Event()
    with contextlib.ExitStack() as stack:
        # Whatever fails, readers that wait for more of the film are freed, and workers of this film stop.
        stack.push(_OnFailure(source.abandon))
        stack.push(_OnFailure(cancelled.set))
        stack.enter_context(_abandoned_once(cancelled, source))
        kept = journal or stack.enter_context(Journal(None, {}, scratch=scratch))
        read = Watched(source, cancelled)
        if source.size() is None:
            with opened(read):
                pass  # waits here for what a worker needs, not in a worker, whose silence would be taken for a hang
        own_pool = pool is None
        pool = pool or stack.enter_context(WorkerPool(terms=Terms.of_worker(writes=[kept.folder])))
        facts = Facts.from_plain(pool.submit(Probe(source), cancelled, turn=turn).result())
        if own_pool:
            pool.count = min(pool.count, _that_fit(facts.picture))
        film = stack.enter_context(Film(read, facts, settings.clip))
        facts = film.facts
        on_facts(facts)
        encoding = _encoding(codec, facts, settings)
        for text in (*caveats(facts, container, settings.deinterlace), *encoding.caveats(container)):
            listener.on_warning(text)
        job = Job(
            source=source,
            facts=facts,
            colorizer=colorizer.path,
            colorizer_sha256=colorizer.sha256,
            engine=settings.engine,
            encoding=encoding,
            # Films that differ in a seed of no effect share what has the colorizer loaded.
            look=settings.look if colorizer.manifest.noise_length else replace(settings.look, seed=0),
            lenient=settings.lenient,
            keep_color=settings.keep_color,
            deinterlace=settings.deinterlace and bool(facts.picture.field_order),
            compare=settings.compare,
            durable=journal is not None,
        )
        listener.expected = facts.frames_expected
        listener.on_begin = lambda: on_engine(engine)
        muxer = Muxer(sink, film, container, encoding, listener.on_warning)
        stack.push(_OnFailure(muxer.abandon))
        segments = film.segments(kept.passing_file, lenient=settings.lenient, warn=listener.on_warning)
        run = _Run(pool, turn, kept, job, cancelled, listener)
        coloured = 0
        with run:
            for segment, record in run.chunks(segments):
                for text in record.warnings:
                    listener.on_damage(text)
                coloured += record.frames
                muxer.write(segment.file, kept.chunk_file(segment.index))
                segment.file.unlink()
                kept.drop(segment.index)
        if not coloured and not settings.clip.is_whole:
            raise BadSettings(f"{source.name} has no frame {settings.clip}")
        listener.sum_up()
        if not coloured:
            raise BadFilm(f"{source.name}: not one frame of its video can be decoded")
        if muxer.frames != coloured:
            raise RuntimeError(f"{coloured} frames were coloured but {muxer.frames} written")
        muxer.finish()
    return Report(coloured, listener.resumed, engine)


def decided(settings: Settings, on_warning: Callable[[str], None] = lambda text: None) -> Settings:
    """The settings with an engine that has loaded the colorizer and painted a picture with it, here and now.

    Args:
        settings: where their engine is "auto", the best is taken that does so.
        on_warning: told where one is passed over that should.

    Raises BadSettings, UnknownColorizer, BadColorizer; Unusable when the engine that they name does not.
    """
    colorizer = colorizers.load(settings.colorizer)
    wanted = EngineSettings(seed=settings.look.seed, batch=BATCH)
    return replace(settings, engine=choice.choose(settings.engine, colorizer, wanted, on_warning).name)


def journal_in(folder: Path, source: Source, settings: Settings, *, restart: bool = False) -> Journal:
    """The journal in `folder`, begun or carried on.

    Args:
        folder: for this film and these settings alone; made if it is not there.
        source: the film, whole.
        settings: how it is coloured, as `decided`: another engine gives other bytes.
        restart: throw away what an earlier run left there.

    Raises OutputInTheWay when it cannot be used: see `Journal`. Raises UnknownColorizer, BadColorizer, Unusable.
    """
    plain = dataclasses.asdict(settings)
    plain["look"]["references"] = [hashlib.sha256(still).hexdigest() for still in settings.look.references]
    plain["clip"] = {"from": str(settings.clip.start), "to": str(settings.clip.stop)}
    plain["colorizer"] = colorizers.load(settings.colorizer).sha256
    # Of another version or on another device an engine may round otherwise.
    plain["engine"] = choice.described(settings.engine)
    for name in ("lenient", "strict"):  # of no effect on a segment that was finished
        del plain[name]
    with source.open() as file:
        identity = {"film": film_identity(file), "settings": plain, "version": version("kinochrome")}
    return Journal(folder, identity, restart=restart)


def _encoding(codec: Codec, facts: Facts, settings: Settings) -> Encoding:
    picture = deinterlaced(facts.picture) if settings.deinterlace and facts.picture.field_order else facts.picture
    size = compared_size(picture) if settings.compare else None
    encoding = Encoding.of(codec, replace(facts, picture=picture), pix_fmt=settings.pix_fmt, size=size)
    encoding.check()
    return encoding


def _that_fit(picture: Picture) -> int:
    """Workers for such pictures that the memory at hand holds (Linux's MemAvailable: free, or easily freed)."""
    frame = 3 * picture.width * picture.height * (1 if picture.depth == 8 else 2) // 2
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return max(1, available // (WORKER_BYTES + WORKER_FRAMES * frame))


def caveats(facts: Facts, container: Container, deinterlace: bool = False) -> Iterator[str]:
    """What of this film will not come through as it is, whatever the codec."""
    if not facts.has_timestamps:
        yield f"the film has no timestamps: its frames are counted at {float(facts.frame_rate):g} a second"
    if facts.picture.field_order and not facts.fields_marked and not deinterlace:
        yield "fields are seen in the film that it does not mark: it is written as interlaced; see --deinterlace"
    if facts.picture.has_alpha:
        yield "the film has transparency, which is left out"
    if container.format in ("matroska", "webm") and (1000 * facts.time_base).denominator > 1:
        yield "Matroska keeps whole milliseconds: frames move by up to half of one; MP4 and MOV keep times exactly"


class _Listener:
    """Brings several threads' news to the caller, one call at a time."""

    def __init__(
        self,
        on_progress: Callable[[int, int], None],
        on_resumed: Callable[[int], None],
        on_warning: Callable[[str], None],
        strict: bool,
    ) -> None:
        self._on_progress, self._on_resumed, self._on_warning = on_progress, on_resumed, on_warning
        self._strict, self._damages = strict, 0
        self._lock, self._warning_lock = threading.RLock(), threading.Lock()
        self._frames, self.resumed, self.expected = 0, 0, 0
        self.on_begin: Callable[[], None] | None = None
        """Called once, before the first progress: whatever can be refused has not been by then."""

    def on_resumed(self, count: int) -> None:
        with self._lock:
            self.resumed += count
            self._on_resumed(self.resumed)
        self.on_frames(count)

    def on_frames(self, count: int) -> None:
        with self._lock:
            if self.on_begin:
                self.on_begin()
                self.on_begin = None
            self._frames += count
            self._on_progress(self._frames, self.expected)

    def on_damage(self, text: str) -> None:
        """Of single places in the film, of which there may be thousands: the first are told one by one."""
        self._damages += 1
        if self._strict or self._damages <= MOST_DAMAGES:
            self.on_warning(text)

    def sum_up(self) -> None:
        """Tell of the damages that were not told one by one."""
        if self._damages > MOST_DAMAGES:
            self.on_warning(f"and {self._damages - MOST_DAMAGES} more places like these")

    def on_warning(self, text: str) -> None:
        if self._strict:
            raise BadFilm(f"--strict: {text}")
        # A lock of its own: whoever is slow to hear a warning must not hold up workers, who report progress.
        with self._warning_lock:
            self._on_warning(text)


class _OnFailure:
    """A context manager that does something when what it guards fails."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is not None:
            self._do()


@contextlib.contextmanager
def _abandoned_once(cancelled: threading.Event, source: Source) -> Iterator[None]:
    """For the length of a `with`: frees those who wait for more of a film that is not wanted any more."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            if cancelled.is_set():
                source.abandon()
                return

    watcher = threading.Thread(target=watch, name="watcher")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


class _Run:
    """One film's segments on their way through the workers, in order and never many at a time."""

    def __init__(
        self,
        pool: WorkerPool,
        turn: Turn,
        journal: Journal,
        job: Job,
        cancelled: threading.Event,
        listener: _Listener,
    ) -> None:
        self._pool, self._turn, self._journal, self._job = pool, turn, journal, job
        self._cancelled, self._listener = cancelled, listener
        self._ahead: queue.Queue[tuple[Segment, Future[Record]] | BaseException | None] = queue.Queue(pool.count + 1)
        self._reader: threading.Thread | None = None
        self._pending: list[Future[Record]] = []

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is not None:
            self._cancelled.set()  # nobody wants the segments that are still being coloured
            self._job.source.abandon()
        if self._reader:
            self._reader.join()
        for future in self._pending:
            with contextlib.suppress(BaseException):
                future.result()

    def chunks(self, segments: Iterator[Segment]) -> Iterator[tuple[Segment, Record]]:
        """Segments with the records of their chunks, in order."""

        def read() -> None:
            # Reading has a thread of its own: finished segments go out while the next bytes are still awaited.
            try:
                for segment in segments:
                    if not self._put((segment, self._record(segment))):
                        return
                self._put(None)
            except BaseException as error:
                self._put(error)

        self._reader = threading.Thread(target=read, name="reader")
        self._reader.start()
        while (item := self._next()) is not None:
            segment, future = item
            yield segment, future.result()

    def _record(self, segment: Segment) -> "Future[Record]":
        """Of the chunk that an earlier run left, or of one that a worker is about to make."""
        record: Future[Record] = Future()
        found = self._journal.usable(segment.index, segment.sha256, lenient=self._job.lenient)
        if found:
            self._listener.on_resumed(found.frames)
            record.set_result(found)
            return record
        self._pending = [future for future in self._pending if not future.done()]
        self._pending.append(record)

        def note(done: "Future[dict[str, Any]]") -> None:
            # In the worker's thread: a chunk is in the journal as soon as it is finished, whatever comes before it.
            try:
                result = done.result()
                entry = Record(segment.index, segment.sha256, **{**result, "warnings": tuple(result["warnings"])})
                self._journal.add(entry)
            except BaseException as error:
                record.set_exception(error)
            else:
                record.set_result(entry)

        task = Colorize(self._job, segment, self._journal.chunk_file(segment.index))
        self._pool.submit(task, self._cancelled, self._listener.on_frames, turn=self._turn).add_done_callback(note)
        return record

    def _put(self, item: "tuple[Segment, Future[Record]] | BaseException | None") -> bool:
        while not self._cancelled.is_set():
            try:
                self._ahead.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _next(self) -> "tuple[Segment, Future[Record]] | None":
        while True:
            if self._cancelled.is_set():
                raise Cancelled("cancelled")
            try:
                item = self._ahead.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item
