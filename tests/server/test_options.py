"""What each option of a run does to a film, with a lossless codec where planes are compared."""

import os
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from kinochrome_proto import colorizer_file
from kinochrome_proto.errors import BadFilm, BadSettings
from kinochrome_proto.manifest import Manifest
from kinochrome_server.fields import marked
from kinochrome_server.film import Clip
from kinochrome_server.looks import Look
from kinochrome_server.pipeline import Report, Settings, colorize
from kinochrome_server.pool import WorkerPool
from kinochrome_server.sources import FileSource, Source
from tests import films, promises, reading
from tests.films import Kind, Shot
from tests.server.serving import KINOCHROME

MS = Fraction(1, 1000)  # the clock of Matroska: times in it survive exactly


@pytest.fixture(scope="module", autouse=True)
def shared_workers(pool: WorkerPool) -> None:
    """All films here are coloured by the same workers."""
    global POOL
    POOL = pool


POOL: WorkerPool


def run(film: Path | Source, out: Path, **settings: Any) -> tuple[Report, list[str]]:
    """Colour a film; return the report and what was warned of."""
    said: list[str] = []
    source = FileSource(film) if isinstance(film, Path) else film
    with out.open("wb") as sink:
        given = Settings(container=out.suffix[1:], **settings)
        report = colorize(source, sink, given, on_warning=said.append, pool=POOL)
    return report, said


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


# --- a clip ---

LONG = {"sc_threshold": "0"}
STEADY = range(0, 130 * 40, 40)
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


# --- side by side ---

TURNED = [
    *((Kind("film.mp4", size=(320, 160), frames=5, rotation=turn), "") for turn in (0, 90, 180, 270)),
    *((Kind("film.mp4", size=(162, 122), frames=5, rotation=turn), "") for turn in (0, 90)),
    *((Kind("film.mp4", size=(161, 121), codec="ffv1", frames=5, rotation=turn), "yuv444p") for turn in (0, 90)),
]


@pytest.mark.parametrize(
    ("kind", "pix_fmt"), TURNED, ids=[f"{kind.size[0]} wide, turned by {kind.rotation}" for kind, _ in TURNED]
)
def test_a_comparison_shows_gray_left_and_colour_right(kind: Kind, pix_fmt: str, tmp_path: Path) -> None:
    film = films.make(tmp_path, kind)
    run(film, tmp_path / "out.mp4", compare=True, codec="ffv1", pix_fmt=pix_fmt)
    source, coloured = reading.pictures(film), reading.pictures(tmp_path / "out.mp4")
    turns = source[0].rotation // 90
    assert coloured[0].rotation == source[0].rotation and (turns == 0) == (kind.rotation == 0)
    for before, after in zip(source, coloured, strict=True):
        width, height = before.luma.shape[::-1]
        assert after.luma.shape == ((2 * height, width) if turns % 2 else (height, 2 * width))
        shown = [np.rot90(plane, turns) for plane in after.planes]  # as a player turns it
        expected = np.rot90(before.luma, turns)
        for half in np.split(shown[0], 2, axis=1):
            assert np.array_equal(half, expected)
        for plane in shown[1:]:
            gray, painted = np.split(plane, 2, axis=1)
            assert np.all(gray == 128)
            assert np.abs(painted.astype(int) - 128).mean() > 0.5


