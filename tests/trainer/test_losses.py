"""Losses against their equations, by hand."""

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


def test_least_squares() -> None:
    real, fake = torch.tensor([0.5, 1.0]), torch.tensor([0.5, 0.0])
    assert losses.least_squares_generator(fake).item() == pytest.approx(0.5 * (0.25 + 1) / 2)
    assert losses.least_squares_discriminator(real, fake).item() == pytest.approx(0.5 * (0.125 + 0.125))
