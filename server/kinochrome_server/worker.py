"""What worker processes do: look at a film, and colour a segment.

Colouring a segment is a pure function of its packets, the colorizer, the look and the encoding. Its stages are
generators, one frame deep each but for what batches and looking ahead need, so a segment may be as long as the film:

packets → decoded → thumbnails → cuts → painted → steadied → graded, composed, encoded → chunk file
"""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

import contextlib
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.frame import VideoFrame

from kinochrome_proto.errors import BadColorizer
from kinochrome_proto.manifest import Manifest

from . import colorizers, steady
from .chroma import Float, Geometry, thumbnail
from .codecs import Encoding
from .compose import Composer
from .cuts import DELAY, with_cuts
from .decoding import Account, Decoder, OutOfOrder, Shown, in_order
from .delayed import delayed
from .engines.choice import engine_class
from .engines.interface import EngineSettings
from .facts import Facts, probe
from .fields import Deinterlacer
from .inference.remote import Counter, RemoteEngine
from .inference.sessions import Session
from .looks import Grade, Look
from .packets import Role, StoredPacket, write_packet
from .planes import Plane, luma_of
from .segments import WARM_UP, Segment
from .sources import Source
from .verification import check_painted

BATCH = 4
"""Frames that go through the colorizer at once: larger batches are no faster on a CPU, and hold more pictures."""


@dataclass(frozen=True)
class Job:
    """All that the segments of one film share."""

    source: Source
    facts: Facts
    """Of the film."""
    colorizer: Path
    colorizer_sha256: str
    engine: str
    """A key of `engines.choice.ENGINES`."""
    encoding: Encoding
    """Its facts are those of the frames that are painted, after deinterlacing."""
    look: Look
    lenient: bool
    keep_color: bool
    deinterlace: bool
    compare: bool
    durable: bool
    """Whether chunks are forced to the disk."""


