"""Thumbnails, and chroma on its way back to the film's grid."""

from fractions import Fraction

import numpy as np
import pytest

from kinochrome_proto.manifest import Manifest
from kinochrome_server.chroma import Geometry, chroma_planes, thumbnail
from kinochrome_server.planes import BT709, BT2020, LUMA_WEIGHTS, SMPTE170M, Picture

MANIFEST = Manifest(
    family="test",
    working_size=128,
    size_multiple=32,
    chroma_stride=4,
    chroma_encoding="ycbcr-bt601-full",
    licence="Apache-2.0",
)


def picture(
    width: int = 320,
    height: int = 256,
    depth: int = 8,
    full: bool = False,
    matrix: int = SMPTE170M,
    aspect: Fraction = Fraction(1),
) -> Picture:
    return Picture(width, height, "yuv420p", depth, aspect, 0, full, matrix, 2, 2, "", False, "yuv420p", False)


def geometry(described: Picture, format: str = "") -> Geometry:
    own = "yuv420p" if described.depth == 8 else f"yuv420p{described.depth}le"
    return Geometry.of(described, MANIFEST, format or own)


@pytest.mark.parametrize(
    ("width", "height", "aspect", "expected"),
    [
        (640, 480, Fraction(1), (128, 160)),
        (480, 640, Fraction(1), (160, 128)),
        (1920, 1080, Fraction(1), (128, 224)),
        (720, 576, Fraction(64, 45), (128, 224)),  # anamorphic: shown as 16:9
        (2000, 20, Fraction(1), (128, 512)),  # a strip: bounded
        (1, 1, Fraction(1), (128, 128)),
    ],
)
def test_thumbnail_has_the_displayed_shape(
    width: int, height: int, aspect: Fraction, expected: tuple[int, int]
) -> None:
    assert geometry(picture(width, height, aspect=aspect)).thumbnail == expected


@pytest.mark.parametrize(
    ("depth", "full", "black", "white"),
    [(8, False, 16, 235), (8, True, 0, 255), (10, False, 64, 940), (12, True, 0, 4095)],
)
def test_thumbnail_brings_any_range_to_0_255(depth: int, full: bool, black: int, white: int) -> None:
    dtype = np.dtype(np.uint8 if depth == 8 else np.uint16)
    shape = geometry(picture(depth=depth, full=full))
    for code, expected in ((black, 0), (white, 255), ((black + white) // 2, 127)):
        small = thumbnail(np.full((256, 320), code, dtype), shape)
        assert small.dtype == np.uint8
        assert abs(int(small.min()) - expected) <= 1 and small.min() == small.max()


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [SMPTE170M, BT709, BT2020])
def test_no_chroma_is_exactly_neutral(depth: int, full: bool, matrix: int) -> None:
    shape = geometry(picture(depth=depth, full=full, matrix=matrix))
    dtype = np.dtype(np.uint8 if depth == 8 else np.uint16)
    luma = np.random.default_rng(0).integers(0, 1 << depth, (256, 320)).astype(dtype)
    for plane in chroma_planes(np.zeros((2, 32, 40), np.float32), thumbnail(luma, shape), luma, shape):
        assert plane.shape == (128, 160)
        assert (plane == 1 << (depth - 1)).all()


@pytest.mark.parametrize("matrix", [SMPTE170M, BT709, BT2020])
@pytest.mark.parametrize("full", [False, True])
def test_colour_is_the_same_under_every_matrix(matrix: int, full: bool) -> None:
    """A colour given in BT.601 must come out as the chroma of that very R'G'B' under the tagged matrix."""
    cb, cr = -0.11, 0.17
    y601, (kr, kb) = 0.5, LUMA_WEIGHTS[SMPTE170M]
    red, blue = y601 + 2 * (1 - kr) * cr, y601 + 2 * (1 - kb) * cb
    green = (y601 - kr * red - kb * blue) / (1 - kr - kb)
    to_kr, to_kb = LUMA_WEIGHTS[matrix]
    y = to_kr * red + (1 - to_kr - to_kb) * green + to_kb * blue
    expected = ((blue - y) / (2 * (1 - to_kb)), (red - y) / (2 * (1 - to_kr)))
    gain = 255 if full else 224
    shape = geometry(picture(matrix=matrix, full=full))
    painted = np.stack((np.full((32, 40), cb), np.full((32, 40), cr))).astype(np.float32)
    luma = np.full((256, 320), 120, np.uint8)
    planes = chroma_planes(painted, thumbnail(luma, shape), luma, shape)
    for plane, value in zip(planes, expected, strict=True):
        assert abs(float(plane.mean()) - (128 + gain * value)) <= 0.6


def test_out_of_range_chroma_is_clipped_to_legal_codes() -> None:
    luma = np.full((256, 320), 120, np.uint8)
    for full, low, high in ((False, 16, 240), (True, 0, 255)):
        shape = geometry(picture(full=full))
        painted = np.stack((np.full((32, 40), -0.9), np.full((32, 40), 0.9))).astype(np.float32)
        blue, red = chroma_planes(painted, thumbnail(luma, shape), luma, shape)
        assert blue.max() == low and red.min() == high


def test_colour_keeps_to_edges_of_the_luma() -> None:
    """A red half beside a blue half, painted in columns 8 pixels wide: colour changes where luma does, at once."""
    shape = geometry(picture())
    luma = np.full((256, 320), 60, np.uint8)
    luma[:, 150:] = 190  # between two columns of the colorizer: its own edge lies at 152
    painted = np.zeros((2, 32, 40), np.float32)
    painted[1, :, :19], painted[1, :, 19:] = 0.2, -0.2
    _, red = chroma_planes(painted, thumbnail(luma, shape), luma, shape)
    profile = red[64].astype(int) - 128
    assert np.diff(profile).argmin() == 74  # from grid column 74 to 75, that is at pixel 150
    assert profile[74] > 35 and profile[75] < -10  # bilinear alone: no step over 23
    assert profile[60] > 40 and profile[90] < -40
