"""Tests of the trainer, and the small recipes that they train."""

from kinochrome_trainer import recipe
from kinochrome_trainer.recipe import Recipe

SMALL = (
    "generator.width=8",
    "discriminator.width=8",
    "data.workers=0",
    "checkpoint_every=3",
    "sample_every=4",
)
SHAPES = {
    "light-unet": ("generator.depth=2", "discriminator.layers=1"),  # judged on a grid of 8 by 8
    "unet": ("generator.depth=5",),
    "resnet": ("generator.blocks=1",),
}


def small(name: str, *overrides: str) -> Recipe:
    """A shipped recipe, made small enough for a test: 32 pixels, two pictures a step, eight steps."""
    shape = SHAPES[recipe.load(name).generator.name]
    return recipe.load(name, [*SMALL, *shape, "phases=[{size=32, batch=2, steps=8}]", *overrides])
