"""Parts of films: --from, --to."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import numpy as np
import pytest

from kinochrome_proto.errors import BadSettings
from kinochrome_server.film import Clip
from kinochrome_server.sources import FileSource
from tests import films, promises, reading
from tests.films import Kind
from tests.server.colouring import LONG, MS, STEADY, run

pytestmark = pytest.mark.usefixtures("shared_workers")


def first_moment(film: Path) -> Fraction:
    with av.open(str(film)) as container:
        return Fraction(container.start_time or 0, av.time_base)


def within(pictures: Sequence[reading.Picture], first: Fraction, clip: Clip) -> list[reading.Picture]:
    """The frames whose time, from the film's first moment, lies in the clip."""
    return [
        picture
        for picture in pictures
        if picture.time is not None
        and clip.start <= picture.time - first
        and (clip.stop is None or picture.time - first < clip.stop)
    ]


CLIPPED = {
    "mp4": (Kind("film.mp4", frames=130, audio="aac", chapters=True), "out.mp4"),
    "mkv": (Kind("film.mkv", frames=130, time_base=MS, pts=STEADY, audio="aac", chapters=True), "out.mkv"),
    "ten seconds in": (
        Kind("film.mkv", frames=130, time_base=MS, pts=[10_000 + time for time in STEADY], chapters=True),
        "out.mkv",
    ),
    "ten seconds in, to mp4": (
        Kind("film.mkv", frames=130, time_base=MS, pts=[10_000 + time for time in STEADY], chapters=True),
        "out.mp4",
    ),
    "b-frames": (Kind("film.mp4", frames=130, options={"bf": "3"}, audio="aac", gop=40), "out.mp4"),
    "a long group of pictures": (Kind("film.mp4", frames=130, gop=400, options=LONG), "out.mp4"),
    "ntsc": (Kind("film.mp4", frames=130, time_base=Fraction(1001, 24000), options={"bf": "2"}), "out.mp4"),
    "mpeg-ts": (Kind("film.ts", frames=130, gop=20, audio="aac"), "out.mp4"),
    "variable rate": (
        Kind("film.mkv", frames=60, time_base=MS, pts=[*range(0, 900, 30), *range(1000, 4000, 100)]),
        "out.mkv",
    ),
}
CLIPS = {
    "a middle": Clip(Fraction(3, 2), Fraction(7, 2)),
    "a tail": Clip(Fraction(2)),
    "a head": Clip(Fraction(0), Fraction(3, 2)),
}


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize(("kind", "out"), CLIPPED.values(), ids=CLIPPED)
def test_a_clip_holds_the_frames_of_its_time_and_counts_from_its_start(
    kind: Kind, out: str, clip: Clip, tmp_path: Path
) -> None:
    film = films.make(tmp_path, kind)
    report, _ = run(film, tmp_path / out, clip=clip, codec="ffv1")
    first = first_moment(film)
    expected, coloured = within(reading.pictures(film), first, clip), reading.pictures(tmp_path / out)
    assert report.frames == len(coloured) == len(expected) > 10
    tick = MS if out.endswith("mkv") else Fraction(1, 10_000)
    for before, after in zip(expected, coloured, strict=True):
        assert np.array_equal(after.luma, before.luma)
        assert before.time is not None and after.time is not None
        assert abs(after.time - (before.time - first - clip.start)) <= tick
    assert max(picture.chroma_strength() for picture in coloured) > 0.5


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_a_clip_takes_its_sound_along(name: str, tmp_path: Path) -> None:
    kind = Kind(name, frames=130, time_base=MS, pts=STEADY, audio="aac", languages=("eng", "deu"))
    film, clip, out = films.make(tmp_path, kind), Clip(Fraction(3, 2), Fraction(7, 2)), tmp_path / f"out-{name}"
    run(film, out, clip=clip, codec="h264")
    start, stop = (float(first_moment(film) + (time or 0)) for time in (clip.start, clip.stop))
    tracks = reading.tracks(film, "audio")
    assert [track.language for track in reading.tracks(out, "audio")] == ["eng", "deu"]
    for before, after in zip(tracks, reading.tracks(out, "audio"), strict=True):
        kept = [(hash, time) for hash, time in zip(before.packets, before.times, strict=True) if start <= time < stop]
        assert len(kept) > 50
        assert after.packets == [hash for hash, _ in kept]
        assert np.allclose(after.times, [time - start for _, time in kept], atol=0.0006)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("begins", [0, 10_000], ids=["from zero", "from ten seconds"])
@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (Clip(Fraction(1, 2), Fraction(3, 2)), [("One", 0.0, 0.5), ("Two", 0.5, 1.0)]),
        (Clip(Fraction(5, 4)), [("Two", 0.0, 0.75)]),
        (Clip(Fraction(0), Fraction(3, 4)), [("One", 0.0, 0.75)]),
    ],
    ids=["both", "the second", "the first"],
)
def test_chapters_are_clipped(
    clip: Clip, expected: list[tuple[str, float, float]], begins: int, suffix: str, tmp_path: Path
) -> None:
    kind = Kind("film.mkv", frames=72, time_base=MS, pts=range(begins, begins + 72 * 40, 40), chapters=True)
    run(films.make(tmp_path, kind), tmp_path / f"out{suffix}", clip=clip)
    assert promises.layout(tmp_path / f"out{suffix}").chapters == expected


