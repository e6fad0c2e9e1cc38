"""What generators are built of. Every layer is called with (features, noise), so that noise reaches all norms."""

import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm(nn.Module):
    """Each channel of each picture to mean 0 and variance 1 (Ulyanov et al., 2016), without weights, as in CycleGAN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        # Group norm with one channel a group is the same, and does without the copies that instance norm makes
        # of channels-last features; exported it becomes ONNX's InstanceNormalization again.
        return F.group_norm(x, self.channels)


class ConditionalInstanceNorm(nn.Module):
    """Instance norm whose scale 1 + W·z and shift V·z follow from the noise z (Dumoulin et al., 2017)."""

    def __init__(self, channels: int, noise: int) -> None:
        super().__init__()
        self.channels = channels
        self.scale = nn.Linear(noise, channels)
        self.shift = nn.Linear(noise, channels)
        for linear in (self.scale, self.shift):  # noise starts out as a nuance: what it comes to mean is learnt
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        assert noise is not None
        scale, shift = 1 + self.scale(noise), self.shift(noise)  # (N, noise) -> (N, C)
        normed: Tensor = F.group_norm(x, self.channels) * scale[:, :, None, None] + shift[:, :, None, None]
        return normed


class BatchNorm(nn.BatchNorm2d):
    """Batch norm. At inference it is a constant, so a large object that enters the frame does not shift the colours
    of everything else; in training, pictures of a batch depend on each other."""

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return super().forward(x)


def norm(kind: str, channels: int, noise: int) -> nn.Module:
    """The norm that a recipe names."""
    if kind == "batch":
        return BatchNorm(channels)
    return ConditionalInstanceNorm(channels, noise) if kind == "conditional" else InstanceNorm(channels)


class Block(nn.Module):
    """Convolution, norm, activation; each of the last two may be left out."""

    def __init__(
        self, convolution: nn.Module, norm: nn.Module | None = None, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.convolution, self.norm, self.activation = convolution, norm, activation

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        x = self.convolution(x)
        if self.norm is not None:
            x = self.norm(x, noise)
        return x if self.activation is None else self.activation(x)


class Residual(nn.Module):
    """x + Block(Block(x)) (He et al., 2016)."""

    def __init__(self, first: Block, second: Block) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        changed: Tensor = self.second(self.first(x, noise), noise)
        return x + changed
