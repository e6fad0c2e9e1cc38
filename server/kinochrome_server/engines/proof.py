"""Proof that an engine paints what the CPU paints: a GPU that computes something else is not used."""

import numpy as np
import numpy.typing as npt

from ..colorizers import Colorizer
from .interface import Unusable

TOLERANCE = 2.0
"""8-bit code values by which the colours of a test picture may differ in the mean from the CPU's. Half and eight-bit
numbers round otherwise on a GPU, by less; a wrong stride or a norm that overflows gives tens."""


def sample(height: int, width: int) -> npt.NDArray[np.uint8]:
    """(h, w): slopes from black to white with edges in them: all brightnesses, as pictures have."""
    rows, columns = np.mgrid[:height, :width]
    slopes = (rows * 255 // height + columns * 255 // width) // 2
    picture: npt.NDArray[np.uint8] = (slopes ^ (rows // 8 % 2 * 32)).astype(np.uint8)
    return picture


def compare(
    word: str, colorizer: Colorizer, painted: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]
) -> None:
    """Raise Unusable where chroma that an engine painted, (N, 2, h/s, w/s), is not the CPU's, (1, 2, h/s, w/s).

    Args:
        word: for --engine.
        colorizer: what was run, by both.
        painted, expected: of the same picture.
    """
    if painted.shape[1:] != expected.shape[1:]:
        raise Unusable(f"--engine {word}: it gives {painted.shape}, the CPU {expected.shape}: use another engine")
    difference = float(np.abs(painted - expected).mean()) * 255
    if not difference <= TOLERANCE:  # also catches what is no number
        raise Unusable(
            f"--engine {word}: {colorizer.path} gives other colours here than on the CPU, by "
            f"{difference:.3g} code values in the mean: export it with --precision fp32, or use another engine"
        )
