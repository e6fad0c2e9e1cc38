"""The graph of a colorizer file: luma bytes in, chroma out, everything else inside."""

import torch
from torch import Tensor, nn

from kinochrome_trainer.networks import Generator


class LumaToChroma(nn.Module):
    """Wraps any generator of the family so that callers need to know nothing of how it was trained.

    One that paints whole pictures is given the luma three times, and the chroma of its picture is taken.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, luma: Tensor, noise: Tensor | None = None) -> Tensor:
        """(N, 1, H, W) uint8, noise (N, noise_length) of a stochastic one -> (N, 2, H/s, W/s) float32 in -0.5..0.5."""
        chroma = self.generator.paint(luma.to(torch.float32) / 255, noise)
        return chroma.clamp(-0.5, 0.5)
