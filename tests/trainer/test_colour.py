"""Colour maths against an independent implementation."""

import numpy as np
import torch
from PIL import Image
from skimage import color

from kinochrome_trainer.colour import rgb_to_lab, rgb_to_ycbcr, ycbcr_to_rgb


def some_colours() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_ycbcr_is_that_of_jpeg() -> None:
    rgb = (some_colours() * 255).round() / 255
    luma, chroma = rgb_to_ycbcr(rgb)
    for index in range(2):
        pixels = (rgb[index].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        expected = np.asarray(Image.fromarray(pixels).convert("YCbCr")).astype(float)
        assert np.abs(luma[index, 0].numpy() * 255 - expected[..., 0]).max() <= 1.01
        assert np.abs(chroma[index].numpy() * 255 + 128 - expected[..., 1:].transpose(2, 0, 1)).max() <= 1.01


def test_ycbcr_and_back() -> None:
    rgb = some_colours()
    assert torch.allclose(ycbcr_to_rgb(*rgb_to_ycbcr(rgb)), rgb, atol=1e-6)


def test_gray_has_no_chroma() -> None:
    gray = torch.linspace(0, 1, 256).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    _, chroma = rgb_to_ycbcr(gray)
    assert chroma.abs().max() < 1e-6
    assert rgb_to_lab(gray)[:, 1:].abs().max() < 0.01


def test_lab_is_that_of_scikit_image() -> None:
    rgb = some_colours()
    expected = color.rgb2lab(rgb.permute(0, 2, 3, 1).double().numpy())
    assert np.abs(rgb_to_lab(rgb).permute(0, 2, 3, 1).numpy() - expected).max() < 0.02
