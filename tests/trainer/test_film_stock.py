"""Old gray made from colour: each kind of wear does what its name says."""

import io

import numpy as np
import torch
from PIL import Image

from kinochrome_trainer import film_stock
from kinochrome_trainer.recipe import FilmStock

CLEAN = FilmStock(probability=1, spectral=0, gamma=0, fade=0, blur=0, grain=0, jpeg=0)


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def photograph() -> torch.Tensor:
    """(4, 3, 64, 64): something with edges and smooth parts."""
    from skimage import data

    picture = torch.from_numpy(data.astronaut()[::4, ::4].copy()).permute(2, 0, 1).float() / 255
    return torch.stack([picture[:, y : y + 64, x : x + 64] for y, x in ((0, 0), (0, 64), (64, 0), (64, 64))])


def test_without_wear_it_is_rec601_luma() -> None:
    rgb = photograph()
    expected = (rgb * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    assert torch.allclose(film_stock.expose(rgb, CLEAN, chance()), expected, atol=2e-3)


def test_chance_decides_and_nothing_else() -> None:
    rgb, stock = photograph(), FilmStock()
    first = film_stock.expose(rgb, stock, chance())
    assert torch.equal(first, film_stock.expose(rgb, stock, chance()))
    assert not torch.equal(first, film_stock.expose(rgb, stock, torch.Generator().manual_seed(4)))
    assert first.shape == (4, 1, 64, 64) and first.min() >= 0 and first.max() <= 1


def test_some_stock_is_blind_to_red() -> None:
    weights = film_stock.spectral_weights(2000, torch.zeros(1), chance())
    assert torch.allclose(weights.sum(1), torch.ones(2000, 1, 1), atol=1e-5)
    assert (weights >= 0).all()
    red = weights[:, 0].flatten()
    assert (red < 0.05).float().mean() > 0.1
    assert red.mean() < weights[:, 1].mean() and red.max() > 0.6


def test_grain_has_the_strength_asked_for_and_is_strongest_in_the_middle() -> None:
    sigma = torch.full((64, 1, 1, 1), 0.1)
    middle = film_stock.grain(torch.full((64, 1, 64, 64), 0.5), sigma, chance())
    white = film_stock.grain(torch.full((64, 1, 64, 64), 1.0), sigma, chance())
    assert abs(middle.std().item() - 0.1) < 0.01
    assert white.std() < 0.5 * middle.std()
    assert abs(middle.mean().item()) < 0.005


def test_blur_is_gaussian_and_keeps_the_mean() -> None:
    dot = torch.zeros(2, 1, 33, 33)
    dot[:, :, 16, 16] = 1
    blurred = film_stock.blur(dot, torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    assert torch.allclose(blurred[0], dot[0], atol=1e-6)
    assert abs(blurred[1].sum().item() - 1) < 1e-5
    axis = torch.arange(33.0) - 16
    spread = (blurred[1, 0].sum(0) * axis**2).sum()
    assert abs(spread.item() - 1.0) < 0.03


def test_jpeg_wear_is_that_of_a_jpeg_encoder() -> None:
    gray = photograph().mean(1, keepdim=True)
    for quality in (30, 60, 90):
        ours = film_stock.jpeg_wear(gray, torch.full((4, 1, 1, 1), float(quality)))
        for index in range(4):
            pixels = (gray[index, 0] * 255).round().to(torch.uint8).numpy()
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=quality)
            theirs = np.asarray(Image.open(file)).astype(float)
            lost = np.abs(theirs - pixels).mean()
            # Values on the edge between two steps of the quantiser fall either way; the rest is the same.
            assert np.abs(ours[index, 0].clamp(0, 1).numpy() * 255 - theirs).mean() < 0.2 * lost + 0.7


def test_sides_that_are_no_eights_are_kept() -> None:
    gray = torch.rand(1, 1, 21, 13, generator=chance())
    assert film_stock.jpeg_wear(gray, torch.full((1, 1, 1, 1), 50.0)).shape == gray.shape
