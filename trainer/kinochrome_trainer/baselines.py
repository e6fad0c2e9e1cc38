"""Painters that know next to nothing: what a trained one must beat."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .colour import rgb_to_ycbcr
from .errors import BadData
from .metrics import picture
from .stills import BROKEN_LIMIT, Stills, to_tensor

THUMBNAIL = 16  # lines and columns in which stills are compared, whatever their shape


@dataclass(frozen=True)
class Survey:
    """The stills of a set that are whole, each at a glance. Rows of the tensors go with `indices`."""

    stills: Stills
    indices: list[int]
    """Of the whole ones in `stills`."""
    luma: Tensor
    """(N, THUMBNAIL²) in 0..1."""
    chroma: Tensor
    """(N, 2): the mean (Cb, Cr) of each still, in -0.5..0.5."""

    def mean_chroma(self, but: int) -> Tensor:
        """(1, 2, 1, 1): the mean over all stills but one row. There must be two."""
        others = self.chroma.sum(0) - self.chroma[but]
        return (others / (len(self.indices) - 1)).view(1, 2, 1, 1)

    def nearest(self, luma: Tensor, but: int | None = None) -> int:
        """The index in `stills` whose thumbnail is nearest to `luma` (THUMBNAIL²,), by L2; never that of row `but`."""
        distances = (self.luma - luma).square().sum(1)
        if but is not None:
            distances[but] = torch.inf
        return self.indices[int(distances.argmin())]


def survey(stills: Stills, on_progress: Callable[[int, int], None] = lambda done, count: None) -> Survey:
    """Look at every still. Broken ones are left out, and noted in `stills.faults`.

    Raises BadData when more than 1 % are broken.
    """
    indices, lumas, chromas = [], [], []
    for index in range(len(stills)):
        try:
            small = stills.open(index, at_least=2 * THUMBNAIL)
        except BadData:  # noted
            continue
        finally:
            on_progress(index + 1, len(stills))
        luma, chroma = rgb_to_ycbcr(to_tensor(small).unsqueeze(0).float() / 255)
        indices.append(index)
        lumas.append(F.interpolate(luma, (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True).flatten())
        chromas.append(chroma[0].mean((1, 2)))
    broken = len(stills) - len(indices)
    if broken > BROKEN_LIMIT * len(stills):
        raise BadData(f"{broken} of {len(stills)} stills are broken, the first: {stills.faults[min(stills.faults)]}")
    return Survey(stills, indices, torch.stack(lumas), torch.stack(chromas))


def borrowed(stills: Stills, index: int, shape: tuple[int, int]) -> Tensor:
    """A still's chroma, stretched onto another: (1, 2, *shape)."""
    _, chroma = rgb_to_ycbcr(picture(stills, index))
    return F.interpolate(chroma, shape, mode="bilinear", antialias=True)
