"""From a decoded frame to a still: square pixels, upright, in its own colours; and what makes a still worth keeping."""

from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from kinochrome_proto.errors import BadSettings

from .chroma import Float, Geometry, thumbnail
from .compose import colour_spread
from .planes import LUMA_WEIGHTS, Picture, Plane, plane_of

Pixels = npt.NDArray[np.uint8]

ENCODINGS: dict[str, list[int]] = {
    "jpg": [
        *(cv2.IMWRITE_JPEG_QUALITY, 95),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    ],
    "png": [],
}
"""Settings of each format, by the ending of its files."""

WIDEST = 4
"""Sample aspect ratios beyond this one, or its inverse, are mistakes."""
FINE, COARSE = 1.0, 2.5
"""Scales, in pixels, at which detail is weighed for sharpness."""
FAINT = 4.0
"""Coarse detail, in 8-bit code values squared, below which a picture counts as less sharp: fades are passed over."""
BLANK_RANGE = 24
"""8-bit code values that the middle 80 % of a picture's luma must span at least."""
BLACK = 24
"""8-bit code value above which no sample of a black bar lies."""
LEAST_BAR = 0.02
"""Share of a side that a bar takes at least; narrower dark edges are left."""
LEAST_INSIDE = 0.4
"""Share of a side that is left between bars at least; otherwise they are a dark scene, and left too."""
FINGERPRINT = 16
"""Samples along each side of a fingerprint."""
SHADING = 3.0
"""Standard deviation, in these samples, of the blur that is taken for shading."""


@dataclass(frozen=True)
class Still:
    """A still as its file holds it."""

    gray: bytes
    """The encoded luma."""
    colour: bytes
    """The encoded RGB picture; empty where the film has no chroma."""
    colour_spread: float
    """8-bit code values by which its chroma strays from a tint's: see `compose.colour_spread`."""


@dataclass(frozen=True)
class Bars:
    """Black bars around the picture of a film, such as letterboxed film has."""

    above: float = 0.0
    """Share of the lines that the upper bar takes, and the lower one."""
    beside: float = 0.0
    """Share of the columns that the left bar takes, and the right one."""

    @classmethod
    def around(cls, luma: Pixels) -> "Bars":
        """Find those of a picture (h, w): edges without light, as wide on the one side as on the other.

        Of a dark scene it may take too much; but only of what shows nothing.
        """
        return cls(_bar(luma.max(axis=1)), _bar(luma.max(axis=0)))

    def without(self, picture: Pixels) -> Pixels:
        """The part of a picture (h, w) or (h, w, c) between them. A view."""
        height, width = picture.shape[:2]
        # A line more than the bar goes: it is half light, half dark.
        top, left = (
            int(share * side) + 1 if share else 0 for share, side in ((self.above, height), (self.beside, width))
        )
        return picture[top : height - top, left : width - left]


def _bar(brightest: Pixels) -> float:
    """Share of a side, from the brightest samples (n,) across it, that the bars at its ends take, each of them."""
    lit = np.flatnonzero(brightest > BLACK)
    if not len(lit):
        return 0.0
    share = float(min(lit[0], len(brightest) - 1 - lit[-1])) / len(brightest)
    return share if share >= LEAST_BAR and 1 - 2 * share >= LEAST_INSIDE else 0.0


def shape_of(picture: Picture, size: int, bars: Bars = Bars()) -> tuple[int, int]:
    """Height and width with square pixels, before any turn.

    The lines of anamorphic film are kept, and its columns scaled.

    Args:
        picture: the film's.
        size: pixels between the bars along the shorter side; where there are fewer, or with 0, it stays as large.
        bars: around it.
    """
    aspect = picture.sample_aspect_ratio
    aspect = aspect if Fraction(1, WIDEST) <= aspect <= WIDEST else Fraction(1)
    height, width = float(picture.height), float(picture.width * aspect)
    short = min(height * (1 - 2 * bars.above), width * (1 - 2 * bars.beside))
    scale = min(1.0, size / short) if size else 1.0
    return max(1, round(height * scale)), max(1, round(width * scale))


def small_luma(luma: Plane, picture: Picture, shape: tuple[int, int]) -> Pixels:
    """Luma plane (H, W) -> (h, w) of this shape, uint8 in full range."""
    return thumbnail(luma, Geometry(picture, shape, picture.working_format, fields=False))


