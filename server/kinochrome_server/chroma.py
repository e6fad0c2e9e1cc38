"""From full-size luma to the colorizer's thumbnail, and from its small chroma back to the film's chroma grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from kinochrome_proto.manifest import Manifest

from .planes import LUMA_WEIGHTS, SMPTE170M, Picture, Plane, chroma_shape, depth_of, sample_type

Float = npt.NDArray[np.float32]

GUIDE_RADIUS = 4
"""Reach of the guided filter, in lines of the thumbnail."""
GUIDE_EPSILON = 0.02**2
"""Luma contrast (squared, full scale 1) below which the filter smooths instead of following edges."""
LONGEST = 4  # a thumbnail's long side is at most this many short sides


@dataclass(frozen=True)
class Geometry:
    """How one film's frames map to thumbnails and back; made once a film."""

    picture: Picture
    """Of the frames that are painted."""
    thumbnail: tuple[int, int]
    """Height and width of the colorizer's luma."""
    format: str
    """Output pixel format."""
    fields: bool
    """Whether each field is coloured along its own edges."""

    @property
    def turns(self) -> int:
        """Counter-clockwise quarter turns from the stored picture to the shown one."""
        return round(self.picture.rotation / 90) % 4

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the chroma planes."""
        return chroma_shape(self.picture.width, self.picture.height, self.format)

    @property
    def depth(self) -> int:
        """Bits of an output sample."""
        return depth_of(self.format)

    @classmethod
    def of(cls, picture: Picture, manifest: Manifest, format: str, *, fields: bool = False) -> Geometry:
        """The thumbnail keeps the displayed shape: anamorphic film must not look squeezed to the colorizer.

        Args:
            picture: of the frames.
            manifest: of the colorizer.
            format: output pixel format.
            fields: whether the frames consist of two fields.
        """
        height, width = float(picture.height), float(picture.width * picture.sample_aspect_ratio)
        scale = manifest.working_size / min(height, width)
        longest = manifest.working_size * LONGEST
        multiple = manifest.size_multiple
        lines, columns = (
            max(multiple, round(min(side * scale, longest) / multiple) * multiple) for side in (height, width)
        )
        return cls(picture, (lines, columns), format, fields)


def thumbnail(luma: Plane, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Luma plane -> (h, w) uint8 of the colorizer's size, full range. Area averaging, so that grain cancels out."""
    lines, columns = geometry.thumbnail
    shrinks = lines <= luma.shape[0] and columns <= luma.shape[1]
    small = cv2.resize(luma, (columns, lines), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    picture = geometry.picture
    if picture.full_range and picture.depth == 8:
        return small.astype(np.uint8, copy=False)
    black, span = _luma_range(picture)
    brought: Float = (small.astype(np.float32) - black) * (255 / span) + 0.5
    return brought.clip(0, 255).astype(np.uint8)


def chroma_planes(
    painted: Float, small_luma: npt.NDArray[np.uint8], luma: Plane, geometry: Geometry
) -> tuple[Plane, Plane]:
    """The colorizer's chroma (2, h/s, w/s) -> the output's two chroma planes, in the film's matrix and range.

    Upsampling follows the full-size luma, so that colour keeps to edges: the fast guided filter (He and Sun,
    "Fast Guided Filter", 2015). Chroma is a local linear function of luma, fitted at the thumbnail's size and
    evaluated on the chroma grid. Fields are of two moments: each follows its own luma, and has its own chroma lines.
    """
    height, width = geometry.grid
    if not geometry.fields:
        return _upsampled(painted, small_luma, luma, (height, width), geometry)
    cb, cr = (cast(Plane, np.empty((height, width), sample_type(geometry.depth))) for _ in "br")
    for parity in (0, 1):
        lines = luma[parity::2].copy()
        shape = len(range(parity, height, 2)), width
        small = thumbnail(lines, geometry)
        cb[parity::2], cr[parity::2] = _upsampled(painted, small, lines, shape, geometry)
    return cb, cr


def _upsampled(
    painted: Float, small_luma: npt.NDArray[np.uint8], luma: Plane, shape: tuple[int, int], geometry: Geometry
) -> tuple[Plane, Plane]:
    """Chroma planes of `shape` for a frame or a field."""
    picture, (lines, columns) = geometry.picture, geometry.thumbnail
    height, width = shape
    black, span = _luma_range(picture)
    guide = small_luma.astype(np.float32) / 255
    fine = cv2.resize(luma, (width, height), interpolation=cv2.INTER_AREA)
    fine_guide = (fine.astype(np.float32) - np.float32(black)) * np.float32(1 / span)
    box = (2 * GUIDE_RADIUS + 1, 2 * GUIDE_RADIUS + 1)
    mean = cv2.blur(guide, box)
    variance = cv2.blur(guide * guide, box) - mean * mean + GUIDE_EPSILON
    depth_scale = 1 << (geometry.depth - 8)
    gain = 256 * depth_scale - 1 if picture.full_range else 224 * depth_scale
    low, high = (0, 256 * depth_scale - 1) if picture.full_range else (16 * depth_scale, 240 * depth_scale)
    planes = []
    for channel in _to_matrix(painted, picture.matrix):
        coarse = cv2.resize(channel, (columns, lines), interpolation=cv2.INTER_LINEAR)
        average = cv2.blur(coarse, box)
        slope = (cv2.blur(guide * coarse, box) - mean * average) / variance
        offset = average - slope * mean
        slope = cv2.resize(cv2.blur(slope, box), (width, height), interpolation=cv2.INTER_LINEAR)
        offset = cv2.resize(cv2.blur(offset, box), (width, height), interpolation=cv2.INTER_LINEAR)
        codes = (slope * fine_guide + offset) * np.float32(gain) + np.float32(128 * depth_scale + 0.5)
        planes.append(np.clip(codes, low, high).astype(sample_type(geometry.depth)))
    return planes[0], planes[1]


def _luma_range(picture: Picture) -> tuple[float, float]:
    """Code value of black, and of white minus black."""
    scale = 1 << (picture.depth - 8)
    return (0.0, 256.0 * scale - 1) if picture.full_range else (16.0 * scale, 219.0 * scale)


def _to_matrix(chroma: Float, matrix: int) -> Float:
    """(Cb, Cr) of BT.601 -> of another matrix.

    All matrices share the gray axis, so the map from one to another is linear in chroma alone: 2x2, without luma.
    """
    (kr, kb), (to_kr, to_kb) = LUMA_WEIGHTS[SMPTE170M], LUMA_WEIGHTS[matrix]
    if (kr, kb) == (to_kr, to_kb):
        return chroma
    # R'-Y', G'-Y', B'-Y' of each unit chroma vector under BT.601 ...
    blue, red = np.array([2 * (1 - kb), 0.0]), np.array([0.0, 2 * (1 - kr)])
    green = -(kr * red + kb * blue) / (1 - kr - kb)
    # ... and the other matrix's chroma of the same R', G', B'
    luma = to_kr * red + (1 - to_kr - to_kb) * green + to_kb * blue
    turn = np.stack(((blue - luma) / (2 * (1 - to_kb)), (red - luma) / (2 * (1 - to_kr))))
    turned: Float = np.einsum("ij,jhw->ihw", turn.astype(np.float32), chroma)
    return turned
