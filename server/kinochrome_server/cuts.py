"""Cuts between shots, found in luma thumbnails as they come.

After EpochColor: distances of mean-subtracted thumbnails, held against a threshold and against what is usual nearby.
Two things are added for old film. A cut must part all of the frames before it from all those after, so that a flash
or a torn frame is none; and it must change much of what is in the picture, so that a jump in the gate, which shifts
all of it a little, is none either. Fades and dissolves are no cuts: the stabiliser follows them.
"""

from collections import deque
from collections.abc import Iterator
from statistics import median
from typing import Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from .delayed import delayed

LINES = 36
"""Of the pictures that are compared: grain has cancelled out, and a small jump in the gate is less than a line."""
SIDE = 3
"""Frames before and after a cut that must all differ; shots are at least that long."""
DELAY = SIDE - 1
"""Frames by which decisions lag at most."""
NEARBY = 8
"""Frames whose steps tell what is usual."""
LEAST = 10.0
"""Mean difference, in 8-bit code values, below which nothing is a cut."""
UNUSUAL = 2.0
"""How many times the usual step a cut must be."""
NEW = 0.62
"""Share of a picture's own contrast (mean deviation) by which it must differ."""

_Small = npt.NDArray[np.float32]


class CutFinder:
    """Says of each frame, in order, whether a new shot starts with it."""

    def __init__(self) -> None:
        self._frames: deque[_Small] = deque(maxlen=2 * SIDE)
        """The last ones, mean-subtracted."""
        self._steps: deque[float] = deque(maxlen=NEARBY + SIDE)
        """Differences from frame to frame."""
        self._undecided = 0

    def push(self, luma: npt.NDArray[np.uint8]) -> list[bool]:
        """Take a thumbnail (h, w) uint8; give the decisions on earlier frames that are now settled, in order."""
        width = max(1, round(LINES * luma.shape[1] / luma.shape[0]))
        small = cv2.resize(luma, (min(width, 4 * LINES), LINES), interpolation=cv2.INTER_AREA).astype(np.float32)
        small -= small.mean()
        if self._frames:
            self._steps.append(_distance(self._frames[-1], small))
        self._frames.append(small)
        self._undecided += 1
        return [self._decide()] if self._undecided > DELAY else []

    def flush(self) -> list[bool]:
        """The decisions on the last frames."""
        return [self._decide() for _ in range(self._undecided)]

    def _decide(self) -> bool:
        """On the oldest undecided frame."""
        place = len(self._frames) - self._undecided
        before = list(self._frames)[max(0, place - SIDE) : place]
        after = list(self._frames)[place : place + SIDE]
        self._undecided -= 1
        if not before:
            return False
        least = min(_distance(one, other) for one in before for other in after)
        steps = list(self._steps)
        own = len(steps) - self._undecided - 1  # the step to this frame
        nearby = [*steps[max(0, own - NEARBY) : own], *steps[own + 1 :]]
        contrast = min(float(np.abs(before[-1]).mean()), float(np.abs(after[0]).mean()))
        return least > max(LEAST, UNUSUAL * median(nearby or [0.0]), NEW * contrast)


class Framed(Protocol):
    """A frame on its way, as `with_cuts` needs it."""

    thumbnail: npt.NDArray[np.uint8]
    """(h, w), full range."""
    starts_shot: bool
    """Set by `with_cuts`."""


F = TypeVar("F", bound=Framed)


def with_cuts(frames: Iterator[F]) -> Iterator[F]:
    """The same frames, DELAY later, each told whether a shot starts with it."""
    finder = CutFinder()
    for frame, cut in delayed(frames, lambda frame: finder.push(frame.thumbnail), finder.flush):
        frame.starts_shot = cut
        yield frame


def _distance(one: _Small, other: _Small) -> float:
    return float(np.abs(one - other).mean())
