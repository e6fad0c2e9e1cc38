"""The graph of a colorizer file: luma bytes in, chroma out, everything else inside."""

import torch
from torch import Tensor, nn

from kinochrome_trainer.networks import Generator


class LumaToChroma(nn.Module):
    """Wraps a generator so that callers need to know nothing of how it was trained."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, luma: Tensor) -> Tensor:
        """(N, 1, H, W) uint8 -> (N, 2, H/s, W/s) float32 in -0.5..0.5."""
        chroma: Tensor = self.generator(luma.to(torch.float32) / 255)
        return chroma.clamp(-0.5, 0.5)
