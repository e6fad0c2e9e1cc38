"""The discriminators, by name: each maps what it judges (N, C, H, W), centred on 0, to scores (N, 1, h, w) or (N, 1).

Scores are raw: a loss that wants a probability takes the sigmoid itself (`losses.bce`, `losses.mse`).
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from . import recipe
from .errors import BadRecipe


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al., 2017): 4x4 convolutions, LeakyReLU 0.2, a score per patch of 70 pixels with 3 layers."""

    def __init__(self, settings: recipe.Discriminator, inside: int) -> None:
        super().__init__()
        outside = settings.width
        layers: list[nn.Module] = [nn.Conv2d(inside, outside, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(1, settings.layers + 1):
            inside, outside = outside, settings.width * min(2**level, 8)
            stride = 2 if level < settings.layers else 1
            # Group norm with one channel a group is instance norm, without its copies of channels-last features.
            normed = nn.BatchNorm2d(outside) if settings.norm == "batch" else nn.GroupNorm(outside, outside)
            layers += [nn.Conv2d(inside, outside, 4, stride, 1, bias=False), normed, nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(outside, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(x)
        return scores


def squash(s: Tensor) -> Tensor:
    """‖s‖²/(1 + ‖s‖²) · s/‖s‖ over the last dimension: a capsule's length becomes a probability (Sabour et al., 2017,
    equation 1)."""
    square = s.square().sum(-1, keepdim=True)
    return square / (1 + square) * s * torch.rsqrt(square + 1e-8)


def route(votes: Tensor, iterations: int) -> Tensor:
    """Dynamic routing by agreement (Sabour et al., 2017, procedure 1): votes (..., I, J, D) of I capsules for J ones of
    D dimensions -> (..., J, D). Routing weights are a softmax over J; only the last iteration passes gradients on."""
    logits = votes.new_zeros(votes.shape[:-1])
    for _ in range(iterations - 1):
        with torch.no_grad():
            agreed = squash(torch.einsum("...ij,...ijd->...jd", logits.softmax(-1), votes))
            logits = logits + torch.einsum("...ijd,...jd->...ij", votes, agreed)
    return squash(torch.einsum("...ij,...ijd->...jd", logits.softmax(-1), votes))


PRIMARY = 8  # dimensions of a primary capsule
DIGIT = 16  # dimensions of a digit capsule


class DigitCapsules(nn.Module):
    """A layer of capsules fed by routing: (..., I, P) -> (..., J, D), each pair with a matrix of its own."""

    def __init__(self, inside: int, dimensions: int, outside: int, iterations: int) -> None:
        super().__init__()
        # So that long capsules give long ones again: squash squares what is small, and with less than this three
        # layers leave nothing of the signal, nor of the gradient.
        scale = 3 * outside / math.sqrt(inside * DIGIT)
        self.weight = nn.Parameter(scale * torch.randn(inside, dimensions, outside * DIGIT))
        self.outside, self.iterations = outside, iterations

    def forward(self, capsules: Tensor) -> Tensor:
        votes = torch.einsum("...ip,ipk->...ik", capsules, self.weight)
        return route(torch.unflatten(votes, -1, (self.outside, DIGIT)), self.iterations)


def _lively(network: nn.Module) -> None:
    """Start convolutions so that features keep their variance (He et al., 2015), and capsules begin long."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, 0.2)


class CapsuleDiscriminator(nn.Module):
    """Capsule discriminator (after CapsuleGAN: Jaiswal et al., 2018): the picture, brought to 32x32, goes through
    primary capsules and three layers of digit capsules to one score."""

    SIDE = 32

    def __init__(self, settings: recipe.Discriminator, inside: int) -> None:
        super().__init__()
        width, count = settings.width, settings.capsules
        self.stem = nn.Sequential(nn.Conv2d(inside, width, 9), nn.LeakyReLU(0.2))  # 32 -> 24
        kinds = max(1, width // PRIMARY)
        self.primary = nn.Conv2d(width, kinds * PRIMARY, 9, 2)  # 24 -> 8
        self.digits = nn.Sequential(
            DigitCapsules(kinds * 8 * 8, PRIMARY, count, settings.routing),
            DigitCapsules(count, DIGIT, count, settings.routing),
            DigitCapsules(count, DIGIT, count, settings.routing),
        )
        self.head = nn.Linear(count * DIGIT, 1)
        _lively(self)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self.SIDE, self.SIDE):
            x = F.interpolate(x, (self.SIDE, self.SIDE), mode="bilinear", antialias=True)
        x = self.primary(self.stem(x))  # (N, kinds * 8, 8, 8)
        capsules = squash(
            torch.unflatten(x, 1, (-1, PRIMARY)).permute(0, 1, 3, 4, 2).flatten(1, 3)
        )  # (N, kinds * 64, 8)
        scores: Tensor = self.head(self.digits(capsules).flatten(1))
        return scores  # (N, 1)


class CapsulePatchDiscriminator(nn.Module):
    """The same with patch output: convolutions halve the picture three times, and at each place the capsules of the
    place are routed through three layers of digit capsules, whose matrices all places share, to the place's score."""

    def __init__(self, settings: recipe.Discriminator, inside: int) -> None:
        super().__init__()
        width, count = settings.width, settings.capsules
        kinds = max(1, 4 * width // PRIMARY)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise((inside, width, 2 * width)):
            layers += [nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.stem = nn.Sequential(*layers)
        self.primary = nn.Conv2d(2 * width, kinds * PRIMARY, 4, 2, 1)
        self.digits = nn.Sequential(
            DigitCapsules(kinds, PRIMARY, count, settings.routing),
            DigitCapsules(count, DIGIT, count, settings.routing),
            DigitCapsules(count, DIGIT, count, settings.routing),
        )
        self.head = nn.Linear(count * DIGIT, 1)
        _lively(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(self.stem(x))  # (N, kinds * 8, H/8, W/8)
        capsules = squash(torch.unflatten(x, 1, (-1, PRIMARY)).permute(0, 3, 4, 1, 2))  # (N, H/8, W/8, kinds, 8)
        scores: Tensor = self.head(self.digits(capsules).flatten(3))
        return scores.permute(0, 3, 1, 2)  # (N, 1, H/8, W/8)


DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "patch": PatchDiscriminator,
    "capsule": CapsuleDiscriminator,
    "capsule-patch": CapsulePatchDiscriminator,
}


def discriminator(settings: recipe.Discriminator, inside: int) -> nn.Module:
    """Build the discriminator that a recipe names, for `inside` channels. Raises BadRecipe for an unknown name."""
    if settings.name not in DISCRIMINATORS:
        raise BadRecipe(f"no discriminator {settings.name!r}; choose from {', '.join(DISCRIMINATORS)}")
    network = DISCRIMINATORS[settings.name](settings, inside)
    if settings.spectral_norm:
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                spectral_norm(module)
    return network
