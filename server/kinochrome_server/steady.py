"""Steadying the colours of a film: each frame's chroma is averaged along the paths of motion through its neighbours.

Only chroma at the colorizer's size is touched, so nothing here can blur the picture.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]

LOOKAHEAD = 8
"""Frames after a frame that its colours are averaged with, and by which output lags."""
WARM_UP = 8
"""Frames before a frame that its colours are averaged with. A caller who pushes this many frames before the first one
it cares about, and LOOKAHEAD after the last, gets exactly the colours of an unbroken run."""

TOLERANCE = 6.0
"""Luma difference (8-bit values) along a path of motion at which trust in it falls to 61 %."""
GRAIN_SIGMA = 1.0
"""Blur of the luma that motion is looked for in, in its pixels (half those of the thumbnail): grain is no motion."""
SMALLEST_FOR_MOTION = 16
"""Side in pixels below which motion is not looked for: OpenCV's DIS refuses sides under 12."""

DARK = 28
"""Luma (8-bit, full range) from which on chroma is left as it is."""
DARKEST_GAIN = 0.3
"""What is left of chroma in black."""


@dataclass(frozen=True)
class _Step:
    """The way from a frame to a neighbour, on the chroma grid (h/s, w/s)."""

    places: Float
    """(h/s, w/s, 2): where each sample of the frame lies in the neighbour, x and y."""
    trust: Float
    """(h/s, w/s): 0..1, how surely it is the same thing there."""


@dataclass
class _Frame:
    own: Float
    """(h/s, w/s, 3): Cb, Cr and their weight, 1."""
    guide: npt.NDArray[np.uint8]
    back: _Step | None
    """To the frame before; None where a shot starts."""
    ahead: _Step | None = None
    """To the frame after; None where a shot ends, or nothing more is known."""


class Stabilizer:
    """Gives back what was pushed, LOOKAHEAD frames later, steadied. Equal pushes give equal bytes.

    A motion-compensated mean, after EpochColor: forward `f = (cur + (n-1)·warp(f)) / n` and backward likewise, with
    n counting the frames that agree, merged as `(n_f·f + n_b·b − cur) / (n_f + n_b − 1)`. Carried as the sums n·f and
    n instead of f and n this is linear: `sum = own + decay·trust·warp(sum)`, and the merge is a sum too. Both
    directions run over a window of fixed length, not from the start of the shot: a frame's colours then depend on
    WARM_UP frames before and LOOKAHEAD after it and on nothing else, so where a film is cut into segments cannot show.
    """

    def __init__(self, strength: float) -> None:
        """strength: 0..1. 0 passes chroma through untouched, 1 weighs all frames of the window alike.

        Weights fall by 1 − (1 − strength)² from frame to frame, so that equal steps of strength are about equal steps
        of steadiness. EpochColor's n_max is 1 / (1 − strength)².
        """
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must be within 0..1, got {strength}")
        self._decay = np.float32(1 - (1 - strength) ** 2)
        self._frames: deque[_Frame] = deque(maxlen=WARM_UP + 1 + LOOKAHEAD)
        self._owed = 0
        self._motion = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._motion.setFinestScale(1)  # half the guide's lines: those of the chroma grid

    def push(self, luma: npt.NDArray[np.uint8], chroma: Float, cut: bool) -> list[Float]:
        """Take the next frame; give those that are settled, in order.

        Args:
            luma: (h, w) thumbnail, full range.
            chroma: (2, h/s, w/s) in -0.5..0.5.
            cut: whether the frame starts a new shot.
        """
        if self._decay == 0:
            return [chroma]
        height, width = chroma.shape[1:]
        light = _shrunk(luma, (width, height))
        own = np.ones((height, width, 3), np.float32)
        own[..., :2] = chroma.transpose(1, 2, 0) * _gain(light)[..., np.newaxis]
        frame = _Frame(own, _guide(luma), None)
        if self._frames and not cut:
            self._link(self._frames[-1], frame)
        self._frames.append(frame)
        self._owed += 1
        return [self._settle()] if self._owed > LOOKAHEAD else []

    def flush(self) -> list[Float]:
        """The frames still owed, when no more come."""
        return [self._settle() for _ in range(self._owed)]

    def _settle(self) -> Float:
        frames, now = self._frames, len(self._frames) - self._owed
        self._owed -= 1
        total = self._gather(now, -1) + self._gather(now, 1) - frames[now].own
        steadied: Float = (total[..., :2] / total[..., 2:]).transpose(2, 0, 1)
        return np.ascontiguousarray(steadied)

    def _gather(self, now: int, direction: int) -> Float:
        """(h/s, w/s, 3): weighted sum of chroma over the frames on one side of a frame and itself, and of weights."""
        frames = self._frames
        end, reach = now, LOOKAHEAD if direction > 0 else WARM_UP
        while abs(end - now) < reach and _step(frames[end], direction) is not None:
            end += direction
        total = frames[end].own
        while end != now:
            end -= direction
            step = _step(frames[end], direction)
            assert step is not None
            brought = _taken(total, step.places[..., 0], step.places[..., 1])
            total = frames[end].own + brought * (self._decay * step.trust)[..., np.newaxis]
        return total

    def _link(self, before: _Frame, after: _Frame) -> None:
        """Find the motion between neighbours of one shot, both ways."""
        shape = after.own.shape[:2]
        onward, backward = self._flow(before.guide, after.guide), self._flow(after.guide, before.guide)
        before.ahead = _compare(before.guide, after.guide, onward, backward, shape)
        after.back = _compare(after.guide, before.guide, backward, onward, shape)

    def _flow(self, here: npt.NDArray[np.uint8], there: npt.NDArray[np.uint8]) -> Float:
        if min(here.shape) < SMALLEST_FOR_MOTION:
            return np.zeros((*here.shape, 2), np.float32)
        return cast(Float, self._motion.calc(here, there, np.zeros((*here.shape, 2), np.float32)))