@dataclass(frozen=True)
class Start:
    """Nothing but what starts a worker takes: for workers to be there before the first film is."""

    @property
    def subject(self) -> str:
        return "a worker's start"

    def run(self, bench: Bench, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        del bench, tell, sparing
        return {}


@dataclass(frozen=True)
class Probe:
    """Look at a film: gives `Facts.plain`."""

    source: Source

    @property
    def subject(self) -> str:
        return self.source.name

    def run(self, bench: Bench, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        del bench, tell, sparing
        return probe(self.source).plain()


@dataclass(frozen=True)
class Colorize:
    """Colour a segment: gives what a `journal.Record` says of its chunk."""

    job: Job
    segment: Segment
    chunk: Path
    """Where the encoded packets go; it appears when it is whole."""

    @property
    def subject(self) -> str:
        return f"{self.job.source.name}, at {self.segment.seconds:.1f} s"

    @property
    def session(self) -> Session:
        """What the inference process is to run for it, where it is one that paints."""
        job = self.job
        return Session(job.engine, str(job.colorizer), job.colorizer_sha256, job.look.seed)

    def run(self, bench: Bench, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        painter = bench.painter(self.job)
        passing = self.chunk.with_suffix(".passing")
        batch = 1 if sparing else BATCH
        try:
            done = painter.colorize(self.segment, passing, tell, batch)
            os.replace(passing, self.chunk)
        finally:
            passing.unlink(missing_ok=True)
        return done


class Paints(Protocol):
    """An engine, here or elsewhere."""

    manifest: Manifest

    @property
    def ahead(self) -> int:
        """As `Engine.ahead`."""

    def begin(self, luma: npt.NDArray[np.uint8]) -> Callable[[], npt.NDArray[np.float32]]:
        """As `Engine.begin`."""


class Clock:
    """What a task's time goes to, and how full its batches were."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._seconds: dict[str, float] = {}
        self._batches: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """What is done meanwhile belongs to a stage: "decode", "colour", "encode"."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - begun

    def batch(self, frames: int, room: int) -> None:
        """A batch of so many frames was painted in this process."""
        self._batches.append((frames, room))

    def figures(self) -> dict[str, Any]:
        """In plain JSON values; nothing where nothing was done."""
        return {"stages": self._seconds, "batches": self._batches} if self._seconds else {}


class Bench:
    """What a worker keeps from one task to the next: the film it is at, and its colorizer."""

    def __init__(self, counter: Counter | None = None) -> None:
        """`counter`: the line to the inference process."""
        self.remote = False
        """Whether that paints for the task at hand."""
        self.clock = Clock()
        self._counter = counter
        self._open = contextlib.ExitStack()
        self._film: tuple[Source, Facts] | None = None
        self._painter: tuple[Job, bool, Painter] | None = None
        self._engine: tuple[tuple[str, str, int, bool], Paints] | None = None

    def decoder(self, source: Source, facts: Facts) -> Decoder:
        """A decoder of the film; that of the film before is closed."""
        if self._film != (source, facts):
            self._open.close()
            self._film = self._painter = None
            self._decoder = self._open.enter_context(Decoder(source, facts))
            self._film = source, facts
        return self._decoder

    def painter(self, job: Job) -> Painter:
        """The painter of a film."""
        decoder = self.decoder(job.source, job.facts)
        if self._painter is None or self._painter[:2] != (job, self.remote):
            self._painter = job, self.remote, Painter(job, decoder, self._engine_of(job), self.clock)
        return self._painter[2]

    def _engine_of(self, job: Job) -> Paints:
        key = job.engine, job.colorizer_sha256, job.look.seed, self.remote
        if self._engine is None or self._engine[0] != key:
            colorizer = colorizers.read(job.colorizer)
            if colorizer.sha256 != job.colorizer_sha256:
                raise BadColorizer(f"{job.colorizer} was replaced while a film was being coloured: begin again")
            self._engine = None  # two do not fit into every device's memory
            engine: Paints
            if self.remote:
                assert self._counter is not None
                engine = RemoteEngine(self._counter, colorizer.manifest, str(job.colorizer))
            else:
                settings = EngineSettings(seed=job.look.seed, batch=BATCH)
                engine = engine_class(job.engine)(colorizer, settings)
            self._engine = key, engine
        return self._engine[1]


@dataclass(eq=False)
class _Frame:
    """A frame on its way through the stages."""

    role: Role
    pts: int
    picture: tuple[VideoFrame, Plane] | None
    """As decoded, and its luma (H, W), a view of it; None of frames that nobody will show or look at."""
    thumbnail: npt.NDArray[np.uint8]
    """(h, w), full range."""
    starts_shot: bool = False
    chroma: Float = field(default_factory=lambda: np.empty((2, 0, 0), np.float32))
    """(2, h/s, w/s), -0.5..0.5, BT.601."""


class Painter:
    """Colours segments of one film, one at a time."""

    def __init__(self, job: Job, decoder: Decoder, engine: Paints, clock: Clock) -> None:
        self._job, self._decoder, self._engine, self._clock = job, decoder, engine, clock
        self._facts, self._encoding = job.encoding.facts, job.encoding
        self._geometry = Geometry.of(
            self._facts.picture, engine.manifest, self._encoding.pix_fmt, fields=bool(self._encoding.field_order)
        )
        self._grade = Grade(job.look)

    def colorize(self, segment: Segment, chunk: Path, tell: Callable[[int], None], batch: int) -> dict[str, Any]:
        """Write the segment's encoded packets into a file, in decoding order, the first a keyframe.

        Args:
            segment: what to colour.
            chunk: the file.
            tell: told of each frame.
            batch: frames through the colorizer at once.

        Raises BadFilm when a frame cannot be decoded (unless the job is lenient), OSError of the disk.
        """

        def attempt(by_rank: bool) -> dict[str, Any]:
            account = Account()
            with chunk.open("wb") as file:
                out = _Chunk(file, account, self._facts)
                try:
                    self._encode(self._frames(segment, account, batch, by_rank=by_rank), out, tell)
                except OutOfOrder:
                    tell(-out.frames)
                    raise
                file.flush()
                if self._job.durable:
                    os.fsync(file.fileno())
            return {
                "frames": out.frames,
                "lost": account.damaged,
                "size": out.size,
                "sha256": out.digest.hexdigest(),
                "warnings": account.warnings,
            }

        return in_order(attempt)

    def _frames(self, segment: Segment, account: Account, batch: int, *, by_rank: bool) -> Iterator[_Frame]:
        """The segment's frames with their chroma, in showing order, and those before it."""
        steadies = self._job.look.stabilize > 0
        shown = self._decoder.frames(
            segment,
            account,
            lenient=self._job.lenient,
            before=WARM_UP,
            after=steady.LOOKAHEAD + DELAY if steadies else DELAY,
            by_rank=by_rank,
        )
        if self._job.deinterlace:
            shown = _deinterlaced(shown, self._job.facts)
        frames = map(self._with_thumbnail, shown)
        cut = with_cuts(frames)
        painted = self._painted(_telling(cut) if steadies else _own(cut), batch)
        return self._steadied(painted) if steadies else painted

    def _with_thumbnail(self, shown: Shown) -> _Frame:
        luma = luma_of(shown.frame, self._facts.picture)
        # Pictures are large and stabilisers patient: only what is still wanted is held.
        picture = (shown.frame, luma) if shown.role == Role.OWN or self._job.keep_color else None
        return _Frame(shown.role, shown.pts, picture, thumbnail(luma, self._geometry))

    def _painted(self, frames: Iterator[_Frame], batch: int) -> Iterator[_Frame]:
        turns = self._geometry.turns  # the colorizer sees the film as it is shown
        begun: deque[tuple[list[_Frame], tuple[int, ...], Callable[[], npt.NDArray[np.float32]]]] = deque()
        while group := self._decoded(frames, batch):
            small = np.stack([frame.thumbnail for frame in group])
            small = np.rot90(small, turns, (1, 2))
            with self._clock.of("colour"):
                begun.append((group, small.shape, self._engine.begin(small)))
            if not self._engine.ahead:  # painted here: of its own batches the inference process tells
                self._clock.batch(len(group), batch)
            if len(begun) > self._engine.ahead:
                yield from self._with_chroma(*begun.popleft())
        while begun:
            yield from self._with_chroma(*begun.popleft())

    def _decoded(self, frames: Iterator[_Frame], batch: int) -> list[_Frame]:
        """The next so many."""
        with self._clock.of("decode"):
            return list(islice(frames, batch))

    def _with_chroma(
        self, group: list[_Frame], shape: tuple[int, ...], chroma: Callable[[], npt.NDArray[np.float32]]
    ) -> Iterator[_Frame]:
        with self._clock.of("colour"):
            painted = check_painted(chroma(), shape, self._engine.manifest, str(self._job.colorizer))
        painted = np.rot90(painted, -self._geometry.turns, (2, 3))
        for frame, planes in zip(group, painted, strict=True):
            frame.chroma = planes
            yield frame

    def _steadied(self, frames: Iterator[_Frame]) -> Iterator[_Frame]:
        stabilizer = steady.Stabilizer(self._job.look.stabilize)

        def push(frame: _Frame) -> list[Float]:
            return stabilizer.push(frame.thumbnail, frame.chroma, frame.starts_shot)

        for frame, chroma in delayed(frames, push, stabilizer.flush):
            frame.chroma = chroma
            yield frame

    def _encode(self, frames: Iterator[_Frame], out: _Chunk, tell: Callable[[int], None]) -> None:
        encoder = self._encoding.open()
        composer = Composer(self._geometry, keep_color=self._job.keep_color, compare=self._job.compare)
        for frame in frames:
            if frame.role == Role.OWN:
                assert frame.picture is not None
                painted = self._grade(frame.thumbnail, frame.chroma)
                picture = composer.compose(*frame.picture, frame.thumbnail, painted, frame.starts_shot)
                picture.pts, picture.time_base = frame.pts, self._facts.time_base
                with self._clock.of("encode"):
                    out.take(encoder.encode(picture))
                out.frames += 1
                tell(1)
            elif frame.role == Role.BEFORE and frame.picture:
                composer.watch(*frame.picture, frame.starts_shot)
        if out.frames:
            out.take(encoder.encode(None))


def _deinterlaced(frames: Iterator[Shown], facts: Facts) -> Iterator[Shown]:
    deinterlacer = Deinterlacer(facts.picture, facts.time_base)

    def push(shown: Shown) -> list[VideoFrame]:
        shown.frame.pts = shown.pts
        return deinterlacer.push(shown.frame)

    for shown, whole in delayed(frames, push, deinterlacer.flush):
        yield Shown(shown.role, shown.pts, whole)


def _telling(frames: Iterator[_Frame]) -> Iterator[_Frame]:
    """The segment's frames, and of its neighbours' those that its colours depend on: few, and none beyond a cut."""
    before: deque[_Frame] = deque(maxlen=steady.WARM_UP)
    ahead = steady.LOOKAHEAD
    for frame in frames:
        if frame.role == Role.BEFORE:
            if frame.starts_shot:
                before.clear()
            before.append(frame)
        elif frame.role == Role.OWN:
            if not frame.starts_shot:
                yield from before
            before.clear()
            yield frame
        elif frame.starts_shot or not ahead:
            ahead = 0
        else:
            ahead -= 1
            yield frame


def _own(frames: Iterator[_Frame]) -> Iterator[_Frame]:
    return (frame for frame in frames if frame.role == Role.OWN)


class _Chunk:
    """A chunk while it is written."""

    def __init__(self, file: BinaryIO, account: Account, facts: Facts) -> None:
        self._file, self._account, self._facts = file, account, facts
        self.digest = hashlib.sha256()
        self.size = self.frames = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.digest.update(data)
        self.size += len(data)

    def take(self, packets: list[Packet[Any]]) -> None:
        """Add what the encoder gave."""
        for packet in packets:
            duration = self._account.durations.get(packet.pts) or self._facts.tick
            time_base, is_keyframe = self._facts.time_base, packet.is_keyframe
            stored = StoredPacket(
                Role.OWN, 0, packet.pts, None, duration, time_base, is_keyframe, False, False, bytes(packet)
            )
            write_packet(self, stored)
