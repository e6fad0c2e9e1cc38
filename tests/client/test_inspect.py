"""`kinochrome inspect`: what it tells of films that are known."""

import json
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests import films
from tests.films import Kind, Shot
from tests.server.serving import KINOCHROME

MS = Fraction(1, 1000)
SHOTS = [Shot("gray"), Shot("colour"), Shot("tint"), Shot("colour", 30), Shot("toned"), Shot("gray")]


def inspect(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([KINOCHROME, "inspect", *arguments], capture_output=True, text=True, timeout=120)


def found(film: Path, *options: str) -> dict[str, Any]:
    """What --json tells; nothing else may be on stdout."""
    done = inspect(film, "--json", *options)
    assert done.returncode == 0, done.stderr
    table: dict[str, Any] = json.loads(done.stdout)
    return table


def rows(film: Path, *options: str) -> dict[str, str]:
    """What it tells people, by the word in front; of warnings the last one."""
    done = inspect(film, *options)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0] == film.name
    return {key: value.strip() for key, _, value in (line.partition("  ") for line in lines[1:])}


def test_cuts_and_shots_in_colour_are_told_in_seconds(tmp_path: Path) -> None:
    film = films.make_shots(tmp_path, SHOTS)
    told = found(film)
    assert told["frames"] == 130 and told["shots"] == 6
    assert told["cuts"] == [0.8, 1.6, 2.4, 3.6, 4.4]
    assert told["in_colour"] == [{"start": 0.8, "end": 1.56}, {"start": 2.4, "end": 3.56}]
    assert told["pix_fmt"] == "yuv444p" and told["depth"] == 8
    people = rows(film)
    assert people["shots"] == "6, cuts at 0.80, 1.60, 2.40, 3.60, 4.40 s"
    assert people["in colour"] == "0.80 to 1.56, 2.40 to 3.56 s"


def test_a_film_whose_packets_tell_times_of_decoding_is_told_of(tmp_path: Path) -> None:
    """AVI keeps no times of showing: with B-frames, frames come in another order than their packets' times."""
    film = films.make(tmp_path, Kind("film.avi", frames=48, gop=24, options={"bf": "2"}))
    told = found(film)
    assert (told["frames"], told["frame_rate"], told["frame_rate_kind"]) == (48, 24, "constant")
    assert told["cuts"] == [] and told["warnings"] == []


def test_times_of_cuts_are_on_the_films_own_clock(tmp_path: Path) -> None:
    part = films.make_shots(tmp_path, SHOTS, "part.ts", codec="libx264")
    import av

    with av.open(str(part)) as container:
        first = (container.start_time or 0) / av.time_base
    assert first > 0
    assert found(part)["cuts"] == pytest.approx([first + cut for cut in (0.8, 1.6, 2.4, 3.6, 4.4)], abs=0.002)


def test_streams_chapters_and_picture_are_told(tmp_path: Path) -> None:
    kind = Kind(
        "film.mkv",
        frames=110,
        gop=100,
        time_base=MS,
        pts=range(0, 110 * 40, 40),
        pix_fmt="yuv422p10le",
        full_range=True,
        matrix=1,
        aspect=Fraction(16, 15),
        audio="aac",
        languages=("eng", "deu"),
        subtitle="ass",
        chapters=True,
        options={"sc_threshold": "0"},
    )
    film = films.make(tmp_path, kind)
    told = found(film)
    streams = [(stream["index"], stream["type"], stream["codec"], stream["language"]) for stream in told["streams"]]
    assert streams == [
        (0, "video", "h264", ""),
        (1, "audio", "aac", "eng"),
        (2, "audio", "aac", "deu"),
        (3, "subtitle", streams[3][2], "fra"),
    ]
    assert "ass" in streams[3][2] or "ssa" in streams[3][2]
    assert told["chapters"] == 2
    assert "matroska" in told["container"]
    assert told["duration"] == pytest.approx(4.4, abs=0.1)
    assert (told["width"], told["height"], told["sample_aspect_ratio"]) == (160, 120, "16:15")
    assert (told["pix_fmt"], told["depth"], told["range"], told["matrix"]) == ("yuv422p10le", 10, "full", 1)
    assert told["fields"] == "progressive" and told["rotation"] == 0
    assert (told["frames"], told["frame_rate"], told["frame_rate_kind"]) == (110, 25, "constant")
    assert told["segments"] == 2  # one a keyframe, which are far apart here
    assert told["cuts"] == [2.56] and told["in_colour"] == []  # where the camera of `films.pictures` jumps back
    people = rows(film)
    assert people["picture"] == "160x120, pixels 16:15, progressive"
    assert people["samples"] == "yuv422p10le, 10 bits, full range, matrix 1"
    assert people["frames"] == "110 at 25 a second, constant rate"
    assert people["stream 2"] == "audio, aac, deu"
    assert people["in colour"] == "no shot"
    assert people["container"].endswith(", 2 chapters")