def test_a_comparison_whose_halves_would_share_chroma_is_refused(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4", size=(161, 120), codec="ffv1", frames=2))
    with pytest.raises(BadSettings, match="use --codec ffv1 with --pix-fmt yuv444p"):
        run(film, tmp_path / "out.mkv", compare=True, codec="ffv1", pix_fmt="yuv420p")


# --- shots in colour ---

SHOTS = [Shot("gray", 15), Shot("colour"), Shot("tint", 15), Shot("colour", 30), Shot("toned", 15), Shot("gray", 10)]


def kinds_of(shots: Sequence[Shot]) -> list[str]:
    """Of every frame."""
    return [shot.chroma for shot in shots for _ in range(shot.frames)]


@pytest.mark.parametrize("codec", ["ffv1", "libx264"])
def test_shots_in_colour_keep_their_own_chroma_and_all_others_are_painted(codec: str, tmp_path: Path) -> None:
    film = films.make_shots(tmp_path, SHOTS, codec=codec)
    run(film, tmp_path / "kept.mkv", codec="ffv1", keep_color=True)
    run(film, tmp_path / "painted.mkv", codec="ffv1")
    source, kept, painted = (reading.pictures(file) for file in (film, tmp_path / "kept.mkv", tmp_path / "painted.mkv"))
    assert len(source) == len(kept) == len(painted) == sum(shot.frames for shot in SHOTS)
    for chroma, before, after, all_new in zip(kinds_of(SHOTS), source, kept, painted, strict=True):
        own, new, usual = (np.stack(picture.planes[1:]) for picture in (before, after, all_new))
        assert np.array_equal(before.luma, after.luma)
        assert not np.array_equal(own, usual)
        if chroma == "colour":
            assert np.array_equal(new, own)
        else:
            assert np.array_equal(new, usual)


def test_a_comparison_leaves_even_colour_gray_on_the_left(tmp_path: Path) -> None:
    film = films.make_shots(tmp_path, [Shot("colour", 5)])
    run(film, tmp_path / "out.mkv", codec="ffv1", keep_color=True, compare=True)
    for before, after in zip(reading.pictures(film), reading.pictures(tmp_path / "out.mkv"), strict=True):
        for own, plane in zip(before.planes[1:], after.planes[1:], strict=True):
            gray, right = np.split(plane, 2, axis=1)
            assert np.all(gray == 128) and np.array_equal(right, own)


# --- the look ---

LOOKED_AT = Kind("film.mkv", frames=24)


def chroma_of(film: Path, folder: Path, look: Look, **settings: Any) -> npt.NDArray[np.float64]:
    """(frames, 2, h, w) of the film coloured so, in code values from neutral."""
    run(film, folder / "out.mkv", codec="ffv1", look=look, **settings)
    planes = [picture.planes[1:] for picture in reading.pictures(folder / "out.mkv")]
    return np.stack([np.stack(pair) for pair in planes]).astype(np.float64) - 128


def test_saturation_goes_from_gray_to_vivid(tmp_path: Path) -> None:
    film = films.make(tmp_path, LOOKED_AT)
    none, half, usual, double = (chroma_of(film, tmp_path, Look(saturation=factor)) for factor in (0, 0.5, 1, 2))
    assert np.all(none == 0)
    assert np.abs(usual).mean() > 1
    free = np.abs(double) < 111  # limited range ends at 112
    assert free.mean() > 0.5
    assert np.abs(double - 2 * usual)[free].max() <= 2  # each was rounded
    assert np.abs(usual - 2 * half).max() <= 2


def test_warmth_takes_from_blue_and_gives_to_red(tmp_path: Path) -> None:
    film = films.make(tmp_path, LOOKED_AT)
    cold, usual, warm = (chroma_of(film, tmp_path, Look(warmth=warmth)).mean((0, 2, 3)) for warmth in (-1, 0, 1))
    assert warm[0] < usual[0] - 3 and cold[0] > usual[0] + 3  # Cb
    assert warm[1] > usual[1] + 3 and cold[1] < usual[1] - 3  # Cr


def test_stabilizing_makes_colours_steadier_the_more_of_it(tmp_path: Path) -> None:
    colorizer = flickering(tmp_path)
    film = films.make(tmp_path, replace(LOOKED_AT, frames=60, size=(128, 96)))
    flicker = [
        np.abs(np.diff(chroma_of(film, tmp_path, Look(stabilize=amount), colorizer=colorizer), axis=0)).mean()
        for amount in (0, 0.5, 1)
    ]
    assert flicker[0] > 1.3 * flicker[1] > 1.3 * flicker[2]


def built(folder: Path, name: str, nodes: list[Any], constants: dict[str, npt.NDArray[Any]], noise: int = 0) -> str:
    """A colorizer file whose graph has these nodes, from `gray`: luma of (N, 1, h, w) in 0..1, at a quarter."""
    inputs = [helper.make_tensor_value_info("luma", TensorProto.UINT8, ["N", 1, "H", "W"])]
    if noise:
        inputs.append(helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["N", noise]))
    output = helper.make_tensor_value_info("chroma", TensorProto.FLOAT, ["N", 2, "h", "w"])
    first = [
        helper.make_node("Cast", ["luma"], ["codes"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["codes", "white"], ["fine"]),
        helper.make_node("AveragePool", ["fine"], ["gray"], kernel_shape=[4, 4], strides=[4, 4]),
    ]
    constants = {"white": np.array(255, np.float32), **constants}
    graph = helper.make_graph(
        [*first, *nodes],
        name,
        inputs,
        [output],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    manifest = Manifest("test", 64, 16, 4, "ycbcr-bt601-full", "Apache-2.0", noise_length=noise)
    helper.set_model_props(model, manifest.to_metadata())
    (folder / f"{name}.onnx").write_bytes(colorizer_file.seal(model.SerializeToString()))
    return str(folder / f"{name}.onnx")


def stochastic(folder: Path) -> str:
    """Paints everything in one colour, which its noise chooses, and a little by luma."""
    mixing = np.random.default_rng(2).uniform(-0.2, 0.2, (8, 2)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["noise", "mixing"], ["mixed"]),
        helper.make_node("Unsqueeze", ["mixed", "axes"], ["hue"]),
        helper.make_node("Mul", ["gray", "hue"], ["strong"]),
        helper.make_node("Clip", ["strong", "low", "high"], ["chroma"]),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "mixing": mixing,
        "axes": np.array([2, 3], np.int64),
        "low": np.array(-0.4, np.float32),
        "high": np.array(0.4, np.float32),
    }
    return built(folder, "stochastic", nodes, constants, noise=8)


def flickering(folder: Path) -> str:
    """Paints by a wild function of the whole picture's mean: motion and grain make it another from frame to frame."""
    nodes = [
        helper.make_node("ReduceMean", ["gray", "axes"], ["mean"]),
        helper.make_node("Mul", ["mean", "wild"], ["angle"]),
        helper.make_node("Sin", ["angle"], ["phase"]),
        helper.make_node("Mul", ["phase", "strength"], ["hue"]),
        helper.make_node("Mul", ["gray", "nothing"], ["flat"]),
        helper.make_node("Add", ["flat", "hue"], ["chroma"]),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "axes": np.array([1, 2, 3], np.int64),
        "wild": np.array([5000, 7000], np.float32).reshape(1, 2, 1, 1),
        "strength": np.array(0.05, np.float32),
        "nothing": np.array(0, np.float32),
    }
    return built(folder, "flickering", nodes, constants)


def by_luma(folder: Path) -> str:
    """Paints what is bright blue and what is dark red."""
    nodes = [
        helper.make_node("Sub", ["gray", "middle"], ["signed"]),
        helper.make_node("Mul", ["signed", "strength"], ["chroma"]),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "middle": np.array(0.5, np.float32),
        "strength": np.array([0.6, -0.6], np.float32).reshape(1, 2, 1, 1),
    }
    return built(folder, "by_luma", nodes, constants)


def test_a_seed_chooses_a_colouring_and_the_same_seed_the_same(tmp_path: Path) -> None:
    colorizer, film = stochastic(tmp_path), films.make(tmp_path, replace(LOOKED_AT, frames=110))
    made = {}
    for run_name, seed in (("zero", 0), ("one", 1), ("again", 1), ("two", 2)):
        _, said = run(film, tmp_path / f"{run_name}.mkv", codec="ffv1", colorizer=colorizer, look=Look(seed=seed))
        assert not any("seed" in text for text in said)
        made[run_name] = reading.pictures(tmp_path / f"{run_name}.mkv")
    assert (tmp_path / "one.mkv").read_bytes() == (tmp_path / "again.mkv").read_bytes()
    means = {name: np.array([[plane.mean() - 128 for plane in one.planes[1:]] for one in made[name]]) for name in made}
    for one, other in (("zero", "one"), ("one", "two"), ("zero", "two")):
        assert np.abs(means[one].mean(0) - means[other].mean(0)).max() > 3
    for mean in means.values():  # one colouring for the whole film
        assert np.ptp(np.unwrap(np.arctan2(mean[:, 0], mean[:, 1]))) < 0.1


def test_a_colorizer_of_one_style_says_that_a_seed_changes_nothing(tmp_path: Path) -> None:
    film = films.make(tmp_path, replace(LOOKED_AT, frames=3))
    _, said = run(film, tmp_path / "seed.mkv", codec="ffv1", look=Look(seed=5))
    assert sum("default has one style only: --seed changes nothing" in text for text in said) == 1
    _, said = run(film, tmp_path / "none.mkv", codec="ffv1")
    assert not any("seed" in text for text in said)
    assert (tmp_path / "seed.mkv").read_bytes() == (tmp_path / "none.mkv").read_bytes()


def still(*colours: tuple[int, int, int]) -> bytes:
    """A PNG of gray ramps tinted so (blue, green, red)."""
    ramp = np.linspace(0.15, 1, 128)[np.newaxis, :, np.newaxis] * np.ones((32, 1, 1))
    picture = np.concatenate([ramp * np.array(colour) for colour in colours]).astype(np.uint8)
    return bytes(cv2.imencode(".png", picture)[1])


@pytest.mark.parametrize(
    ("colour", "plane", "sign"),
    [((230, 120, 60), 0, 1), ((60, 120, 230), 1, 1), ((60, 200, 60), 1, -1)],
    ids=["blue", "red", "green"],
)
def test_a_still_draws_the_films_colours_to_its_own(
    colour: tuple[int, int, int], plane: int, sign: int, tmp_path: Path
) -> None:
    film = films.make(tmp_path, LOOKED_AT)
    usual = chroma_of(film, tmp_path, Look()).mean((0, 2, 3))
    drawn = chroma_of(film, tmp_path, Look(references=(still(colour),))).mean((0, 2, 3))
    assert sign * (drawn[plane] - usual[plane]) > 2


# --- fields ---


WOVEN = [
    pytest.param("film.mp4", "libx264", True, id="h264"),
    pytest.param("film.mkv", "ffv1", True, id="ffv1"),
    pytest.param("film.mkv", "ffv1", False, id="not marked"),
]
OUTPUTS = [("out.mp4", "h264"), ("out.mkv", "ffv1")]
CODES = {"": 1, "tff": 2, "bff": 3}


def orders(film: Path) -> set[str]:
    """What the frames say of themselves."""
    with av.open(str(film)) as container:
        return {marked(frame) for frame in container.decode(video=0)}


def stated_order(film: Path) -> int:
    with av.open(str(film)) as container:
        return container.streams.video[0].codec_context.field_order


def combing(luma: npt.NDArray[Any]) -> float:
    lines = luma.astype(int)
    return float(np.abs(2 * lines[1:-1] - lines[:-2] - lines[2:]).mean())


@pytest.mark.parametrize(("out", "codec"), OUTPUTS)
@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize(("name", "source_codec", "is_marked"), WOVEN)
def test_woven_fields_come_out_whole(
    name: str, source_codec: str, is_marked: bool, order: str, out: str, codec: str, tmp_path: Path
) -> None:
    film = films.make_woven(tmp_path, order, name, source_codec, is_marked=is_marked)
    _, said = run(film, tmp_path / out, codec=codec, deinterlace=True)
    assert not any("field" in text or "interlace" in text for text in said)
    before, after = reading.pictures(film), reading.pictures(tmp_path / out)
    assert [picture.time for picture in after] == [picture.time for picture in before]
    assert len(after) == 60
    worst = max(combing(two.luma) / combing(one.luma) for one, two in zip(before, after, strict=True))
    assert worst < 0.6
    assert orders(tmp_path / out) == {""} and stated_order(tmp_path / out) in (0, CODES[""])
    if codec == "ffv1":  # the field that comes first is the film's own
        first = 0 if order == "tff" else 1
        for one, two in zip(before, after, strict=True):
            assert np.array_equal(one.luma[first::2], two.luma[first::2])


@pytest.mark.parametrize(("out", "codec"), OUTPUTS)
@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize(("name", "source_codec", "is_marked"), WOVEN)
def test_interlaced_film_stays_as_it_is_unasked(
    name: str, source_codec: str, is_marked: bool, order: str, out: str, codec: str, tmp_path: Path
) -> None:
    film = films.make_woven(tmp_path, order, name, source_codec, is_marked=is_marked)
    _, said = run(film, tmp_path / out, codec=codec)
    assert sum("fields are seen in the film that it does not mark" in text for text in said) == (not is_marked)
    assert orders(tmp_path / out) == {order} and stated_order(tmp_path / out) == CODES[order]
    if codec == "ffv1":
        for one, two in zip(reading.pictures(film), reading.pictures(tmp_path / out), strict=True):
            assert np.array_equal(one.luma, two.luma)


def test_progressive_film_is_left_alone_by_deinterlacing(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=40))
    run(film, tmp_path / "asked.mkv", codec="ffv1", deinterlace=True)
    run(film, tmp_path / "plain.mkv", codec="ffv1")
    assert (tmp_path / "asked.mkv").read_bytes() == (tmp_path / "plain.mkv").read_bytes()


