"""How near colouring a film comes to what its codec and its colorizer cost by themselves.

    python -m benchmarks.throughput FILM --json throughput.json

Three things by turns, on the same film, cores and worker processes:

- codec: frames are decoded and encoded with the same settings, and nothing is done to them in between;
- colorizer: batches of thumbnails go through it, as many as the film has frames;
- whole: the film is coloured, sound and all, from the start of the workers to its last byte.

Each gives frames a second and processor seconds a frame, the start of the workers apart. Efficiency is how much of the
machine the whole spends on what must be done: frames a second x (codec's + colorizer's processor time a frame) / cores.
It is 1 where nothing else takes time and no core ever waits.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tests.faults import descendants

from kinochrome_server import colorizers, pipeline
from kinochrome_server.chroma import Geometry
from kinochrome_server.codecs import Encoding, choose_codec, choose_container
from kinochrome_server.decoding import Account
from kinochrome_server.engines import choice
from kinochrome_server.engines.interface import EngineSettings
from kinochrome_server.facts import Facts
from kinochrome_server.film import Film
from kinochrome_server.packets import Role
from kinochrome_server.pool import Watching, WorkerPool, usable_cores
from kinochrome_server.segments import Segment
from kinochrome_server.sources import FileSource, Source
from kinochrome_server.worker import BATCH, Bench, Probe, Start

SAMPLES_S = 0.2
"""Between two looks at the memory."""


@dataclass(frozen=True)
class Recode:
    """Decode a segment and encode it again. Gives its frames, and processor seconds."""

    source: Source
    facts: Facts
    encoding: Encoding
    segment: Segment

    @property
    def subject(self) -> str:
        return f"{self.source.name}, at {self.segment.seconds:.1f} s"

    def run(self, bench: Bench, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        begun, frames = time.process_time(), 0
        encoder = self.encoding.open()
        shown = bench.decoder(self.source, self.facts).frames(self.segment, Account(), lenient=False, before=0, after=0)
        for one in shown:
            if one.role == Role.OWN:
                picture = one.frame.reformat(format=self.encoding.pix_fmt)
                picture.pts, picture.time_base = one.pts, self.facts.time_base
                picture.pict_type = 0  # the encoder chooses
                encoder.encode(picture)
                frames += 1
                tell(1)
        if frames:
            encoder.encode(None)
        return {"frames": frames, "processor_s": time.process_time() - begun}


@dataclass(frozen=True)
class Paint:
    """Put so many thumbnails through a colorizer, BATCH at a time. Gives processor seconds."""

    colorizer: Path
    engine: str
    height: int
    width: int
    frames: int
    subject: str = "thumbnails"

    def run(self, bench: Bench, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        engine = choice.engine_class(self.engine)(colorizers.read(self.colorizer), EngineSettings(batch=BATCH))
        luma = np.random.default_rng(0).integers(0, 256, (BATCH, self.height, self.width), np.uint8)
        engine.run(luma)
        begun, started, frames = time.process_time(), time.monotonic(), 0
        while frames < self.frames:
            engine.run(luma)
            frames += BATCH
            tell(BATCH)
        return {"frames": frames, "processor_s": time.process_time() - begun, "s": time.monotonic() - started}


@dataclass
class Figures:
    """Of one of the three."""

    frames: int
    seconds: float
    """On the clock."""
    processor_s: float
    """Of all cores."""

    @property
    def fps(self) -> float:
        return self.frames / self.seconds

    @property
    def frame_ms(self) -> float:
        """Processor time of a frame, in milliseconds."""
        return 1000 * self.processor_s / self.frames


@dataclass
class Whole(Figures):
    """Of colouring."""

    first_s: float = 0.0
    """Until the first frame was coloured, the start of the workers included."""
    peak_mb: float = 0.0
    """Memory of this process and its workers, at most."""
    stages_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds a frame of a worker's time, by stage."""


@contextlib.contextmanager
def workers() -> Iterator[WorkerPool]:
    """As many as there are cores, started."""
    with WorkerPool() as pool:
        for started in [pool.submit(Start()) for _ in range(pool.count)]:
            started.result()
        yield pool


def codec(source: FileSource, settings: pipeline.Settings, scratch: Path) -> Figures:
    """Decode and encode the film in as many workers as there are cores."""
    container = choose_container(settings.container)
    chosen = choose_codec(settings.codec, container, crf=settings.crf, preset=settings.preset)
    with workers() as pool:
        facts = Facts.from_plain(pool.submit(Probe(source)).result())
        with Film(source, facts, settings.clip) as film:
            encoding = Encoding.of(chosen, film.facts)
            segments = list(
                film.segments(lambda name: scratch / f"{name}.passing", lenient=False, warn=lambda text: None)
            )
            started = time.monotonic()
            tasks = [pool.submit(Recode(source, film.facts, encoding, segment)) for segment in segments]
            done = [task.result() for task in tasks]
            seconds = time.monotonic() - started
    for segment in segments:
        segment.file.unlink()
    return Figures(sum(one["frames"] for one in done), seconds, sum(one["processor_s"] for one in done))


