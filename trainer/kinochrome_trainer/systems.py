"""The systems, by name."""

import torch
from lightning_fabric import Fabric

from .cyclegan import CycleGAN
from .distillation import Distillation
from .errors import BadRecipe
from .pix2pix import Pix2Pix
from .recipe import Recipe
from .system import System

SYSTEMS: dict[str, type[System]] = {"pix2pix": Pix2Pix, "cyclegan": CycleGAN, "distillation": Distillation}


def named(name: str) -> type[System]:
    """The system of a name. Raises BadRecipe when there is none."""
    if name not in SYSTEMS:
        raise BadRecipe(f"no system {name!r}; choose from {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def build(recipe: Recipe, fabric: Fabric | None = None) -> System:
    """The system a recipe names, with fresh weights that depend on its seed alone. Raises BadRecipe.

    fabric: devices and precision to train with; by default this process's CPU.
    """
    kind = named(recipe.system)
    torch.manual_seed(recipe.seed)
    system = kind(recipe, fabric or Fabric(accelerator="cpu", devices=1))
    system.rehearse()
    return system