def test_the_colours_of_each_field_follow_its_own_moment(tmp_path: Path) -> None:
    film = films.make_woven(tmp_path, "tff", "film.mkv", "ffv1")
    run(film, tmp_path / "out.mkv", codec="ffv1", colorizer=by_luma(tmp_path), look=Look(stabilize=0))
    for picture in reading.pictures(tmp_path / "out.mkv")[5:30]:
        for parity in (0, 1):
            luma = picture.luma[parity::2].astype(float)  # each of its lines has one of chroma at twice the distance
            for plane in picture.planes[1:3]:
                chroma = plane[parity::2].astype(float)
                rows = chroma.shape[0]
                own = cv2.resize(luma, (plane.shape[1], rows), interpolation=cv2.INTER_AREA)
                other = cv2.resize(
                    picture.luma[1 - parity :: 2].astype(float), (plane.shape[1], rows), interpolation=cv2.INTER_AREA
                )
                fit, misfit = (abs(np.corrcoef(chroma.ravel(), guide.ravel())[0, 1]) for guide in (own, other))
                assert fit > misfit + 0.005


# --- strictness ---


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
    kind: Kind, out: str, words: str, tmp_path: Path
) -> None:
    film = films.make(tmp_path, kind)
    _, said = run(film, tmp_path / out)
    assert [text for text in said if words in text]
    seen: list[int] = []
    with (tmp_path / out).open("wb") as sink, pytest.raises(BadFilm, match=f"^--strict: .*{words}"):
        settings = Settings(container=out[4:], strict=True)
        colorize(FileSource(film), sink, settings, on_progress=lambda frames, _: seen.append(frames), pool=POOL)
    assert not seen and not os.path.getsize(tmp_path / out)