def test_a_turned_film_is_said_to_be(tmp_path: Path) -> None:
    told = found(films.make(tmp_path, Kind("film.mp4", frames=3, rotation=90)))
    assert told["rotation"] in (90, -270, 270, -90) and told["width"] == 160


@pytest.mark.parametrize(
    ("kind", "expected", "rate"),
    [
        (
            Kind("film.mkv", frames=60, time_base=MS, pts=[*range(0, 900, 30), *range(1000, 4000, 100)]),
            "variable",
            59 / 3.9,
        ),
        (Kind("film.mkv", frames=60, time_base=Fraction(1001, 30000)), "constant", 29.97),  # rounded to milliseconds
        (Kind("film.ts", frames=60, time_base=Fraction(1001, 24000)), "constant", 23.976),  # and to 90 kHz
        (Kind("film.h264", frames=60, time_base=Fraction(1, 24)), "constant", None),  # it does not say
    ],
    ids=["variable", "ntsc in matroska", "film in mpeg-ts", "no timestamps"],
)
def test_the_kind_of_rate_is_told(kind: Kind, expected: str, rate: float | None, tmp_path: Path) -> None:
    told = found(films.make(tmp_path, kind))
    assert told["frames"] == 60 and told["frame_rate_kind"] == expected
    if rate:
        assert told["frame_rate"] == pytest.approx(rate, abs=0.01)
    assert any("no timestamps" in text for text in told["warnings"]) == (rate is None)


@pytest.mark.parametrize("is_marked", [True, False], ids=["marked", "not marked"])
@pytest.mark.parametrize(("order", "words"), [("tff", "top field first"), ("bff", "bottom field first")])
def test_interlaced_film_is_said_to_be(order: str, words: str, is_marked: bool, tmp_path: Path) -> None:
    film = films.make_woven(tmp_path, order, "film.mp4", "libx264", is_marked=is_marked)
    told = found(film)
    assert told["fields"] == words
    assert any("fields are seen in the film that it does not mark" in text for text in told["warnings"]) != is_marked
    assert rows(film)["picture"].endswith(f", {words}")


def test_how_long_it_takes_is_told_of_all_but_the_shortest(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4", frames=240))
    told = found(film)
    assert 0 < told["estimated_seconds"] < 600
    assert rows(film)["to colour it"].startswith("about ")
    short = films.make(tmp_path, Kind("short.mp4", frames=20))
    assert found(short)["estimated_seconds"] == 0
    assert "to colour it" not in rows(short)


def test_what_would_be_lost_is_told(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mov", codec="png", pix_fmt="rgba", frames=3))
    assert [text for text in found(film)["warnings"] if "transparency" in text]
    assert "transparency" in rows(film)["warning"]


def test_bad_input_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a film\n" * 50)
    whole = films.make(tmp_path, Kind("film.mkv", gop=10, frames=120, options={"bf": "0"}))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    before = sorted(tmp_path.iterdir())
    for film, words in (
        (tmp_path / "none.mp4", "none.mp4 is not a file"),
        (tmp_path / "text.mp4", "is not a film"),
        (cut, "is cut off"),
    ):
        done = inspect(film, "--json")
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith("kinochrome: ") and done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr
    told = found(cut, "--lenient")
    assert 20 < told["frames"] < 120
    assert any("is cut off" in text for text in told["warnings"])
    assert sorted(tmp_path.iterdir()) == before
