"""What a server adds to colouring a film here, and how soon its first coloured bytes come.

    python -m benchmarks.service [FILM] --json service.json

The command colours the film by turns in its own process and on a server on this machine, a fresh one each time, so that
neither finds its workers warm: wall time of the command, and processor time of all that had to do with it. Then the
film is sent in one call, over and over, to one server, and the first coloured bytes are waited for, counted from the
first byte sent.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
from tests import films
from tests.films import Kind
from tests.server import serving

from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc

KINOCHROME = Path(sys.executable).with_name("kinochrome")
MADE = Kind("film.mp4", frames=1680, gop=48, size=(640, 480), audio="aac", faststart=True)
PIECE = 256 * 1024  # bytes of film in one message


def command(film: Path, out: Path, *options: str) -> tuple[float, float]:
    """Colour the film; give wall and processor seconds, those of the command's own processes."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([str(KINOCHROME), "colorize", str(film), "-o", str(out), *options], check=True, capture_output=True)
    took, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def here(film: Path, folder: Path) -> tuple[float, float]:
    """In the command's own process. Gives wall and processor seconds."""
    out = folder / f"here{film.suffix}"
    took = command(film, out)
    out.rename(folder / f"kept{film.suffix}")
    return took


def there(film: Path, folder: Path) -> tuple[float, float]:
    """On a server that has just started. Gives wall and processor seconds, of client and server together."""
    out = folder / f"there{film.suffix}"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(dir=folder) as spool, serving.running(Path(spool)) as server:
        idle = _processor_s(server.process.pid)
        wall, _ = command(film, out, "--server", server.address)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if out.read_bytes() != (folder / f"kept{film.suffix}").read_bytes():
        raise SystemExit("the server coloured the film otherwise")
    out.unlink()
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - idle


def _processor_s(pid: int) -> float:
    """What a process has used so far, which was for its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def first_bytes(server: str, film: Path) -> float:
    """Seconds from the first byte sent to the first coloured one, of a call that is heard to its end."""
    started = 0.0

    def requests() -> Iterator[wire.ColorizeRequest]:
        nonlocal started
        container = "mkv" if film.suffix == ".mkv" else "mp4"
        yield wire.ColorizeRequest(settings=wire.Settings(container=container))
        started = time.monotonic()
        with film.open("rb") as source:
            while data := source.read(PIECE):
                yield wire.ColorizeRequest(film=data)

    first = 0.0
    with grpc.insecure_channel(server) as channel:
        for response in wire_grpc.ColorizerServiceStub(channel).Colorize(requests()):
            if not first and response.WhichOneof("response") == "media":
                first = time.monotonic() - started
    return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "film",
        type=Path,
        nargs="?",
        help="streamable: MKV, or MP4 with its index first. Default: 70 s, made on the spot",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = args.film or films.make(folder, MADE)
        pairs = [(here(film, folder), there(film, folder)) for _ in range(args.rounds)]
        with serving.running(folder) as server:
            first = [first_bytes(server.address, film) for _ in range(args.rounds)]
    wall, processor = ([statistics.median(pair[side][kind] for pair in pairs) for side in (0, 1)] for kind in (0, 1))
    report = {
        "here, wall and processor seconds": [round(pair[0][0], 2) for pair in pairs] + [round(processor[0], 2)],
        "there, wall and processor seconds": [round(pair[1][0], 2) for pair in pairs] + [round(processor[1], 2)],
        "wall, there by here": round(wall[1] / wall[0], 3),
        "processor, there by here": round(processor[1] / processor[0], 3),
        "first coloured bytes, seconds": [round(seconds, 2) for seconds in first],
    }
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
