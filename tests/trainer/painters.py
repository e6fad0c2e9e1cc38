"""Painters that need no training, for tests of what is measured on them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class OneColour:
    """Paints one (Cb, Cr) all over, at a quarter of the luma; noise, where it takes any, shifts it."""

    chroma: tuple[float, float] = (0.0, 0.0)
    size_multiple: int = 8
    noise_length: int = 0
    reach: float = 0.05
    """How far a noise of 1 shifts the colour."""

    def paint(self, luma: Tensor, noise: Tensor | None) -> Tensor:
        """As `metrics.Painter.paint`."""
        count, _, height, width = luma.shape
        assert not height % self.size_multiple and not width % self.size_multiple
        assert float(luma.min()) >= 0 and float(luma.max()) <= 1
        colour = torch.tensor(self.chroma).expand(count, 2)
        if noise is not None:
            assert noise.shape == (count, self.noise_length)
            colour = colour + self.reach * noise[:, :1]
        return colour.view(count, 2, 1, 1).expand(-1, -1, height // 4, width // 4)
