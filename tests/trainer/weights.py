"""Weights made by the tests."""

from pathlib import Path

import torch

from kinochrome_trainer import features, loop
from tests.trainer import pictures, small


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


def teacher(folder: Path) -> Path:
    """A finished run of a light U-Net twice as wide as the students of the tests."""
    chosen = small("default", "generator.width=16", "loss.adversarial=0", "phases.0.steps=2")
    loop.train(chosen, folder / "run", colour=[pictures.make(folder / "stills")])
    return folder / "run"
