"""The coloured picture: luma as it is, new chroma, or the film's own where it is in colour already."""

import math
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from .chroma import Float, Geometry, chroma_planes
from .planes import LIMITED, Picture, Plane, assemble, plane_of

COLOUR_SPREAD = 4.0
"""8-bit code values by which a colour film's chroma strays from what its luma tells; tints stray by less than one."""


class ColourWatch:
    """Tells which shots are in colour already. Feed it every frame in order."""

    def __init__(self) -> None:
        self._in_colour = False

    def see(self, chroma: tuple[Plane, Plane], luma: Plane, depth: int, starts_shot: bool) -> bool:
        """Whether this frame is of a shot in colour. A shot that has once shown colour keeps it to its end.

        `depth` is that of chroma, in bits.
        """
        if starts_shot:
            self._in_colour = False
        self._in_colour = self._in_colour or colour_spread(chroma, luma, depth) > COLOUR_SPREAD
        return self._in_colour


def colour_spread(chroma: tuple[Plane, Plane], luma: Plane, depth: int) -> float:
    """Standard deviation of chroma, in 8-bit code values, about the line that a tint (sepia) would follow with luma.

    Taken on a picture of some 32 lines, where grain and coding noise have cancelled out.
    """
    size = 48, 32
    y = cv2.resize(luma, size, interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    y = (y - y.mean()) / (y.std() + 1e-3)
    total = 0.0
    for plane in chroma:
        c = cv2.resize(plane, size, interpolation=cv2.INTER_AREA).astype(np.float32).ravel() / (1 << (depth - 8))
        c = c - c.mean()
        total += float(np.var(c - y * (c * y).mean()))
    return math.sqrt(total)


class Composer:
    """Makes a film's output frames, in showing order: one composer a segment."""

    def __init__(self, geometry: Geometry, *, keep_color: bool, compare: bool) -> None:
        """
        Args:
            geometry: of the film.
            keep_color: whether shots that are in colour keep their own chroma.
            compare: whether the film is shown twice in one picture, left in gray.
        """
        self._geometry, self._compare = geometry, compare
        self._watch = ColourWatch() if keep_color else None

    def watch(self, decoded: VideoFrame, luma: Plane, starts_shot: bool) -> None:
        """Take notice of a frame that is not shown."""
        if self._watch:
            self._watch.see(chroma_of(decoded, self._geometry), luma, self._geometry.depth, starts_shot)

    def compose(
        self, decoded: VideoFrame, luma: Plane, thumbnail: npt.NDArray[np.uint8], painted: Float, starts_shot: bool
    ) -> VideoFrame:
        """The output frame.

        Args:
            decoded: the film's frame.
            luma: its luma plane (H, W).
            thumbnail: (h, w), full range.
            painted: chroma (2, h/s, w/s), -0.5..0.5, BT.601.
            starts_shot: whether a new shot begins with it.
        """
        own = None
        if self._watch:
            chroma = chroma_of(decoded, self._geometry)
            if self._watch.see(chroma, luma, self._geometry.depth, starts_shot):
                own = chroma
        geometry = self._geometry
        cb, cr = own or chroma_planes(painted, thumbnail, luma, geometry)
        if self._compare:
            neutral = np.full_like(cb, 1 << (geometry.depth - 1))
            luma, cb, cr = (
                _beside(gray, plane, geometry.turns) for gray, plane in ((luma, luma), (neutral, cb), (neutral, cr))
            )
        picture = geometry.picture
        return assemble(luma, (cb, cr), geometry.format, picture.depth, full_range=picture.full_range)


def _beside(left: Plane, right: Plane, turns: int) -> Plane:
    """Two planes side by side as they are shown, after so many counter-clockwise quarter turns."""
    pair = (left, right) if turns in (0, 1) else (right, left)
    return cast(Plane, np.concatenate(pair, axis=1 if turns in (0, 2) else 0))


def chroma_of(decoded: VideoFrame, geometry: Geometry) -> tuple[Plane, Plane]:
    """The film's own chroma planes, on the output's grid and at its depth. Views: they live as long as the frame."""
    picture = geometry.picture
    if picture.is_rgb:
        decoded = decoded.reformat(format=geometry.format, dst_colorspace=picture.matrix, dst_color_range=LIMITED)
    elif decoded.format.name != geometry.format:
        decoded = decoded.reformat(format=geometry.format)
    return plane_of(decoded, 1), plane_of(decoded, 2)


def compared_size(picture: Picture) -> tuple[int, int]:
    """Width and height of the stored picture that shows a film twice, side by side."""
    sideways = round(picture.rotation / 90) % 2 == 1
    return (picture.width, 2 * picture.height) if sideways else (2 * picture.width, picture.height)
