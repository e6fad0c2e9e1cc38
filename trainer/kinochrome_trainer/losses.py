"""Losses: one function each, reading like its equation. All return a scalar."""

import torch.nn.functional as F
from torch import Tensor


def paired_l1(painted: Tensor, truth: Tensor, vivid: float = 0.0) -> Tensor:
    """Mean of w·|painted − truth| over chroma (N, 2, h, w), with w = 1 + vivid·|truth|, mean of w brought to 1.

    |truth| is the distance of the true chroma from gray in tenths of full scale. With vivid = 0 this is the
    L1 of pix2pix; above 0 rare strong colours are not averaged away by the many dull ones (the idea of class
    rebalancing in Zhang et al., 2016, section 2.2, without classes).
    """
    difference = (painted - truth).abs()
    if not vivid:
        return difference.mean()
    weight = 1 + vivid * 10 * truth.square().sum(1, keepdim=True).sqrt()
    return (weight / weight.mean() * difference).mean()


def least_squares_generator(fake_scores: Tensor) -> Tensor:
    """½·mean (D(fake) − 1)²: LSGAN (Mao et al., 2017, equation 9), the generator's side."""
    return 0.5 * F.mse_loss(fake_scores, fake_scores.new_ones(()).expand_as(fake_scores))


def least_squares_discriminator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """½·mean (D(real) − 1)² + ½·mean D(fake)²: LSGAN, the discriminator's side."""
    return 0.5 * ((real_scores - 1).square().mean() + fake_scores.square().mean())
