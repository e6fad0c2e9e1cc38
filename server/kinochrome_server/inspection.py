"""What a film is, told without colouring it: every frame is looked at, by the same workers and in the same segments."""

import contextlib
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from av.stream import Stream

from kinochrome_proto.errors import KinochromeError

from . import colorizers
from .chroma import Geometry, thumbnail
from .codecs import Encoding, choose_codec, choose_container
from .compose import COLOUR_SPREAD, chroma_of, colour_spread
from .cuts import DELAY, with_cuts
from .decoding import Account, OutOfOrder, Shown, in_order
from .facts import Facts
from .film import Clip, Film
from .journal import Journal
from .packets import Role
from .pipeline import Settings, caveats, colorize
from .planes import luma_of
from .pool import WorkerPool
from .segments import WARM_UP, Segment
from .sources import Source
from .worker import Bench, Probe

FIELDS = {"": "progressive", "tff": "top field first", "bff": "bottom field first"}
SAMPLE_S = Fraction(2)  # seconds of film that are coloured to tell how long all of it takes


@dataclass(frozen=True)
class StreamInfo:
    """A stream of the film."""

    index: int
    type: str
    codec: str
    language: str
    title: str


@dataclass(frozen=True)
class Span:
    """A part of the film, in seconds on its own clock."""

    start: float
    end: float


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    container: str
    duration: float
    """Seconds, as the container says; 0 when it does not say."""
    streams: list[StreamInfo]
    chapters: int
    width: int
    height: int
    pix_fmt: str
    depth: int
    sample_aspect_ratio: str
    rotation: int
    range: str
    matrix: int
    """This and the next two are code points of ITU-T H.273."""
    primaries: int
    transfer: int
    fields: str
    """"progressive", "top field first" or "bottom field first"."""
    frames: int
    frame_rate: float
    frame_rate_kind: str
    """"constant" or "variable"."""
    shots: int
    cuts: list[float]
    """Seconds at which a new shot begins."""
    in_colour: list[Span]
    """Shots that are in colour already: --keep-color leaves them alone."""
    segments: int
    """Parts that are coloured apart, several at a time."""
    warnings: list[str]
    estimated_seconds: float
    """To colour it on this machine, from a sample of it; 0 when it was too short to tell."""

    def plain(self) -> dict[str, Any]:
        """The same in JSON's types."""
        return asdict(self)


@dataclass(eq=False)
class _Examined:
    """What is kept of a frame that was looked at."""

    role: Role
    pts: int
    thumbnail: npt.NDArray[np.uint8]
    """(h, w), full range."""
    spread: float
    """How far it is in colour."""
    starts_shot: bool = False


