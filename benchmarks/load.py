"""A server under load: many films at once, then a steady stream of them for a while.

    python -m benchmarks.load --jobs 50 --soak 15 --json load.json

First so many jobs are handed in at the same moment: when each ends tells whether any starves. Then, for so many
minutes, films come and go as fast as they are coloured, one in ten of them cancelled on the way; meanwhile memory and
open files of the server's process, and memory of all that it started, are taken every few seconds, and a straight line
is laid through the second half of them. Cancelled jobs are watched too: how long it takes until the server says so.

The server is a real process with its spool on this machine's disk; films are made for the purpose.
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests import films
from tests.faults import descendants
from tests.films import Kind
from tests.server import serving

from kinochrome_client import AsyncClient
from kinochrome_proto.errors import Cancelled

EVERY_S = 2.0
"""Between two looks at the server's memory."""
STREAM = 8
"""Films on their way at once while the soak lasts."""
CANCELLED = 0.1
"""Share of them that are cancelled."""


@dataclass(frozen=True)
class Look:
    """The server at one moment."""

    seconds: float
    rss_mb: float
    """Of its own process."""
    all_mb: float
    """Of it and all that it started."""
    files: int
    """Descriptors that its own process holds open."""


@dataclass
class Burst:
    """Many jobs at once."""

    jobs: int
    frames: int
    """Of each."""
    ended_s: list[float] = field(default_factory=list)

    def plain(self) -> dict[str, object]:
        """For JSON and people."""
        times = sorted(self.ended_s)
        return {
            "jobs": self.jobs,
            "frames of each": self.frames,
            "all ended": len(times) == self.jobs,
            "first, median, last, seconds": [round(t, 1) for t in (times[0], statistics.median(times), times[-1])],
            "frames a second": round(self.jobs * self.frames / times[-1], 1),
        }


@dataclass
class Soak:
    """A steady stream."""

    minutes: float
    looks: list[Look] = field(default_factory=list)
    coloured: int = 0
    cancelled_s: list[float] = field(default_factory=list)

    def plain(self) -> dict[str, object]:
        """For JSON and people."""
        half = self.looks[len(self.looks) // 2 :]
        return {
            "minutes": self.minutes,
            "films coloured": self.coloured,
            "cancelled": len(self.cancelled_s),
            "longest until cancelled, seconds": round(max(self.cancelled_s, default=0), 2),
            "server's memory, MB: after warming up, at the end, most": [
                round(mb, 1) for mb in (half[0].rss_mb, half[-1].rss_mb, max(look.rss_mb for look in self.looks))
            ],
            "slope of its second half, MB a minute": round(slope([(look.seconds, look.rss_mb) for look in half]), 3),
            "with all that it started, most, MB": round(max(look.all_mb for look in self.looks), 1),
            "slope of that, MB a minute": round(slope([(look.seconds, look.all_mb) for look in half]), 3),
            "open files: least and most of the second half": [min(x.files for x in half), max(x.files for x in half)],
        }


def slope(points: list[tuple[float, float]]) -> float:
    """Of the straight line through (seconds, value), by least squares: value a minute."""
    seconds, values = zip(*points, strict=True)
    return 60 * statistics.linear_regression(seconds, values).slope


def look(pid: int, started: float) -> Look:
    """The server now."""
    own = _rss_mb(pid)
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Look(time.monotonic() - started, own, own + sum(map(_rss_mb, descendants(pid))), files)


def _rss_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0  # it has ended


async def burst(server: str, film: Path, folder: Path, jobs: int, frames: int) -> Burst:
    """So many jobs, handed in at once."""
    found = Burst(jobs, frames)
    started = time.monotonic()

    async def one(number: int) -> None:
        out = folder / f"{number}.mp4"
        async with AsyncClient(server) as client:
            await client.colorize(film, out)
        found.ended_s.append(time.monotonic() - started)
        out.unlink()

    await asyncio.gather(*(one(number) for number in range(jobs)))
    return found


async def soak(server: serving.Server, film: Path, folder: Path, minutes: float) -> Soak:
    """A stream of films for so many minutes."""
    found, started = Soak(minutes), time.monotonic()
    chance = random.Random(1)

    def going_on() -> bool:
        return time.monotonic() - started < 60 * minutes

    async def watch() -> None:
        while going_on():
            found.looks.append(look(server.process.pid, started))
            await asyncio.sleep(EVERY_S)

    async def stream(lane: int) -> None:
        async with AsyncClient(server.address) as client:
            while going_on():
                out = folder / f"lane-{lane}.mp4"
                if chance.random() < CANCELLED:
                    found.cancelled_s.append(await _cancelled(client, film, out))
                else:
                    await client.colorize(film, out)
                    found.coloured += 1
                    out.unlink()

    await asyncio.gather(watch(), *(stream(lane) for lane in range(STREAM)))
    return found


async def _cancelled(client: AsyncClient, film: Path, out: Path) -> float:
    """Begin a film and cancel it when its first frames are coloured; give the seconds until the server says so."""
    asked = 0.0
    colouring = asyncio.ensure_future(client.colorize(film, out))
    job_id = ""
    while not colouring.done() and not job_id:
        await asyncio.sleep(0.05)
        record = out.with_name(f"{out.name}.kinochrome") / "job.json"
        with contextlib.suppress(OSError, ValueError):
            job_id = json.loads(record.read_text())["job_id"]
    asked = time.monotonic()
    if job_id and not colouring.done():
        await client.cancel(job_id)
    with contextlib.suppress(Cancelled):
        await colouring
    took = time.monotonic() - asked
    out.unlink(missing_ok=True)
    return took


@contextlib.contextmanager
def served(folder: Path) -> Iterator[serving.Server]:
    """A server that lets one owner have as many jobs as it likes."""
    with serving.running(folder, "--owner-jobs", "1000") as server:
        yield server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50, help="at once")
    parser.add_argument("--frames", type=int, default=120, help="of each film")
    parser.add_argument("--soak", type=float, default=15.0, metavar="MINUTES", help="0: none")
    parser.add_argument("--json", type=Path, help="where to write the figures, every look at the memory with them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kind = Kind("film.mp4", frames=args.frames, gop=24, size=(320, 240), audio="aac", faststart=True)
        film = films.make(folder, kind)
        report: dict[str, object] = {}
        with served(folder) as server:
            report["burst"] = asyncio.run(burst(server.address, film, folder, args.jobs, args.frames)).plain()
            print(json.dumps(report["burst"], indent=2), flush=True)
            if args.soak:
                found = asyncio.run(soak(server, film, folder, args.soak))
                report["soak"] = found.plain()
                print(json.dumps(report["soak"], indent=2), flush=True)
                report["looks"] = [asdict(one) for one in found.looks]
            report["left in the spool"] = server.left()
    print("left in the spool:", report["left in the spool"])
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