def colorizer(settings: pipeline.Settings, facts: Facts, frames: int) -> Figures:
    """The colorizer by itself, in as many workers as there are cores."""
    chosen = colorizers.load(settings.colorizer)
    pix_fmt = Encoding.of(choose_codec("", choose_container("")), facts).pix_fmt
    geometry = Geometry.of(facts.picture, chosen.manifest, pix_fmt)
    height, width = geometry.thumbnail
    with workers() as pool:
        task = Paint(chosen.path, settings.engine, height, width, frames // pool.count)
        done = [one.result() for one in [pool.submit(task) for _ in range(pool.count)]]
    painted = sum(one["frames"] for one in done)
    return Figures(painted, max(one["s"] for one in done), sum(one["processor_s"] for one in done))


def whole(source: FileSource, settings: pipeline.Settings, scratch: Path) -> Whole:
    """Colour the film."""
    stages: Counter[str] = Counter()
    first: list[float] = []
    memory, ended = _Memory(), threading.Event()
    watcher = threading.Thread(target=memory.watch, args=(ended,))

    def note(frames: int, expected: int) -> None:
        if frames and not first:
            first.append(time.monotonic() - began)

    before, began = _processor_s(), time.monotonic()
    watcher.start()
    watching = Watching(stage=lambda name, seconds: stages.update({name: seconds}))
    with WorkerPool(watching=watching) as pool, (scratch / "coloured").open("w+b") as sink:
        report = pipeline.colorize(source, sink, settings, pool=pool, on_progress=note)
        seconds = time.monotonic() - began
    ended.set()
    watcher.join()
    return Whole(
        report.frames,
        seconds,
        _processor_s() - before,
        first[0],
        memory.peak_mb,
        {name: 1000 * spent / report.frames for name, spent in stages.items()},
    )


class _Memory:
    """Of this process and all it started, at most: what is theirs alone, and their share of what they share."""

    def __init__(self) -> None:
        self.peak_mb = 0.0

    def watch(self, ended: threading.Event) -> None:
        while not ended.wait(SAMPLES_S):
            pids = [os.getpid(), *descendants(os.getpid())]
            self.peak_mb = max(self.peak_mb, sum(map(_pss_mb, pids)))


def _pss_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0  # it has ended, or is not for us to see


def _processor_s() -> float:
    """Of this process, and of those of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", type=Path)
    parser.add_argument("--model", default="", help="a shipped colorizer or an .onnx file")
    parser.add_argument("--codec", default="")
    parser.add_argument("--preset", default="", help="of the encoder; for H.264 and H.265 default: the usual one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    settings = pipeline.decided(pipeline.Settings(colorizer=args.model, codec=args.codec, preset=args.preset))
    source, cores = FileSource(args.film), usable_cores()
    rounds: list[tuple[Figures, Figures, Whole]] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with WorkerPool(1) as pool:
            facts = Facts.from_plain(pool.submit(Probe(source)).result())
        for _ in range(args.rounds):
            recoded = codec(source, settings, scratch)
            rounds.append((recoded, colorizer(settings, facts, recoded.frames), whole(source, settings, scratch)))
    shares = [w.fps * (c.frame_ms + m.frame_ms) / 1000 / cores for c, m, w in rounds]
    names = ("codec", "colorizer", "whole")
    print(
        f"{args.film.name}, {facts.picture.width}x{facts.picture.height}, {rounds[0][2].frames} frames, {cores} cores"
    )
    for place, what in enumerate(names):
        one = [figures[place] for figures in rounds]
        fps, ms = (statistics.median(getattr(each, what_of) for each in one) for what_of in ("fps", "frame_ms"))
        print(f"{what:9} {fps:7.1f} frames a second, {ms:6.2f} ms of processor a frame")
    last = rounds[-1][2]
    print("a worker's time by stage, ms a frame: " + ", ".join(f"{k} {v:.2f}" for k, v in last.stages_ms.items()))
    print(f"first frame after {last.first_s:.2f} s, memory {max(w.peak_mb for _, _, w in rounds):.0f} MB at most")
    print(f"efficiency {statistics.median(shares):.2f} ({', '.join(f'{share:.2f}' for share in shares)})")
    if args.json:
        plain = [{name: asdict(figures) for name, figures in zip(names, one, strict=True)} for one in rounds]
        report = {"film": args.film.name, "cores": cores, "engine": settings.engine, "rounds": plain}
        args.json.write_text(json.dumps({**report, "efficiency": statistics.median(shares)}, indent=1) + "\n")


if __name__ == "__main__":
    from benchmarks import throughput  # by whose name workers find the tasks, not by __main__'s

    throughput.main()
