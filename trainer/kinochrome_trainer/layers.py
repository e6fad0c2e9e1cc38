"""What generators are built of. Every layer is called with (features, noise), so that noise reaches all norms."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPSILON = 1e-5


class _Normalised(torch.autograd.Function):
    """Group norm with one channel a group, with a backward pass of its own: torch's takes three times as long for
    channels-last features, and a quarter of a training step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        y, _, scale = torch.native_group_norm(x, None, None, count, channels, height * width, channels, EPSILON)
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """(g − mean g − y·mean(g·y)) / σ, means over the places of each channel."""
        y, scale = ctx.saved_tensors
        count, channels, height, width = y.shape
        y, gradient = (
            x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).reshape(count, -1, channels)
            for x in (y, gradient)
        )
        mean = y.new_full((1, 1, 1), 1 / (height * width)).expand(count, 1, height * width)
        product = gradient * y  # (N, HW, C); means by matrix product, the one fast sum over columns
        along, across = torch.bmm(mean, product), torch.bmm(mean, gradient)
        torch.mul(y, along, out=product)
        product = torch.sub(gradient, product, out=product).sub_(across).mul_(scale.view(count, 1, channels))
        return product.view(count, height, width, channels).permute(0, 3, 1, 2)


def normalised(x: Tensor) -> Tensor:
    """(N, C, H, W), each channel of each picture brought to mean 0 and variance 1."""
    if x.requires_grad and x.dtype is torch.float32 and not torch.compiler.is_compiling():
        out: Tensor = _Normalised.apply(x)  # type: ignore[no-untyped-call]
        return out
    # The same without the copies that instance norm makes of channels-last features; exported it becomes ONNX's
    # InstanceNormalization again.
    return F.group_norm(x, x.shape[1], eps=EPSILON)


class InstanceNorm(nn.Module):
    """Each channel of each picture to mean 0 and variance 1 (Ulyanov et al., 2016), without weights, as in CycleGAN."""

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        return normalised(x)


class ConditionalInstanceNorm(nn.Module):
    """Instance norm whose scale 1 + W·z and shift V·z follow from the noise z (Dumoulin et al., 2017)."""

    def __init__(self, channels: int, noise: int) -> None:
        super().__init__()
        self.scale = nn.Linear(noise, channels)
        self.shift = nn.Linear(noise, channels)
        for linear in (self.scale, self.shift):  # noise starts out as a nuance: what it comes to mean is learnt
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        assert noise is not None
        scale, shift = 1 + self.scale(noise), self.shift(noise)  # (N, noise) -> (N, C)
        styled: Tensor = normalised(x) * scale[:, :, None, None] + shift[:, :, None, None]
        return styled


class BatchNorm(nn.BatchNorm2d):
    """Batch norm. At inference it is a constant, so a large object that enters the frame does not shift the colours
    of everything else; in training, pictures of a batch depend on each other."""

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return super().forward(x)


def norm(kind: str, channels: int, noise: int) -> nn.Module:
    """The norm that a recipe names."""
    if kind == "batch":
        return BatchNorm(channels)
    return ConditionalInstanceNorm(channels, noise) if kind == "conditional" else InstanceNorm()


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