@dataclass(frozen=True)
class Examine:
    """Look at every frame of a segment: gives their times, cuts and how far each is in colour."""

    source: Source
    facts: Facts
    geometry: Geometry
    segment: Segment
    lenient: bool

    @property
    def subject(self) -> str:
        return f"{self.source.name}, at {self.segment.seconds:.1f} s"

    def run(self, bench: Bench, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        del sparing
        decoder = bench.decoder(self.source, self.facts)

        def attempt(by_rank: bool) -> dict[str, Any]:
            account = Account()
            frames = decoder.frames(
                self.segment, account, lenient=self.lenient, before=WARM_UP, after=DELAY, by_rank=by_rank
            )
            own: list[_Examined] = []
            try:
                for seen in with_cuts(map(self._examined, frames)):
                    if seen.role == Role.OWN:
                        own.append(seen)
                        tell(1)
            except OutOfOrder:
                tell(-len(own))
                raise
            return {
                "times": [seen.pts for seen in own],
                "cuts": [seen.pts for seen in own if seen.starts_shot],
                "spread": [seen.spread for seen in own],
                "warnings": account.warnings,
            }

        return in_order(attempt)

    def _examined(self, shown: Shown) -> _Examined:
        luma = luma_of(shown.frame, self.facts.picture)
        spread = 0.0
        if shown.role == Role.OWN:
            spread = colour_spread(chroma_of(shown.frame, self.geometry), luma, self.geometry.depth)
        return _Examined(shown.role, shown.pts, thumbnail(luma, self.geometry), round(spread, 2))


def inspect(
    source: Source,
    *,
    lenient: bool = False,
    on_progress: Callable[[int, int], None] = lambda frames, expected: None,
    pool: WorkerPool | None = None,
) -> Inspection:
    """Look at a whole film.

    Args:
        source: the film, whole.
        lenient: tell what can be read of a damaged film instead of refusing it.
        on_progress: called with the frames looked at and those that the film says it has.
        pool: the workers; by default as many as there are cores, for this alone.

    Raises BadFilm.
    """
    with contextlib.ExitStack() as stack:
        pool = pool or stack.enter_context(WorkerPool())
        folder = stack.enter_context(Journal(None, {}))
        facts = Facts.from_plain(pool.submit(Probe(source)).result())
        film = stack.enter_context(Film(source, facts))
        warnings: list[str] = []
        manifest = colorizers.load().manifest
        container = choose_container("mkv")
        encoding = Encoding.of(choose_codec("ffv1", container), facts)
        geometry = Geometry.of(facts.picture, manifest, encoding.pix_fmt)
        warnings += caveats(facts, choose_container(""))
        found = _Found()
        waiting: deque[tuple[Segment, Future[dict[str, Any]]]] = deque()
        done = 0
        for segment in film.segments(folder.passing_file, lenient=lenient, warn=warnings.append):
            waiting.append((segment, pool.submit(Examine(source, facts, geometry, segment, lenient))))
            if len(waiting) > 2 * pool.count:
                done += found.add(*waiting.popleft())
                on_progress(done, facts.frames_expected)
        while waiting:
            done += found.add(*waiting.popleft())
            on_progress(done, facts.frames_expected)
        streams = [_stream_info(stream) for stream in film.container.streams]
        name, chapters = film.container.format.name, len(film.container.chapters())
        seconds = _estimate(source, facts, found, pool)
    picture, clock = facts.picture, float(facts.time_base)
    steps = Counter(b - a for a, b in pairwise(found.times))
    usual = steps.most_common(1)[0][0] if steps else 0
    shots = found.shots()
    return Inspection(
        container=name,
        duration=float(facts.duration),
        streams=streams,
        chapters=chapters,
        width=picture.width,
        height=picture.height,
        pix_fmt=picture.pix_fmt,
        depth=picture.depth,
        sample_aspect_ratio=f"{picture.sample_aspect_ratio.numerator}:{picture.sample_aspect_ratio.denominator}",
        rotation=picture.rotation,
        range="full" if picture.full_range else "limited",
        matrix=picture.matrix,
        primaries=picture.primaries,
        transfer=picture.transfer,
        fields=FIELDS[picture.field_order],
        frames=len(found.times),
        frame_rate=_rate(found.times, clock) or float(facts.frame_rate),
        # Clocks that frames do not divide evenly (90 kHz, milliseconds) make neighbours differ by a tick.
        frame_rate_kind="constant" if all(abs(step - usual) <= 1 for step in steps) else "variable",
        shots=len(shots),
        cuts=[round(moment * clock, 3) for moment in found.cuts],
        in_colour=[
            Span(round(start * clock, 3), round(end * clock, 3))
            for start, end, spread in shots
            if spread > COLOUR_SPREAD
        ],
        segments=found.segments,
        warnings=[*warnings, *found.warnings],
        estimated_seconds=seconds,
    )


class _Found:
    """What the workers found, put together in the order of the film."""

    def __init__(self) -> None:
        self.segments = 0
        self.times: list[int] = []
        self.cuts: list[int] = []
        self.spread: list[float] = []
        self.warnings: list[str] = []

    def add(self, segment: Segment, found: "Future[dict[str, Any]]") -> int:
        """Returns the frames of the segment."""
        result = found.result()
        segment.file.unlink()
        self.segments += 1
        self.times += result["times"]
        self.cuts += result["cuts"]
        self.spread += result["spread"]
        self.warnings += result["warnings"]
        return len(result["times"])

    def shots(self) -> list[tuple[int, int, float]]:
        """First and last time of each shot, and how far it is in colour."""
        cuts = set(self.cuts)
        shots: list[tuple[int, int, float]] = []
        for moment, spread in zip(self.times, self.spread, strict=True):
            if not shots or moment in cuts:
                shots.append((moment, moment, spread))
            else:
                start, _, most = shots[-1]
                shots[-1] = start, moment, max(most, spread)
        return shots


def _estimate(source: Source, facts: Facts, found: _Found, pool: WorkerPool) -> float:
    """Seconds that colouring would take, from a sample out of the middle."""
    if len(found.times) < 2 * facts.frame_rate * SAMPLE_S:
        return 0.0
    start = (found.times[len(found.times) // 2] * facts.time_base - facts.start).limit_denominator(1000)
    sample = Settings(clip=Clip(max(start, Fraction(0)), start + SAMPLE_S), lenient=True)
    with tempfile.TemporaryFile() as sink:
        begun = time.monotonic()
        try:
            report = colorize(source, cast(BinaryIO, sink), sample, pool=pool)
        except KinochromeError:  # such as of a film too deep for H.264: what it is can be told all the same
            return 0.0
        taken = time.monotonic() - begun
    # The sample is one segment or two, so it ran on about one worker; a film keeps all of them busy.
    busy = min(pool.count, found.segments)
    return round(taken / report.frames * len(found.times) / busy, 1)


def _rate(times: list[int], clock: float) -> float:
    return round((len(times) - 1) / ((times[-1] - times[0]) * clock), 3) if len(times) > 1 else 0.0


def _stream_info(stream: Stream) -> StreamInfo:
    context = stream.codec_context
    codec = context.codec.canonical_name if context else getattr(stream, "name", None) or "unknown"
    return StreamInfo(stream.index, stream.type, codec, stream.language or "", stream.metadata.get("title", ""))
