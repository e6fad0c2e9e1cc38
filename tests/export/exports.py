"""Colorizer files of every recipe, each exported once for all tests and test processes: an export takes seconds."""

import fcntl
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import tests.trainer
from kinochrome_export import to_onnx
from kinochrome_trainer import checkpoint, networks
from kinochrome_trainer.networks import Generator
from kinochrome_trainer.recipe import Recipe

STEP = 7
LINES = 64


@dataclass(frozen=True)
class Export:
    """A recipe's narrow network, and what became of it."""

    recipe: Recipe
    run: Path
    file: Path

    def generator(self) -> Generator:
        return checkpoint.painter(checkpoint.latest(self.run))[0]


class Exports:
    """Makes them on first use, in a folder that test processes share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str) -> Export:
        """Of a recipe by name. Its network is not trained, but alive: pictures differ, noise matters."""
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        export = Export(tests.trainer.small(name), folder / "run", folder / f"{name}.onnx")
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not export.file.exists():
                save_run(export.run, export.recipe)
                to_onnx.export(export.run, export.file, working_size=LINES)
        return export


def save_run(run: Path, recipe: Recipe, step: int = STEP) -> None:
    """A run's folder with a checkpoint in it that can be exported."""
    generator = networks.generator(recipe.generator)
    _enliven(generator)
    system: Any = SimpleNamespace(modules={"average": generator}, optimizers={})
    checkpoint.save(run / "checkpoints", system, recipe, step)


def _enliven(generator: Generator) -> None:
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in generator.parameters():
            if weight.ndim > 1:
                torch.nn.init.kaiming_normal_(weight, generator=chance)
            else:
                weight.normal_(0.5, 0.3, generator=chance)
        for name, statistic in generator.named_buffers():
            if name.endswith("running_var"):
                statistic.uniform_(0.5, 1.5, generator=chance)
            elif name.endswith("running_mean"):
                statistic.normal_(0, 0.3, generator=chance)
