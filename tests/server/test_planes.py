"""Luma is read as it is, however the samples lie, and written as it is or exactly scaled; fields keep their order."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from av.video.frame import VideoFrame

from kinochrome_server.fields import Deinterlacer, FieldMarker, deinterlaced, field_order_of, marked
from kinochrome_server.planes import (
    Picture,
    Plane,
    assemble,
    at_depth,
    chroma_shape,
    depth_of,
    encodable_formats,
    luma_of,
    output_format,
    picture_of,
)


@pytest.mark.parametrize(
    ("format", "twin", "expected"),
    [
        ("yuv420p", "yuv420p", "yuv420p"),
        ("yuvj422p", "yuvj422p", "yuv422p"),
        ("nv12", "yuv420p", "yuv420p"),
        ("uyvy422", "yuv422p", "yuv422p"),
        ("yuyv422", "yuv422p", "yuv422p"),
        ("yuva420p", "yuva420p", "yuv420p"),
        ("p010le", "yuv420p10le", "yuv420p10le"),
        ("yuv420p10be", "yuv420p10le", "yuv420p10le"),
        ("yuv444p12le", "yuv444p12le", "yuv444p12le"),
        ("gray", "gray", "yuv420p"),
        ("gray10be", "gray10le", "yuv420p10le"),
    ],
)
def test_samples_are_moved_not_changed(format: str, twin: str, expected: str) -> None:
    plain = VideoFrame(64, 48, twin)
    depth = plain.format.components[0].bits
    samples = np.random.default_rng(0).integers(16, 1 << (depth - 1), (48, 64))
    for index, plane in enumerate(plain.planes):
        lines = np.frombuffer(memoryview(plane), np.uint8 if depth == 8 else np.uint16).reshape(plane.height, -1)
        lines[:, : plane.width] = samples if index == 0 else 1 << (depth - 1)
    frame = plain if format == twin else plain.reformat(format=format)
    picture = picture_of(frame, None)
    assert picture.depth == depth and not picture.is_rgb
    assert np.array_equal(luma_of(frame, picture), samples)
    assert output_format(picture, ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p12le"]) == expected


@pytest.mark.parametrize(
    ("format", "depth"), [("rgb24", 8), ("pal8", 8), ("gbrp10le", 10), ("rgb48le", 16), ("bgra", 8), ("gbrpf32le", 16)]
)
def test_rgb_gets_luma_of_its_depth(format: str, depth: int) -> None:
    picture = picture_of(VideoFrame(64, 48, format), Fraction(1))
    assert picture.is_rgb and picture.depth == depth and not picture.full_range


def test_odd_sizes_get_a_grid_that_holds_them() -> None:
    odd = picture_of(VideoFrame(63, 47, "yuv420p"), None)
    assert output_format(odd, ["yuv420p", "yuv444p"]) == "yuv444p"
    assert output_format(odd, ["yuv420p"]) == "yuv420p"


def test_missing_depths_give_way_to_the_next_deeper() -> None:
    picture = picture_of(VideoFrame(64, 48, "yuv420p10le"), None)
    assert output_format(picture, ["yuv420p", "yuv444p12le", "yuv420p16le"]) == "yuv444p12le"
    assert output_format(picture, ["yuv420p", "yuv422p"]) is None


def test_formats_to_write_are_planar_yuv() -> None:
    assert encodable_formats("libx264") == [
        "yuv420p",
        "yuv422p",
        "yuv444p",
        "yuv420p10le",
        "yuv422p10le",
        "yuv444p10le",
    ]


DEPTHS = [8, 9, 10, 12, 14, 16]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("depth", "deeper"), [(a, b) for a in DEPTHS for b in DEPTHS if a < b])
def test_deeper_luma_is_exact_and_comes_back(depth: int, deeper: int, full_range: bool) -> None:
    every: Plane = np.arange(1 << depth, dtype=np.uint8) if depth == 8 else np.arange(1 << depth, dtype=np.uint16)
    deep = at_depth(every, depth, deeper, full_range=full_range)
    assert np.array_equal(at_depth(deep, deeper, depth, full_range=full_range), every)
    if full_range:  # black is black and white is white
        assert deep[0] == 0 and deep[-1] == (1 << deeper) - 1
    else:
        assert np.array_equal(deep, every.astype(int) << (deeper - depth))


def test_fewer_bits_are_rounded_and_clipped() -> None:
    luma = np.array([[63, 64, 65, 66, 67, 1021, 1022, 1023]], np.uint16)
    assert at_depth(luma, 10, 8, full_range=False).tolist() == [[16, 16, 16, 17, 17, 255, 255, 255]]
    assert at_depth(luma, 10, 8, full_range=True).tolist() == [[16, 16, 16, 16, 17, 255, 255, 255]]


def test_a_frame_takes_luma_of_another_depth() -> None:
    luma = np.random.default_rng(0).integers(0, 256, (48, 64)).astype(np.uint8)
    rows, columns = chroma_shape(64, 48, "yuv422p10le")
    chroma = np.full((rows, columns), 600, np.uint16), np.full((rows, columns), 400, np.uint16)
    frame = assemble(luma, chroma, "yuv422p10le", 8)
    planes = [
        np.frombuffer(memoryview(plane), np.uint16).reshape(plane.height, -1)[:, : plane.width]
        for plane in frame.planes
    ]
    assert np.array_equal(planes[0], luma.astype(int) << 2)
    assert np.array_equal(planes[1], chroma[0]) and np.array_equal(planes[2], chroma[1])


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize("format", ["yuv420p", "yuv422p10le"])
def test_marks_are_written_and_read(format: str, order: str) -> None:
    frame = VideoFrame(64, 48, format)
    frame.pts, frame.time_base, frame.opaque = 7, Fraction(1, 600), "kept"
    assert marked(frame) == ""
    same = FieldMarker(64, 48, format, Fraction(1, 600), order).mark(frame)
    assert marked(same) == order
    assert (same.pts, same.time_base, same.opaque) == (7, Fraction(1, 600), "kept")
    assert same.planes[0].buffer_ptr == frame.planes[0].buffer_ptr


SIZE = WIDTH, HEIGHT = 192, 96
CHANCE = np.random.default_rng(5)
NOISE = CHANCE.normal(0, 1, (400, 800))


def _blocks(side: int, brightest: int) -> Any:
    return np.kron(CHANCE.integers(0, brightest, (400 // side + 1, 800 // side + 1)), np.ones((side, side)))[:400, :800]


SCENES = {
    "smooth": sum(_blocks(cell, 60) for cell in (7, 19, 41)),
    "hard edges": 20 + _blocks(9, 210),
    "stripes": np.tile(np.where(np.arange(400) // 2 % 2, 60.0, 180.0)[:, None], 800) + 20 * NOISE,
    "fine detail": 120 + 40 * NOISE,
}


def moment(scene: str, time: float, move: tuple[int, int], grain: float) -> Any:
    """What is seen at a time, counted in fields: (HEIGHT, WIDTH)."""
    down, across = 100 + round(time * move[0] / 2), 200 + round(time * move[1] / 2)
    seen = SCENES[scene][down : down + HEIGHT, across : across + WIDTH]
    return seen + np.random.default_rng([int(time) + 1, 9]).normal(0, grain, (HEIGHT, WIDTH)) if grain else seen


def lumas(scene: str, move: tuple[int, int], grain: float, order: str, count: int = 12) -> Iterator[Any]:
    for index in range(count):
        luma = moment(scene, 2 * index, move, grain).copy()
        if order:
            later = 1 if order == "tff" else 0  # the first of the lines that are shown later
            luma[later::2] = moment(scene, 2 * index + 1, move, grain)[later::2]
        yield luma.clip(0, 255).astype(np.uint8)


MOVES = [(0, 2), (0, 6), (2, 0), (4, 6), (-2, 4), (8, 0)]


@pytest.mark.parametrize("grain", [0, 4, 15])
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("scene", SCENES)
def test_whole_frames_raise_no_false_alarm(scene: str, move: tuple[int, int], grain: float) -> None:
    assert field_order_of(lumas(scene, move, grain, "")) == ""


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize("grain", [0, 4, 15])
@pytest.mark.parametrize("move", [(0, 4), (0, 6), (0, 10), (2, 6)])
@pytest.mark.parametrize("scene", ["smooth", "hard edges"])
def test_fields_that_nobody_marked_are_found(scene: str, move: tuple[int, int], grain: float, order: str) -> None:
    assert field_order_of(lumas(scene, move, grain, order)) == order


@pytest.mark.parametrize("grain", [0, 2, 15])
def test_nothing_is_claimed_of_a_still(grain: float) -> None:
    assert field_order_of(lumas("smooth", (0, 0), grain, "tff")) == ""
    assert field_order_of(lumas("smooth", (0, 6), grain, "tff", count=3)) == ""
    assert field_order_of(luma[:48] for luma in lumas("smooth", (0, 6), grain, "tff")) == ""


def test_flicker_and_jitter_are_no_fields() -> None:
    chance = np.random.default_rng(2)
    shown = [
        (moment("smooth", 0, (0, 0), 4) * chance.uniform(0.8, 1.2))[chance.integers(0, 3) :][:80].clip(0, 255)
        for _ in range(24)
    ]
    assert field_order_of([luma.astype(np.uint8) for luma in shown]) == ""


def test_depth_makes_no_difference() -> None:
    deep = [luma.astype(np.uint16) << 8 for luma in lumas("smooth", (0, 6), 4, "bff")]
    assert field_order_of(deep) == "bff"


def _interlaced(format: str, order: str, count: int) -> tuple[Picture, list[VideoFrame], list[Any]]:
    depth = depth_of(format)
    samples = [luma.astype(np.uint16) << (depth - 8) for luma in lumas("smooth", (0, 6), 0, order, count)]
    frames = []
    for index, luma in enumerate(samples):
        frame = VideoFrame(*SIZE, format)
        for number, plane in enumerate(frame.planes):
            lines = np.frombuffer(memoryview(plane), np.uint8 if depth == 8 else np.uint16).reshape(plane.height, -1)
            lines[:, : plane.width] = luma if number == 0 else 1 << (depth - 1)
        frame.pts, frame.time_base, frame.opaque = [0, 7, 8, 40, 41, 100][index], Fraction(1, 600), index
        frame.color_range, frame.colorspace = 1, 6
        frames.append(frame)
    return picture_of(frames[0], None, order), frames, samples


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize(
    "format", ["yuv420p", "yuv422p10le", "yuv420p12le", "yuv420p16le", "gray", "gray10le", "gray16le", "yuv440p10le"]
)
def test_deinterlacing_makes_a_whole_frame_of_each(format: str, order: str) -> None:
    picture, frames, samples = _interlaced(format, order, 6)
    machine = Deinterlacer(picture, Fraction(1, 600))
    made = [whole for frame in frames for whole in machine.push(frame)] + machine.flush()
    after = deinterlaced(picture)
    assert after.field_order == "" and after.depth == picture.depth
    assert [(frame.pts, frame.time_base, frame.opaque) for frame in made] == [
        (pts, Fraction(1, 600), index) for index, pts in enumerate([0, 7, 8, 40, 41, 100])
    ]
    kept = 0 if order == "tff" else 1  # lines of the field shown first
    for frame, luma in zip(made, samples, strict=True):
        assert frame.format.name == after.pix_fmt and not frame.interlaced_frame
        whole = luma_of(frame, after)
        assert np.array_equal(whole[kept::2], luma[kept::2])
        assert not np.array_equal(whole, luma)
    assert field_order_of(luma_of(frame, after) for frame in made) == ""
    assert field_order_of(luma_of(frame, picture) for frame in frames) == order


def test_deinterlacing_keeps_colour_tags_and_begins_anew() -> None:
    picture, frames, _ = _interlaced("yuv420p", "tff", 4)
    machine = Deinterlacer(picture, Fraction(1, 600))
    first, again = ([whole for frame in frames for whole in machine.push(frame)] + machine.flush() for _ in range(2))
    assert [(frame.color_range, frame.colorspace) for frame in first] == [(1, 6)] * 4
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(luma_of(one, picture), luma_of(other, picture))
    assert len(machine.push(frames[0]) + machine.flush()) == 1


def test_deinterlacing_rgb_gives_luma_of_limited_range() -> None:
    luma = np.full((HEIGHT, WIDTH), 255, np.uint8)
    frame = VideoFrame.from_ndarray(np.dstack([luma] * 3), format="rgb24")
    picture = replace(picture_of(frame, None), field_order="tff")
    machine = Deinterlacer(picture, Fraction(1, 25))
    frame.pts = 3
    [whole] = machine.push(frame) + machine.flush()
    assert whole.pts == 3 and set(luma_of(whole, deinterlaced(picture)).ravel().tolist()) == {235}
