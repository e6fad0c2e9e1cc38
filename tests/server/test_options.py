"""The other options of a run, and options as people give them."""

import os
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from kinochrome_proto.errors import BadFilm, BadSettings
from kinochrome_server.pipeline import Settings, colorize
from kinochrome_server.pool import WorkerPool
from kinochrome_server.sources import FileSource
from tests import films, reading
from tests.films import Kind
from tests.server.colouring import LONG, MS, command, run

pytestmark = pytest.mark.usefixtures("shared_workers")


@pytest.mark.parametrize(
    ("kind", "out", "words"),
    [
        (Kind("film.mkv", frames=10, time_base=MS, audio="aac", subtitle="ass"), "out.mp4", "subtitle stream 2"),
        (Kind("film.mp4", frames=10), "out.mkv", "whole milliseconds"),
        (Kind("film.h264", frames=10), "out.mp4", "no timestamps"),
    ],
    ids=["a subtitle too many", "a fine clock", "no clock"],
)
def test_strict_refuses_before_any_work_what_else_is_warned_of(
    kind: Kind, out: str, words: str, tmp_path: Path, pool: WorkerPool
) -> None:
    film = films.make(tmp_path, kind)
    _, said = run(film, tmp_path / out)
    assert [text for text in said if words in text]
    seen: list[int] = []
    with (tmp_path / out).open("wb") as sink, pytest.raises(BadFilm, match=f"^--strict: .*{words}"):
        settings = Settings(container=out[4:], strict=True)
        colorize(FileSource(film), sink, settings, on_progress=lambda frames, _: seen.append(frames), pool=pool)
    assert not seen and not os.path.getsize(tmp_path / out)


def test_strict_takes_a_film_that_loses_nothing(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=10, time_base=MS, audio="aac", subtitle="ass"))
    report, said = run(film, tmp_path / "out.mkv", strict=True)
    assert report.frames == 10 and not said


def test_strict_and_lenient_exclude_each_other(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=2))
    with pytest.raises(BadSettings, match=r"^--strict and --lenient exclude each other"):
        run(film, tmp_path / "out.mkv", strict=True, lenient=True)


@pytest.mark.parametrize(
    ("out", "codec", "tag"),
    [
        ("out.mkv", "av1", b"V_AV1"),
        ("out.webm", "av1", b"V_AV1"),
        ("out.mp4", "av1", b"av01"),
        ("out.webm", "vp9", b"V_VP9"),
        ("out.mp4", "vp9", b"vp09"),
        ("out.mov", "prores", b"apch"),
        ("out.mp4", "h265", b"hvc1"),
        ("out.mov", "h265", b"hvc1"),
        ("out.mkv", "h265", b"V_MPEGH/ISO/HEVC"),
    ],
)
def test_every_codec_keeps_frames_and_times(out: str, codec: str, tag: bytes, tmp_path: Path) -> None:
    pts = [40 * index + (7 if index % 3 == 1 else 0) for index in range(110)]
    film = films.make(
        tmp_path, Kind("film.mkv", frames=110, gop=100, time_base=MS, pts=pts, options={"bf": "2", **LONG})
    )
    report, said = run(film, tmp_path / out, codec=codec)
    before, after = reading.pictures(film), reading.pictures(tmp_path / out)
    assert report.frames == len(after) == 110 and not said
    assert [picture.time for picture in after] == [time * MS for time in pts]
    assert tag in (tmp_path / out).read_bytes()
    for one, two in zip(before, after, strict=True):
        scale = 1 << (two.depth - one.depth)
        assert np.abs(two.luma.astype(float) - scale * one.luma.astype(float)).mean() / scale < 3
    assert after[0].depth == (10 if codec == "prores" else 8)
    assert max(picture.chroma_strength() for picture in after) > 1


def boxes(film: Path) -> list[bytes]:
    """The kinds of the boxes at the top of an MP4 file (ISO/IEC 14496-12)."""
    data, start, kinds = film.read_bytes(), 0, []
    while start < len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        kinds.append(kind)
        start += size if size > 1 else struct.unpack_from(">Q", data, start + 8)[0] if size else len(data)
    return kinds


@pytest.mark.parametrize("out", ["out.mp4", "out.mov"])
def test_a_finished_film_has_its_index_in_front(out: str, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4", frames=120, gop=100, audio="aac", options=LONG))
    done = command(film, "-o", tmp_path / out)
    assert done.returncode == 0, done.stderr
    kinds = boxes(tmp_path / out)
    assert kinds.index(b"moov") < kinds.index(b"mdat") and b"moof" not in kinds
    assert [picture.time for picture in reading.pictures(tmp_path / out)] == [Fraction(k, 24) for k in range(120)]
    assert reading.tracks(tmp_path / out, "audio")[0].packets == reading.tracks(film, "audio")[0].packets


@pytest.mark.parametrize(
    ("start", "stop", "words"),
    [
        ("0:02", "1.5", "--to 1.5 s does not come after --from 2 s"),
        ("1:00:00", "", "before --from 3600 s"),
        ("soon", "", "--from soon is no time: write seconds, minutes:seconds or hours:minutes:seconds"),
    ],
)
def test_a_clip_that_cannot_be_gives_one_line(start: str, stop: str, words: str, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4"))
    done = command(film, "-o", tmp_path / "out.mp4", "--from", start, *(["--to", stop] if stop else []))
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("kinochrome: ") and done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr
    assert sorted(tmp_path.iterdir()) == [film]


def test_a_clip_is_asked_for_as_people_write_time(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4"))
    done = command(film, "-o", tmp_path / "out.mp4", "--from", "0:00:00.5", "--to", "0:02")
    assert done.returncode == 0, done.stderr
    assert [picture.time for picture in reading.pictures(tmp_path / "out.mp4")] == [Fraction(k, 24) for k in range(36)]
