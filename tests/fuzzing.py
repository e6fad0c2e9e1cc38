"""A fuzzer over films: mutated inputs go through the whole pipeline, and must come out coloured or refused in a line.

`python -m tests.fuzzing --count 2000` for a long run; `tests/test_fuzz.py` does a short one.
"""

import argparse
import io
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from kinochrome_proto.errors import Cancelled, KinochromeError
from kinochrome_server.film import Clip
from kinochrome_server.pipeline import Settings, colorize
from kinochrome_server.pool import WorkerPool
from kinochrome_server.sources import FileSource
from tests import films, shared
from tests.films import Kind

LONGEST_S = 60.0
"""Seconds that one small input may take: more is a hang."""
LARGEST = 150_000
"""Bytes of a film that is worth mutating: more only takes longer."""

SEEDS = (
    Kind("a.mp4", frames=8, size=(64, 48), gop=4, audio="aac"),
    Kind("b.mkv", frames=8, size=(64, 48), gop=4, audio="aac", subtitle="ass", chapters=True),
    Kind("c.avi", codec="mpeg4", frames=8, size=(64, 48), gop=4),
    Kind("d.mov", codec="png", pix_fmt="rgb24", frames=3, size=(48, 32)),
    Kind("e.gif", codec="gif", pix_fmt="gray", frames=4, size=(48, 32), time_base=Fraction(1, 100)),
    Kind("f.webm", codec="libvpx-vp9", frames=6, size=(64, 48), options={"deadline": "realtime", "cpu-used": "8"}),
    Kind("g.ts", codec="mpeg2video", frames=8, size=(64, 48), gop=4, audio="mp2"),
    Kind("h.h264", frames=8, size=(64, 48), gop=4),
    Kind("i.mkv", codec="libx265", frames=6, size=(64, 64), options={"x265-params": "log-level=none"}),
    Kind("j.mkv", codec="ffv1", pix_fmt="yuv422p10le", frames=4, size=(48, 32)),
)


def seeds(folder: Path) -> list[bytes]:
    """Films to mutate: made on the spot, and small real and odd ones where they are at hand."""
    found = [films.make(folder, kind).read_bytes() for kind in SEEDS]
    if shared.DATA.is_dir():
        real = [*sorted((shared.DATA / "films").iterdir()), *sorted((shared.DATA / "odd").iterdir())]
        found += [file.read_bytes() for file in real if file.stat().st_size <= LARGEST]
    return found


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Damage as disks, lines and enemies do it."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        if len(out) < 16:
            break
        # Headers decide most: half of all damage goes there.
        place = chance.randrange(min(len(out), 2048) if chance.random() < 0.5 else len(out))
        length = min(chance.choice((1, 2, 4, 8, 64, 512)), len(out) - place)
        match chance.randrange(8):
            case 0:
                out[place] ^= 1 << chance.randrange(8)
            case 1:
                out[place : place + length] = chance.randbytes(length)
            case 2:
                out[place : place + length] = bytes(length)
            case 3:
                out[place : place + length] = b"\xff" * length
            case 4:
                del out[place : place + length]
            case 5:
                out[place:place] = out[place : place + length]
            case 6:
                out = out[: max(16, place)]
            case 7:
                other = chance.randrange(len(out))
                out[place : place + length] = out[other : other + length]
    return bytes(out)


@dataclass
class Tally:
    """What became of the inputs."""

    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def inputs(found: list[bytes], count: int, seed: int) -> Iterator[tuple[str, bytes, random.Random]]:
    """Mutated films, each the same for the same seed and number."""
    for number in range(count):
        chance = random.Random(seed * 1_000_003 + number)
        yield f"seed {seed} number {number}", mutate(chance.choice(found), chance), chance


def run(count: int, seed: int, folder: Path, workers: int | None = None, budget_s: float = float("inf")) -> Tally:
    """Colour `count` mutated films, or as many as `budget_s` allows."""
    (folder / "seeds").mkdir()
    found, tally, begun = seeds(folder / "seeds"), Tally(), time.monotonic()
    tempfile.tempdir = str(folder)  # where the pipeline's passing files go
    with WorkerPool(workers) as pool:
        for name, data, chance in inputs(found, count, seed):
            if time.monotonic() - begun > budget_s:
                break
            film = folder / "film"
            film.write_bytes(data)
            settings = Settings(
                container=chance.choice(("mp4", "mkv")),
                lenient=chance.random() < 0.5,
                clip=Clip(Fraction(1, 10)) if chance.random() < 0.1 else Clip(),
            )
            cancelled = threading.Event()
            watch = threading.Timer(LONGEST_S, cancelled.set)
            watch.start()
            started = time.monotonic()
            try:
                report = colorize(FileSource(film), io.BytesIO(), settings, pool=pool, cancelled=cancelled)
                tally.ends["coloured"] += 1
                if not report.frames:
                    tally.faults.append(f"{name}: coloured, but nothing")
            except Cancelled:
                tally.faults.append(f"{name}: hangs")
            except KinochromeError as error:
                tally.ends[type(error).__name__] += 1
                if "\n" in str(error) or "crashed" in str(error):
                    tally.faults.append(f"{name}: {error}")
            except Exception as error:
                tally.faults.append(f"{name}: {type(error).__name__}: {error}")
            finally:
                watch.cancel()
            tally.slowest_s = max(tally.slowest_s, time.monotonic() - started)
            left = sorted(entry.name for entry in folder.iterdir() if entry.name not in ("film", "seeds"))
            if left:
                tally.faults.append(f"{name}: left {left}")
                break
            threads = [thread.name for thread in threading.enumerate() if thread.name == "reader"]
            if threads:
                tally.faults.append(f"{name}: left a thread")
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="stop after so long")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        tally = run(asked.count, asked.seed, Path(folder), budget_s=60 * asked.minutes)
    print(f"{sum(tally.ends.values())} inputs in {time.monotonic() - begun:.0f} s: {dict(tally.ends)}")
    print(f"slowest {tally.slowest_s:.1f} s, {len(tally.faults)} faults")
    print("\n".join(tally.faults))
    raise SystemExit(bool(tally.faults))


if __name__ == "__main__":
    main()
