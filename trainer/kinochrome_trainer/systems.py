"""The systems, by name."""

import torch
from lightning_fabric import Fabric

from .cyclegan import CycleGAN
from .errors import BadRecipe
from .pix2pix import Pix2Pix
from .recipe import Recipe
from .system import System

SYSTEMS: dict[str, type[System]] = {"pix2pix": Pix2Pix, "cyclegan": CycleGAN}


def build(recipe: Recipe, fabric: Fabric | None = None) -> System:
    """The system a recipe names, with fresh weights that depend on its seed alone. Raises BadRecipe.

    fabric: devices and precision to train with; by default this process's CPU.
    """
    if recipe.system not in SYSTEMS:
        raise BadRecipe(f"no system {recipe.system!r}; choose from {', '.join(SYSTEMS)}")
    torch.manual_seed(recipe.seed)
    return SYSTEMS[recipe.system](recipe, fabric or Fabric(accelerator="cpu", devices=1))
