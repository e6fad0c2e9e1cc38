"""Files of weights made by the tests."""

from pathlib import Path

import torch

from kinochrome_trainer import features


def vgg(file: Path) -> Path:
    """Random VGG-19 weights, laid out as torchvision's."""
    chance = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    inside, places = 3, iter(features._TORCHVISION)
    for outside, count in features._BLOCKS:
        for _ in range(count):
            name = f"features.{next(places)}"
            weights[f"{name}.weight"] = torch.randn(outside, inside, 3, 3, generator=chance) * (2 / (9 * inside)) ** 0.5
            weights[f"{name}.bias"] = torch.zeros(outside)
            inside = outside
    torch.save(weights, file)
    return file