def _step(frame: _Frame, direction: int) -> _Step | None:
    return frame.ahead if direction > 0 else frame.back


def _gain(light: npt.NDArray[np.uint8]) -> Float:
    """What to multiply chroma by at this luma: painters of single frames see colours in the noise of the dark."""
    bright = np.minimum(light.astype(np.float32) / DARK, 1)
    gain: Float = DARKEST_GAIN + (1 - DARKEST_GAIN) * bright * bright * (3 - 2 * bright)
    return gain


def _guide(luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The picture that motion is looked for in: half the thumbnail where that is large enough, without its grain."""
    height, width = luma.shape[0] // 2, luma.shape[1] // 2
    small = luma
    if min(height, width) >= SMALLEST_FOR_MOTION:
        small = _shrunk(luma, (width, height))
    return cast(npt.NDArray[np.uint8], cv2.GaussianBlur(small, (0, 0), GRAIN_SIGMA))


def _taken(planes: npt.NDArray[Any], x: Float, y: Float) -> Float:
    """(h, w, n) planes, each sample taken from its place."""
    return cast(Float, cv2.remap(planes, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _shrunk(plane: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Averaged over areas to this width and height."""
    return cast(npt.NDArray[Any], cv2.resize(plane, size, interpolation=cv2.INTER_AREA))


def _squares(vectors: Float) -> Float:
    """(h, w, 2) -> (h, w): squared lengths."""
    x, y = vectors[..., 0], vectors[..., 1]  # numpy sums over an axis of two far slower than it adds
    squares: Float = x * x + y * y
    return squares


def _compare(
    here: npt.NDArray[np.uint8], there: npt.NDArray[np.uint8], flow: Float, back: Float, shape: tuple[int, int]
) -> _Step:
    """What the motion from one guide (h, w) to another is worth, brought to the chroma grid of this shape."""
    height, width = here.shape
    rows, columns = np.indices((height, width), np.float32)
    x, y = columns + flow[..., 0], rows + flow[..., 1]
    moved = _taken(there, x, y)
    difference = here.astype(np.float32) - moved
    difference -= difference.mean()  # flicker of the exposure is no change of what is seen
    trust = np.exp(difference * difference * np.float32(-0.5 / TOLERANCE**2))
    # What the way back does not lead home from was hidden: the test of Sundaram et al. (2010).
    returning = _taken(back, x, y)
    lost = _squares(flow + returning) > 0.01 * (_squares(flow) + _squares(returning)) + 0.5
    trust[lost | (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)] = 0
    size = (shape[1], shape[0])
    across, down = shape[1] / width, shape[0] / height
    coarse = _shrunk(flow, size) * np.array([across, down], np.float32)
    rows, columns = np.indices(shape, np.float32)
    coarse += np.stack((columns, rows), 2)
    return _Step(coarse, _shrunk(trust, size))