def still(frame: VideoFrame, luma: Plane, picture: Picture, bars: Bars, size: int, format: str) -> Still:
    """Make a still.

    Args:
        frame: decoded, of whole lines (not of two fields).
        luma: its luma plane (H, W).
        picture: what it is.
        bars: that are cut off.
        size: pixels of its short side at most; 0 keeps it.
        format: a key of ENCODINGS.
    """
    y = small_luma(luma, picture, shape_of(picture, size, bars))
    turns = round(picture.rotation / 90) % 4
    gray = _encoded(np.rot90(bars.without(y), turns), format)
    if picture.working_format.startswith("gray"):
        return Still(gray, b"", 0.0)
    if picture.is_rgb:
        rgb = cast(Pixels, _resized(cast(Pixels, frame.reformat(format="rgb24").to_ndarray()), y.shape))
        cb, cr = _difference(rgb)
    else:
        cb, cr = _chroma(frame, picture, y.shape)
        rgb = _rgb(y, cb, cr, picture.matrix)
    codes = tuple((255 * plane + 128.5).clip(0, 255).astype(np.uint8) for plane in (cb, cr))
    spread = colour_spread(cast(tuple[Plane, Plane], codes), y, 8)
    return Still(gray, _encoded(np.rot90(bars.without(rgb)[..., ::-1], turns), format), spread)


def sharpness(luma: Pixels) -> float:
    """How much of a picture's detail is fine: 0.2 to 0.5 of most sharp pictures, 0.1 and less of blurred ones.

    The variance of the Laplacian, of the picture (h, w) softened by FINE so that grain has no say, against that of
    the picture softened by COARSE, both brought to the same scale. Gain and offset of luma cancel out, and so,
    nearly, does how much there is to see: natural pictures have about as much detail at one scale as at another.
    """
    picture = luma.astype(np.float32)
    fine, coarse = (
        float(cv2.Laplacian(cv2.GaussianBlur(picture, (0, 0), scale), cv2.CV_32F).var()) * scale**4
        for scale in (FINE, COARSE)
    )
    return fine / (coarse + FAINT)


def is_blank(luma: Pixels) -> bool:
    """Whether next to nothing can be seen in a picture (h, w)."""
    shares = np.cumsum(np.bincount(luma.ravel(), minlength=256)) / luma.size
    low, high = np.searchsorted(shares, (0.1, 0.9))
    return bool(high - low < BLANK_RANGE)


def fingerprint(luma: Pixels) -> Float:
    """What tells a picture (h, w) from others: (FINGERPRINT²,), of length 1. The product of two is their correlation.

    FINGERPRINT samples a side, of which broad shading is taken away: much of the world is bright above and dark below.
    """
    side = (FINGERPRINT, FINGERPRINT)
    small = cv2.resize(luma, side, interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= cv2.GaussianBlur(small, (0, 0), SHADING)
    small -= small.mean()
    unit: Float = (small / (np.linalg.norm(small) + 1e-6)).astype(np.float32).ravel()
    return unit


def _chroma(frame: VideoFrame, picture: Picture, shape: tuple[int, ...]) -> tuple[Float, Float]:
    """Cb and Cr, -0.5..0.5, of this shape."""
    if picture.working_format != frame.format.name:
        frame = frame.reformat(format=picture.working_format)  # samples are moved, not changed
    scale = 1 << (picture.depth - 8)
    gain = 256 * scale - 1 if picture.full_range else 224 * scale
    cb, cr = (
        (_resized(plane_of(frame, index), shape).astype(np.float32) - 128 * scale) / np.float32(gain)
        for index in (1, 2)
    )
    return cb, cr


def _rgb(y: Pixels, cb: Float, cr: Float, matrix: int) -> Pixels:
    """(h, w, 3) of full-range luma and chroma -0.5..0.5."""
    kr, kb = LUMA_WEIGHTS[matrix]
    light = y.astype(np.float32) / 255
    red, blue = light + 2 * (1 - kr) * cr, light + 2 * (1 - kb) * cb
    green = (light - kr * red - kb * blue) / (1 - kr - kb)
    return (255 * np.stack((red, green, blue), axis=-1) + 0.5).clip(0, 255).astype(np.uint8)


def _difference(rgb: Pixels) -> tuple[Float, Float]:
    """Cb and Cr, -0.5..0.5, of BT.601."""
    _, cr, cb = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb).astype(np.float32))
    return (cb - 128) / np.float32(255), (cr - 128) / np.float32(255)


def _resized(plane: Plane, shape: tuple[int, ...]) -> Plane:
    height, width = shape
    shrinks = height <= plane.shape[0] and width <= plane.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cast(Plane, cv2.resize(plane, (width, height), interpolation=how))


def _encoded(picture: Pixels, format: str) -> bytes:
    """Gray (h, w) or BGR (h, w, 3) as a file."""
    try:
        done, data = cv2.imencode(f".{format}", np.ascontiguousarray(picture), ENCODINGS[format])
    except cv2.error:
        done = False
    if not done:
        height, width = picture.shape[:2]
        raise BadSettings(f"a still of {width}x{height} does not fit a .{format} file: choose another --size")
    return data.tobytes()
