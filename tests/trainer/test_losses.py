"""Losses against their equations, by hand."""

import math

import pytest
import torch

from kinochrome_trainer import losses


def test_paired_l1() -> None:
    painted, truth = torch.zeros(1, 2, 1, 2), torch.tensor([[[[0.1, 0.0]], [[0.0, -0.3]]]])
    assert losses.paired_l1(painted, truth).item() == pytest.approx((0.1 + 0.3) / 4)


def test_vivid_weighs_strong_colours_more_and_keeps_the_scale() -> None:
    truth = torch.tensor([0.0, 0.4]).view(1, 1, 1, 2).repeat(1, 2, 1, 1)
    dull, strong = truth.clone(), truth.clone()
    dull[..., 0] += 0.1  # an error on the gray pixel
    strong[..., 1] += 0.1  # the same on the vivid one
    assert losses.paired_l1(strong, truth, vivid=1) > 3 * losses.paired_l1(dull, truth, vivid=1)
    everywhere = losses.paired_l1(truth + 0.1, truth, vivid=1)
    assert everywhere.item() == pytest.approx(0.1, rel=1e-4)


def test_adversarial_forms() -> None:
    real, fake = torch.tensor([0.5, 1.0]), torch.tensor([0.5, 0.0])
    assert losses.fooling(fake, "least-squares").item() == pytest.approx((0.25 + 1) / 2)
    assert losses.judging(real, fake, "least-squares").item() == pytest.approx(0.5 * (0.125 + 0.125))
    sigmoid = 1 / (1 + math.exp(-0.5))
    assert losses.fooling(fake[:1], "bce").item() == pytest.approx(-math.log(sigmoid))
    assert losses.judging(real[:1], fake[:1], "bce").item() == pytest.approx(
        -0.5 * (math.log(sigmoid) + math.log(1 - sigmoid))
    )
    assert losses.fooling(fake[:1], "mse").item() == pytest.approx((sigmoid - 1) ** 2)
    assert losses.judging(real[:1], fake[:1], "mse").item() == pytest.approx(0.5 * ((sigmoid - 1) ** 2 + sigmoid**2))


def test_cycle_identity_content_and_balance() -> None:
    there, start = torch.tensor([0.0, 3.0]), torch.tensor([1.0, 1.0])
    assert losses.cycle(there, start, "l1").item() == pytest.approx(1.5)
    assert losses.cycle(there, start, "l2").item() == pytest.approx(2.5)
    assert losses.identity(there, start).item() == pytest.approx(1.5)
    one, other = {"a": torch.zeros(2), "b": torch.zeros(4)}, {"a": torch.ones(2), "b": torch.full((4,), 2.0)}
    assert losses.content(one, other).item() == pytest.approx((1 + 4) / 2)
    assert losses.balanced(torch.tensor(2.0), torch.tensor(10.0), 0.75).item() == pytest.approx(4.0)


def test_mode_seeking_rewards_pictures_that_differ_as_their_noises_do() -> None:
    noise, other = torch.zeros(1, 4), torch.ones(1, 4)
    same = losses.mode_seeking(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), noise, other)
    different = losses.mode_seeking(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5), noise, other)
    assert same.item() == pytest.approx(1e5, rel=1e-3)
    assert different.item() == pytest.approx(2.0, rel=1e-3)
    assert losses.latent(noise, other).item() == 1.0


def test_a_colour_histogram_counts_shares_and_splits_between_bins() -> None:
    chroma = torch.zeros(1, 2, 1, 2)
    chroma[0, 0, 0, 0] = -losses.REACH  # the lowest Cb bin; Cr in the middle, between two bins
    histogram = losses.colour_histogram(chroma)
    assert histogram.sum().item() == pytest.approx(1.0)
    middle = losses.BINS // 2
    assert histogram[0, middle - 1].item() == pytest.approx(0.25) and histogram[0, middle].item() == pytest.approx(0.25)


def test_overuse_pushes_away_from_what_is_used_too_often() -> None:
    brown, blue = torch.full((1, 2, 4, 4), 0.0), torch.zeros(1, 2, 4, 4)
    brown[:, 0], brown[:, 1] = -0.1, 0.05
    blue[:, 0], blue[:, 1] = 0.15, -0.1
    used = losses.colour_histogram(brown)  # the generator paints all brown
    real = 0.5 * (losses.colour_histogram(brown) + losses.colour_histogram(blue))
    assert losses.overuse(losses.colour_histogram(blue), used, real) < 0
    assert losses.overuse(losses.colour_histogram(brown), used, real) > 0
    assert losses.overuse(losses.colour_histogram(blue), real, real).item() == pytest.approx(0, abs=1e-6)
    painted = brown.clone().requires_grad_()
    losses.overuse(losses.colour_histogram(painted), used, real).backward()
    assert painted.grad is not None and painted.grad.abs().sum() > 0


def test_r1_is_half_the_squared_gradient() -> None:
    real = torch.tensor([[1.0, 2.0]], requires_grad=True)
    scores = (real * torch.tensor([3.0, 4.0])).sum(1)
    assert losses.r1(scores, real).item() == pytest.approx(0.5 * 25)