@pytest.mark.parametrize("bframes", ["0", "2"])
@pytest.mark.parametrize(("name", "first"), [("film.h264", 0), ("film.avi", 1)])
def test_films_that_only_count_are_clipped_by_counting(name: str, first: int, bframes: str, tmp_path: Path) -> None:
    """libav counts H.264 in AVI from 1: there is room for a decoding time before each."""
    film = films.make(tmp_path, Kind(name, frames=130, gop=60, options={"bf": bframes, **LONG}))
    run(film, tmp_path / "out.mp4", clip=Clip(Fraction(3, 2), Fraction(7, 2)), codec="ffv1")
    expected, coloured = reading.pictures(film)[36 - first : 84 - first], reading.pictures(tmp_path / "out.mp4")
    assert [picture.time for picture in coloured] == [Fraction(index, 24) for index in range(48)]
    for before, after in zip(expected, coloured, strict=True):
        assert np.array_equal(after.luma, before.luma)


def test_a_clip_of_open_groups_of_pictures_has_all_its_frames(tmp_path: Path) -> None:
    """Its first frames lean on the group of pictures before, and are shown before the keyframe that they come after."""
    options = {"bf": "2", "b": "4M", "sc_threshold": "1000000000"}
    film = films.make(tmp_path, Kind("film.m2v", codec="mpeg2video", frames=130, gop=15, options=options))
    for clip in (Clip(Fraction(frame, 24) + Fraction(1, 100), Fraction(7, 2)) for frame in (43, 44, 45, 46)):
        run(film, tmp_path / "out.mp4", clip=clip, codec="ffv1")
        expected, coloured = within(reading.pictures(film), Fraction(0), clip), reading.pictures(tmp_path / "out.mp4")
        assert len(coloured) == len(expected) > 30
        for before, after in zip(expected, coloured, strict=True):
            assert before.time is not None and after.time is not None
            assert abs(after.time - (before.time - clip.start)) < Fraction(1, 10_000)
            assert np.array_equal(before.luma, after.luma)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.h264", "film.avi"])
def test_clips_of_nothing_are_refused(name: str, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind(name, frames=48))
    for clip, words in (
        (Clip(Fraction(2), Fraction(1)), r"^--to 1 s does not come after --from 2 s$"),
        (Clip(Fraction(1), Fraction(1)), r"^--to 1 s does not come after --from 1 s$"),
        (Clip(Fraction(3)), r"film.*--from 3 s"),
        (Clip(Fraction(3), Fraction(4)), r"film.*--from 3 s"),
    ):
        with pytest.raises(BadSettings, match=words):
            run(film, tmp_path / "out.mkv", clip=clip)


def test_a_clip_past_the_end_of_a_film_that_starts_late_is_refused(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=60, time_base=MS, pts=range(10_000, 12_400, 40)))
    with pytest.raises(BadSettings, match=r"--from 5 s"):
        run(film, tmp_path / "out.mkv", clip=Clip(Fraction(5)))


def interleaved(film: Path) -> Path:
    """The same film with sound and pictures of a moment side by side, as films are: `films.make` writes sound last."""
    out = film.with_name(f"interleaved-{film.name}")
    options = {"movflags": "+faststart"} if film.suffix == ".mp4" else {}
    with av.open(str(film)) as source, av.open(str(out), "w", container_options=options) as target:
        copies = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        packets = [packet for packet in source.demux() if packet.size]
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            packet.stream = copies[packet.stream_index]
            target.mux(packet)
    return out


class CountingSource(FileSource):
    """A film of which this process counts the bytes it reads; in workers an ordinary one."""

    count = 0

    def open(self) -> BinaryIO:
        file = super().open()

        class Counting:
            def read(self, size: int = -1) -> bytes:
                data = file.read(size)
                CountingSource.count += len(data)
                return data

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def __enter__(self) -> "Counting":
                return self

            def __exit__(self, *exc: object) -> None:
                file.close()

        return cast(BinaryIO, Counting())

    def __reduce__(self) -> tuple[Any, ...]:
        return FileSource, (self.path,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_a_preview_reads_its_own_part_only(name: str, tmp_path: Path) -> None:
    options = {"qp": "0", "preset": "ultrafast", **LONG}
    kind = Kind(name, frames=900, size=(320, 240), options=options, audio="aac", faststart=name.endswith("mp4"))
    film = interleaved(films.make(tmp_path, kind))
    assert film.stat().st_size > 15 << 20
    CountingSource.count = 0
    report, _ = run(CountingSource(film), tmp_path / "out.mp4", clip=Clip(Fraction(25), Fraction(26)))
    assert report.frames == 24
    assert 0 < CountingSource.count < film.stat().st_size / 3
