"""Luma is read as it is, however the samples lie."""

from fractions import Fraction

import numpy as np
import pytest
from av.video.frame import VideoFrame

from kinochrome_server.planes import luma_of, output_format, picture_of


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
    ("format", "depth"), [("rgb24", 8), ("pal8", 8), ("gbrp10le", 10), ("rgb48le", 16), ("bgra", 8)]
)
def test_rgb_gets_luma_of_its_depth(format: str, depth: int) -> None:
    picture = picture_of(VideoFrame(64, 48, format), Fraction(1))
    assert picture.is_rgb and picture.depth == depth and not picture.full_range


def test_odd_sizes_get_a_grid_that_holds_them() -> None:
    odd = picture_of(VideoFrame(63, 47, "yuv420p"), None)
    assert output_format(odd, ["yuv420p", "yuv444p"]) == "yuv444p"
    assert output_format(odd, ["yuv420p10le"]) is None
