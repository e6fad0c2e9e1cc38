"""The promises on real films of many kinds, on films made for it, and on odd and broken ones.

One table of film × promise stands at the end of the report.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av.error
import pytest

from kinochrome_client import remote
from kinochrome_proto.errors import BadFilm, BadSettings
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_server.pipeline import Settings, colorize
from kinochrome_server.pool import WorkerPool
from kinochrome_server.sources import FileSource
from tests import films, promises, reading, shared
from tests.films import Kind
from tests.promises import Kept
from tests.server import serving

MATROSKA = {".mkv", ".webm"}
MS = Fraction(1, 1000)
LONG = 1000  # frames: of such films the server's bytes are not waited for
Record = Callable[[str, object], None]

MADE = {
    "variable rate": Kind("film.mkv", time_base=MS, frames=60, pts=[*range(0, 900, 30), *range(1000, 4000, 100)]),
    "from ten seconds": Kind("film.mkv", time_base=MS, frames=60, pts=range(10_000, 12_400, 40), audio="aac"),
    "10 bit": Kind("film.mkv", pix_fmt="yuv420p10le"),
    "12 bit": Kind("film.mkv", codec="libx265", pix_fmt="yuv422p12le", options={"x265-params": "log-level=none"}),
    "interlaced": Kind("film.mkv", options={"x264-params": "interlaced=1:tff=1"}),
    "turned": Kind("film.mp4", rotation=90, audio="aac"),
    "odd size": Kind("film.mkv", codec="ffv1", size=(161, 121)),
    "full range": Kind("film.mkv", full_range=True, matrix=1),
    "many streams": Kind("film.mkv", audio="aac", languages=("eng", "deu", "fra", "jpn"), subtitle="ass"),
    "chapters": Kind("film.mkv", chapters=True, audio="aac", frames=72),
    "gray": Kind("film.mkv", codec="ffv1", pix_fmt="gray10le"),
    "rgb": Kind("film.mov", codec="png", pix_fmt="rgb24", frames=10),
    "palette": Kind("film.gif", codec="gif", pix_fmt="gray", frames=10, time_base=Fraction(1, 100)),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    with serving.running(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2) as pool:
        yield pool


def coloured(
    film: Path, out: Path, codec: str, pool: WorkerPool, lenient: bool = False
) -> tuple[list[str], list[reading.Picture]]:
    """Colour it; return what was warned of, and its pictures."""
    said: list[str] = []
    settings = Settings(codec=codec, container=out.suffix[1:], lenient=lenient)
    with out.open("wb") as sink:
        report = colorize(FileSource(film), sink, settings, on_warning=said.append, pool=pool)
    pictures = reading.pictures(out)
    assert report.frames == len(pictures)
    return said, pictures


def keep_all(film: Path, before: list[reading.Picture], folder: Path, pool: WorkerPool, kept: Kept) -> None:
    """All promises, on the film written losslessly to Matroska."""
    lossless = folder / "lossless.mkv"
    said, after = coloured(film, lossless, "ffv1", pool)
    left_out = sum("is left out: matroska" in text for text in said)
    promises.luma(kept, before, after)
    promises.time(kept, before, after, promises.COARSEST_CLOCK_S)
    promises.sound(kept, film, lossless, left_out)
    promises.tags(kept, film, lossless, left_out)
    promises.colour(kept, before, after)


@pytest.mark.slow
@shared.needs_data
@pytest.mark.parametrize("film", shared.films(), ids=lambda film: film.name)
def test_every_promise_on_real_films(
    film: Path, server: serving.Server, pool: WorkerPool, tmp_path: Path, record_property: Record
) -> None:
    kept, before = Kept(film.name), reading.pictures(film)
    keep_all(film, before, tmp_path, pool, kept)
    suffix = ".mkv" if film.suffix in MATROSKA else ".mp4"  # whose clock is the film's own, whatever that is
    out = tmp_path / f"out{suffix}"
    said, after = coloured(film, out, "h264", pool)
    # vp9.webm's clock counts nanoseconds; Matroska's, as libav writes it, milliseconds.
    promises.time(kept, before, after, promises.COARSEST_CLOCK_S if film.name == "vp9.webm" else Fraction(0))
    promises.sound(kept, film, out, sum("is left out" in text for text in said))
    if len(before) < LONG:
        with (tmp_path / "remote").open("w+b") as sink:
            remote.colorize(server.address, film, sink, wire.Settings(codec="h264", container=suffix[1:]))
        same = (tmp_path / "remote").read_bytes() == out.read_bytes()
        kept.note("server's bytes", "" if same else "differ from a local run's")
    first, last = before[0].time, before[-1].time
    assert first is not None and last is not None
    frame = float(last - first) / max(len(before) - 1, 1)
    off = abs(reading.seconds(film) - reading.seconds(out))
    kept.note("length", "" if off <= max(frame, 0.05) else f"{off:.2f} s off")
    record_property("kept", asdict(kept))
    assert not kept.broken


@pytest.mark.slow
@pytest.mark.parametrize("kind", MADE.values(), ids=MADE)
def test_every_promise_on_made_films(
    kind: Kind, pool: WorkerPool, tmp_path: Path, record_property: Record, request: pytest.FixtureRequest
) -> None:
    kept = Kept(f"made: {request.node.callspec.id}")
    film = films.make(tmp_path, kind)
    keep_all(film, reading.pictures(film), tmp_path, pool, kept)
    record_property("kept", asdict(kept))
    assert not kept.broken


@pytest.mark.slow
@shared.needs_data
@pytest.mark.parametrize("film", shared.odd(), ids=lambda film: film.name)
def test_odd_films_are_coloured_whole_or_refused_in_a_line(
    film: Path, pool: WorkerPool, tmp_path: Path, record_property: Record
) -> None:
    kept = Kept(film.name)
    out = tmp_path / "out.mkv"
    try:
        said, after = coloured(film, out, "ffv1", pool)
    except (BadFilm, BadSettings) as error:
        assert "\n" not in str(error) and "crashed" not in str(error)
        kept.note("refused", nothing=True)
        record_property("kept", asdict(kept))
        with contextlib.suppress(BadFilm, BadSettings):  # what is refused as damaged can be asked for all the same
            coloured(film, out, "ffv1", pool, lenient=True)
        return
    try:
        before = reading.pictures(film)
    except av.error.FFmpegError:  # a reader without patience stops at the first damage, or at an empty packet
        before = []
    if not before:
        kept.note("luma", nothing=True)
    elif len(before) == len(after):
        promises.luma(kept, before, after)
        if any(picture.patched for picture in before):
            kept.note("damage is told", "" if any("marked as damaged" in text for text in said) else "no")
        if any("repeat timestamps" in text or "jumps back" in text for text in said):
            kept.note("time", nothing=True)  # it had none that could be kept
        else:
            promises.time(kept, before, after, promises.COARSEST_CLOCK_S)
    else:
        explained = any("gave no frame" in text or "left out" in text for text in said)
        kept.note("frames", "" if explained else f"{len(after)} of {len(before)}")
    record_property("kept", asdict(kept))
    assert not kept.broken


def test_the_table_has_a_row_for_each_film() -> None:
    """The report's own summary, from what the tests above record."""
    from tests.conftest import table

    one, other = Kept("a.mp4", {"luma": "yes", "time": "1 s off"}), Kept("b.mp4", {"luma": "-"})
    sheet = io.StringIO()
    table([one, other], sheet)
    lines = sheet.getvalue().splitlines()
    assert [word for word in lines[0].split()] == ["film", "luma", "time"]
    assert lines[1].split(maxsplit=2) == ["a.mp4", "yes", "1 s off"]
    assert lines[2].split() == ["b.mp4", "-"]
