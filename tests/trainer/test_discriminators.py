"""Discriminators by name: shapes, routing, what a patch sees."""

import math

import pytest
import torch
from torch import Tensor, nn

from kinochrome_trainer import discriminators, losses
from kinochrome_trainer.recipe import Discriminator


@pytest.mark.parametrize(
    ("name", "shape"), [("patch", (2, 1, 6, 10)), ("capsule", (2, 1)), ("capsule-patch", (2, 1, 8, 12))]
)
@pytest.mark.parametrize("spectral", [False, True])
def test_scores_and_gradients(name: str, shape: tuple[int, ...], spectral: bool) -> None:
    torch.manual_seed(0)
    judge = discriminators.discriminator(Discriminator(name=name, width=16, spectral_norm=spectral), 3)
    scores = judge(torch.rand(2, 3, 64, 96) * 2 - 1)
    assert scores.shape == shape
    losses.judging(scores, scores, "mse").backward()
    # biases right before a norm, and the last routing's logits, aside: every weight must learn
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in judge.parameters())
    assert sum(parameter.grad.abs().sum() > 0 for parameter in judge.parameters() if parameter.grad is not None) > 4


@pytest.mark.parametrize("name", discriminators.DISCRIMINATORS)
def test_it_learns_to_tell_gray_from_colour(name: str) -> None:
    torch.manual_seed(0)
    # The paper's ten capsules learn as well, only three times as slowly.
    judge = discriminators.discriminator(Discriminator(name=name, width=32, capsules=4), 3)
    adam = torch.optim.Adam(judge.parameters(), 1e-3, (0.5, 0.999))
    chance = torch.Generator().manual_seed(1)

    def pictures() -> tuple[Tensor, Tensor]:
        coarse = torch.rand(4, 3, 8, 8, generator=chance) * 2 - 1
        colour = nn.functional.interpolate(coarse, 48)
        return colour, colour.mean(1, keepdim=True).expand_as(colour)

    for _ in range(120):
        colour, gray = pictures()
        loss = losses.judging(judge(colour), judge(gray), "mse")
        adam.zero_grad()
        loss.backward()
        adam.step()
    colour, gray = pictures()
    with torch.no_grad():
        assert judge(colour).sigmoid().mean() > judge(gray).sigmoid().mean() + 0.2


def test_spectral_norm_bounds_every_weight() -> None:
    judge = discriminators.discriminator(Discriminator(width=16, spectral_norm=True), 3)
    for _ in range(30):  # each training pass makes the estimate of the singular value better
        judge(torch.rand(1, 3, 64, 64))
    judge.eval()
    for module in judge.modules():
        if isinstance(module, nn.Conv2d):
            assert torch.linalg.matrix_norm(module.weight.flatten(1), 2).item() == pytest.approx(1, rel=0.1)


def test_the_patch_of_three_layers_is_70_pixels_wide() -> None:
    """Isola et al., 2017: the 70x70 PatchGAN; its 2.76 M weights with three channels."""
    judge = discriminators.discriminator(Discriminator(width=8), 3)
    for module in judge.modules():  # instance norm looks at the whole picture: not part of a patch
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda input: input  # type: ignore[method-assign]
    picture = torch.zeros(1, 3, 256, 256, requires_grad=True)
    scores = judge(picture)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    assert picture.grad is not None
    seen = picture.grad[0].abs().sum(0).sum(0).nonzero()
    assert (seen.max() - seen.min() + 1).item() == 70
    full = discriminators.discriminator(Discriminator(width=64), 3)
    assert sum(parameter.numel() for parameter in full.parameters()) == pytest.approx(2.76e6, rel=0.01)


def test_squash_keeps_direction_and_makes_length_a_probability() -> None:
    """Sabour et al., 2017, equation 1."""
    for length in (0.1, 1.0, 10.0):
        vector = length * torch.tensor([[0.6, 0.8]])
        squashed = discriminators.squash(vector)
        assert squashed.norm().item() == pytest.approx(length**2 / (1 + length**2), rel=1e-3)
        assert torch.allclose(squashed / squashed.norm(), vector / length, atol=1e-4)


def test_routing_sends_capsules_where_they_agree() -> None:
    """Three capsules vote alike for parent 0 and at random for parent 1: routing makes parent 0 the longer one."""
    alike = torch.tensor([1.0, 0.0]).expand(3, 2)
    apart = torch.tensor([[1.0, 0.0], [-0.5, math.sqrt(0.75)], [-0.5, -math.sqrt(0.75)]])
    votes = torch.stack((alike, apart), 1)  # (I, J, D)
    once, thrice = discriminators.route(votes, 1), discriminators.route(votes, 3)
    assert once[0].norm() > 10 * once[1].norm()
    assert thrice[0].norm() > once[0].norm() + 0.02
    batch = discriminators.route(votes.expand(4, 5, 3, 2, 2), 3)
    assert torch.allclose(batch[2, 3], thrice)


def test_capsules_keep_their_signal_through_three_layers() -> None:
    """Squash shrinks what is small: with the usual small weights, scores of any two pictures would be the same."""
    torch.manual_seed(0)
    judge = discriminators.discriminator(Discriminator(name="capsule", width=64), 3)
    picture = (torch.rand(8, 3, 32, 32) * 2 - 1).requires_grad_()
    scores = judge(picture)
    scores.sum().backward()
    assert scores.std() > 0.01
    assert picture.grad is not None and picture.grad.abs().mean() > 1e-5