def test_strict_takes_a_film_that_loses_nothing(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=10, time_base=MS, audio="aac", subtitle="ass"))
    report, said = run(film, tmp_path / "out.mkv", strict=True)
    assert report.frames == 10 and not said


def test_strict_and_lenient_exclude_each_other(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=2))
    with pytest.raises(BadSettings, match=r"^--strict and --lenient exclude each other"):
        run(film, tmp_path / "out.mkv", strict=True, lenient=True)


# --- codecs and containers ---


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


# --- clocks that are broken ---


def rising(film: Path, count: int) -> list[Fraction]:
    """The times of the film's frames, which are so many and in order."""
    times = [picture.time for picture in reading.pictures(film)]
    known = [time for time in times if time is not None]
    assert len(known) == len(times) == count
    assert all(a < b for a, b in pairwise(known))
    return known


def retimed(film: Path, times: Sequence[int]) -> Path:
    """The same film, its frames shown at these milliseconds, in the order in which they were."""
    out = film.with_name(f"retimed-{film.name}")
    with av.open(str(film)) as source, av.open(str(out), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        new = dict(zip(sorted(packet.pts for packet in packets if packet.pts is not None), times, strict=True))
        for packet, decoded in zip(packets, times, strict=True):
            assert packet.pts is not None
            packet.stream, packet.time_base = copy, MS
            packet.dts, packet.pts = decoded - 200, new[packet.pts]
            target.mux(packet)
    return out


@pytest.mark.parametrize("out", ["out.mkv", "out.mp4"])
@pytest.mark.parametrize("bframes", ["0", "2"])
def test_repeated_timestamps_are_told_apart(bframes: str, out: str, tmp_path: Path) -> None:
    times = [40 * index for index in range(60)]
    times[11] = times[10]
    times[31] = times[32] = times[30]
    kind = Kind("film.mkv", frames=60, gop=60, time_base=MS, pts=STEADY[:60], options={"bf": bframes, **LONG})
    film = retimed(films.make(tmp_path, kind), times)
    _, said = run(film, tmp_path / out, codec="ffv1")
    made = rising(tmp_path / out, 60)
    assert [time for place, time in enumerate(made) if place not in (11, 31, 32)] == [
        time * MS for place, time in enumerate(times) if place not in (11, 31, 32)
    ]
    assert sum("3 frames at 0.00 s and after repeat timestamps" in text for text in said) == len(said) == 1
    for before, after in zip(reading.pictures(film), reading.pictures(tmp_path / out), strict=True):
        assert np.array_equal(before.luma, after.luma)


@pytest.mark.parametrize("out", ["out.mkv", "out.mp4"])
@pytest.mark.parametrize("bframes", ["0", "2"])
def test_a_clock_that_jumps_back_carries_on(bframes: str, out: str, tmp_path: Path) -> None:
    part = films.make(tmp_path, Kind("part.ts", frames=72, gop=24, audio="aac", options={"bf": bframes}))
    film = tmp_path / "film.ts"
    film.write_bytes(3 * part.read_bytes())
    _, said = run(film, tmp_path / out, codec="ffv1")
    times = rising(tmp_path / out, 3 * 72)
    jumps = [text for text in said if "its clock jumps back after" in text and "times carry on from there" in text]
    assert len(jumps) == 2
    # The transport stream's packet counters jump at each join, so the frame before it may have lost its end.
    marked = [text for text in said if ": 1 frames at " in text and "marked as damaged" in text]
    assert len(marked) == 2
    assert not [text for text in said if text not in jumps + marked and "milliseconds" not in text]
    steps = [b - a for a, b in pairwise(times)]
    assert all(abs(step - Fraction(1, 24)) < MS for place, step in enumerate(steps) if place % 72 != 71)
    assert all(Fraction(1, 50) < step < Fraction(1, 4) for step in steps[71::72])
    once, sound = reading.tracks(part, "audio")[0], reading.tracks(tmp_path / out, "audio")[0]
    assert sound.packets == 3 * once.packets
    assert all(a < b for a, b in pairwise(sound.times))
    count = len(once.packets)
    for place in (1, 2):  # sound and picture jump together
        moved = sound.times[place * count] - sound.times[0]
        assert abs(moved - float(times[place * 72] - times[0])) < 0.002
    source = reading.pictures(part)
    for place, after in enumerate(reading.pictures(tmp_path / out)):
        assert np.array_equal(source[place % 72].luma, after.luma)


def without_some_times(film: Path, every: int) -> Path:
    """An MPEG transport stream in which only one picture in so many says when it is shown."""
    data, seen = bytearray(film.read_bytes()), 0
    for start in range(0, len(data), 188):
        if not data[start + 1] & 0x40:
            continue  # no picture starts here
        payload = start + 4 + (1 + data[start + 4] if data[start + 3] & 0x20 else 0)
        if data[payload : payload + 4] != b"\0\0\1\xe0":
            continue
        seen += 1
        if seen % every != 1:
            length = data[payload + 8]
            data[payload + 7] &= 0x3F
            data[payload + 9 : payload + 9 + length] = b"\xff" * length
    out = film.with_name(f"timeless-{film.name}")
    out.write_bytes(data)
    return out


@pytest.mark.parametrize("bframes", ["0", "2"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_frames_without_times_lie_between_their_neighbours(codec: str, bframes: str, tmp_path: Path) -> None:
    """libav counts MPEG-2 itself, and of H.264 gives the times that are there."""
    kind = Kind("film.ts", codec=codec, frames=130, time_base=Fraction(1, 25), gop=60, options={"bf": bframes, **LONG})
    whole = films.make(tmp_path, kind)
    film = without_some_times(whole, 4)
    with av.open(str(film)) as container:
        stated = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert (None in stated) == (codec == "libx264")
    _, said = run(film, tmp_path / "out.mp4", codec="ffv1")
    times, source = rising(tmp_path / "out.mp4", 130), reading.pictures(whole)
    assert times == [picture.time for picture in source]
    for before, after in zip(source, reading.pictures(tmp_path / "out.mp4"), strict=True):
        assert np.array_equal(before.luma, after.luma)
    if codec == "libx264":
        assert any("have no timestamps of their own" in text for text in said)
    else:
        assert not said


# --- through the command ---


def kinochrome(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([KINOCHROME, "colorize", *arguments], capture_output=True, text=True, timeout=120)


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
    done = kinochrome(film, "-o", tmp_path / out)
    assert done.returncode == 0, done.stderr
    kinds = boxes(tmp_path / out)
    assert kinds.index(b"moov") < kinds.index(b"mdat") and b"moof" not in kinds
    assert [picture.time for picture in reading.pictures(tmp_path / out)] == [Fraction(k, 24) for k in range(120)]
    assert reading.tracks(tmp_path / out, "audio")[0].packets == reading.tracks(film, "audio")[0].packets


def test_a_still_given_to_the_command_steers_the_film(tmp_path: Path) -> None:
    film = films.make(tmp_path, LOOKED_AT)
    (tmp_path / "blue.png").write_bytes(still((230, 120, 60)))
    steered: list[str | Path] = ["--reference", tmp_path / "blue.png"]
    for name, arguments in (("plain.mkv", []), ("blue.mkv", steered)):
        done = kinochrome(film, "-o", tmp_path / name, "--codec", "ffv1", *arguments)
        assert done.returncode == 0, done.stderr
    plain, blue = (
        np.mean([picture.planes[1].mean() for picture in reading.pictures(tmp_path / name)])
        for name in ("plain.mkv", "blue.mkv")
    )
    assert blue > plain + 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "still.png cannot be read: No such file or directory"),
        (b"not a picture", "--reference: still 1 is no picture that can be read: use JPEG, PNG, WebP or TIFF"),
        (still((200, 200, 200)), "--reference: still 1 has no colour: use colour stills"),
        (still((230, 120, 60))[:60], "--reference: still 1 is damaged: give another copy"),
    ],
    ids=["missing", "text", "gray", "damaged"],
)
def test_a_still_that_cannot_be_used_gives_one_line(content: bytes | None, words: str, tmp_path: Path) -> None:
    film = films.make(tmp_path, LOOKED_AT)
    if content is not None:
        (tmp_path / "still.png").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    done = kinochrome(film, "-o", tmp_path / "out.mp4", "--reference", tmp_path / "still.png")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("kinochrome: ") and done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr
    assert sorted(tmp_path.iterdir()) == before


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
    done = kinochrome(film, "-o", tmp_path / "out.mp4", "--from", start, *(["--to", stop] if stop else []))
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("kinochrome: ") and done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr
    assert sorted(tmp_path.iterdir()) == [film]


def test_a_clip_is_asked_for_as_people_write_time(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4"))
    done = kinochrome(film, "-o", tmp_path / "out.mp4", "--from", "0:00:00.5", "--to", "0:02")
    assert done.returncode == 0, done.stderr
    assert [picture.time for picture in reading.pictures(tmp_path / "out.mp4")] == [Fraction(k, 24) for k in range(36)]
