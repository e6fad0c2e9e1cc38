"""The pictures that every colorizer file is tried on, the same on every machine, and what it painted on them.

Export records what PyTorch painted; whoever has the file can so tell, without PyTorch, whether it still paints that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import BadColorizer

SIDE = 64
"""Lines of a probe's pictures, at least."""
SAMPLES = 256
"""Numbers of chroma kept, at most, spread evenly over all of them."""
CODE_VALUES = 255  # chroma spans -0.5..0.5, so one 8-bit code value is 1/255
TOLERANCE = 0.5  # code values: more than this could change a rounded pixel by more than one


@dataclass(frozen=True)
class Probe:
    """What was painted on the probe's pictures."""

    painted_by: str
    """The program that did: "torch 2.13.0"."""
    chroma: list[float]
    """In 8-bit code values, -127.5..127.5; of all numbers of the output, every so manieth."""
    tolerance: float = TOLERANCE
    """How far from it another machine may paint, in code values."""

    @classmethod
    def from_parity(cls, parity: dict[str, Any], file: str) -> "Probe | None":
        """What a manifest's `parity` records, None where it records none. Raises BadColorizer, naming `file`."""
        if "probe" not in parity:
            return None
        try:
            found = parity["probe"]
            probe = cls(
                str(found["painted_by"]), [float(value) for value in found["chroma"]], float(found["tolerance"])
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            raise BadColorizer(f"{file}: the probe in its metadata is damaged; export it again") from None
        return probe

    def difference(self, chroma: Sequence[float]) -> float:
        """The largest difference, in code values, from what `taken` gave of another painting; infinite where the two
        cannot be compared."""
        if len(chroma) != len(self.chroma) or not chroma:
            return math.inf
        largest = max(abs(ours - theirs) for ours, theirs in zip(chroma, self.chroma, strict=True))
        return largest if math.isfinite(largest) else math.inf


def size(multiple: int) -> tuple[int, int, int]:
    """The (N, H, W) of the probe's pictures, of a colorizer with this size multiple."""
    side = multiple * math.ceil(SIDE / multiple)
    return 2, side, side + multiple


def luma(count: int, height: int, width: int) -> bytes:
    """Pictures (N, 1, H, W) of patches with edges and slopes in them, as uint8."""
    across = bytes((x // 8 * 37 + x) % 256 for x in range(width))
    brighter = [bytes((value + by) % 256 for value in range(256)) for by in range(256)]
    down = [(y // 8 * 59 + y) % 256 for y in range(height)]
    return b"".join(across.translate(brighter[(by + n * 101) % 256]) for n in range(count) for by in down)


def noise(count: int, length: int) -> list[list[float]]:
    """Noise (N, length), -2..2, another for each picture."""
    return [[2 * math.sin(1 + 3 * n + 7 * place) for place in range(length)] for n in range(count)]


def taken(chroma: Sequence[float]) -> list[float]:
    """All numbers of an output, in the order they lie -> those that are kept, in code values."""
    step = -(-len(chroma) // SAMPLES)
    return [round(float(value) * CODE_VALUES, 4) for value in chroma[::step]]
