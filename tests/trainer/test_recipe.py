"""Recipes: every shipped one is whole, every wrong one is refused with its remedy."""

from pathlib import Path

import pytest

from kinochrome_trainer import networks, recipe, systems
from kinochrome_trainer.errors import BadRecipe


@pytest.mark.parametrize("name", recipe.names())
def test_every_shipped_recipe_builds(name: str) -> None:
    loaded = recipe.load(name, ["generator.width=8", "discriminator.width=8"])
    assert loaded.about
    system = systems.build(loaded)
    assert loaded.data.size % system.generator.size_multiple == 0


def test_a_recipe_survives_its_way_through_a_table() -> None:
    loaded = recipe.load("default", ["loss.l1=50", "steps=7", "generator.name=unet"])
    assert loaded.loss.l1 == 50.0 and loaded.steps == 7
    assert recipe.from_table(recipe.to_table(loaded)) == loaded


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('system = "pix2pix"\n[data]\nsize = 64\n')
    assert recipe.load(str(tmp_path / "mine.toml")).data.size == 64


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("pix2pixx", [], r"no recipe 'pix2pixx' \(did you mean 'pix2pix'\?\)"),
        ("default", ["loss.advesarial=1"], r"unknown setting 'loss.advesarial' \(did you mean 'adversarial'\?\)"),
        ("default", ["optimiser.lr=1"], r"unknown setting 'optimiser' \(did you mean 'optimizer'\?\)"),
        ("default", ["steps=many"], "steps must be int, not 'many'"),
        ("default", ["steps=1.5"], "steps must be int"),
        ("default", ["steps=0"], "steps must be at least 1"),
        ("default", ["steps"], "--set takes path=value"),
        ("default", ["steps.more=1"], "'steps' is a value, not a section"),
        ("default", ["loss=1"], "loss is a section, not a value"),
        ("default", ["precision=fp8"], "precision must be fp32 or bf16"),
        ("default", ["film_stock.jpeg=2"], r"film_stock.jpeg must lie in 0\.\.1"),
        ("default", ["seed=-1"], "seed must not be negative"),
        ("default", ["generator.width=0"], "generator.width must be at least 1"),
        ("missing.toml", [], "cannot be read: No such file"),
    ],
)
def test_mistakes_are_named(name: str, overrides: list[str], words: str) -> None:
    with pytest.raises(BadRecipe, match=words):
        recipe.load(name, overrides)


def test_unknown_names_inside_a_recipe_are_named() -> None:
    with pytest.raises(BadRecipe, match="no generator 'big'; choose from light-unet, unet"):
        systems.build(recipe.load("default", ["generator.name=big"]))
    with pytest.raises(BadRecipe, match="no system 'gan'; choose from pix2pix"):
        systems.build(recipe.load("default", ["system=gan"]))
    with pytest.raises(BadRecipe, match=r"data.size 100 is not a multiple of 32"):
        systems.build(recipe.load("default", ["data.size=100"]))
    assert set(networks.GENERATORS) == {"light-unet", "unet"}
