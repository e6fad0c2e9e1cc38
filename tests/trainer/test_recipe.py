"""Recipes: every shipped one is whole, every wrong one is refused with its remedy."""

from pathlib import Path

import pytest

from kinochrome_trainer import networks, recipe, systems
from kinochrome_trainer.errors import BadRecipe
from tests.trainer import small

PHASE = "\n[[phases]]\nsize = 64\nbatch = 2\nsteps = 3\n"


@pytest.mark.parametrize("name", recipe.names())
def test_every_shipped_recipe_builds(name: str, vgg: Path, teacher: Path) -> None:
    files = f"features.weights={vgg}", f"teacher.run={teacher}"
    loaded = recipe.load(name, ["generator.width=8", "discriminator.width=8", *files])
    assert loaded.about
    system = systems.build(loaded)
    assert all(phase.size % system.generator.size_multiple == 0 for phase in loaded.phases)
    assert set(system.optimizers) <= set(system.modules)


def test_the_table_of_recipes_is_whole() -> None:
    assert set(recipe.names()) == {
        *("cyclegan", "cyclegan-unet", "cyclegan-progressive", "cyclegan-capsule", "cyclegan-capsule-patch"),
        *("cyclegan-stochastic", "pix2pix", "pix2pix-perceptual", "semi-supervised", "translate", "default"),
        "distilled",
    }


def test_a_recipe_survives_its_way_through_a_table() -> None:
    loaded = recipe.load("default", ["loss.l1=50", "phases.0.steps=7", "generator.name=unet"])
    assert loaded.loss.l1 == 50.0 and loaded.steps == 7
    assert recipe.from_table(recipe.to_table(loaded)) == loaded


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(f'system = "pix2pix"{PHASE}')
    assert recipe.load(str(tmp_path / "mine.toml")).phases == (recipe.Phase(size=64, batch=2, steps=3),)


def test_phases_in_epochs_become_steps_and_keep_their_shares() -> None:
    chosen = small("cyclegan", "phases=[{size=32, batch=4, epochs=2}, {size=64, batch=2, epochs=1.5, lr=0.5}]")
    by_stills = chosen.resolved(stills=20)
    assert [phase.steps for phase in by_stills.phases] == [10, 15]
    assert list(by_stills.stretches()) == [(by_stills.phases[0], 0, 10), (by_stills.phases[1], 10, 25)]
    assert [phase.lr for phase in by_stills.phases] == [1.0, 0.5]
    assert by_stills.size == 64
    shortened = chosen.resolved(stills=20, steps=5)
    assert [phase.steps for phase in shortened.phases] == [2, 3]
    assert [phase.steps for phase in chosen.resolved(stills=20, steps=2).phases] == [1, 1]
    with pytest.raises(BadRecipe, match="--steps 1 is too few: each of the 2 phases needs one"):
        chosen.resolved(stills=20, steps=1)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("pix2pixx", [], r"no recipe 'pix2pixx' \(did you mean 'pix2pix'\?\)"),
        ("default", ["loss.advesarial=1"], r"unknown setting 'loss.advesarial' \(did you mean 'adversarial'\?\)"),
        ("default", ["optimiser.lr=1"], r"unknown setting 'optimiser' \(did you mean 'optimizer'\?\)"),
        ("default", ["phases.0.sise=64"], r"unknown setting 'phases.0.sise' \(did you mean 'size'\?\)"),
        ("default", ["phases.0.steps=many"], "phases.0.steps must be int, not 'many'"),
        ("default", ["phases.0.steps=1.5"], "phases.0.steps must be int"),
        ("default", ["phases.0.steps=0"], "phases.0 needs either steps or epochs"),
        ("default", ["phases.0.epochs=2"], "phases.0 needs either steps or epochs"),
        ("default", ["phases.1.size=64"], "there is no entry '1'; they are numbered 0 to 0"),
        ("default", ["phases.0=64"], "as in phases.0.size=64"),
        ("default", ["phases=64"], "phases must be a list"),
        ("default", ["phases=[]"], r"at least one \[\[phases\]\] section"),
        ("default", ["seed"], "--set takes path=value"),
        ("default", ["about.more=1"], "'about' is a value, not a section"),
        ("default", ["loss=1"], "loss is a section, not a value"),
        ("default", ["precision=fp8"], r"precision must be one of fp32, bf16, not 'fp8'"),
        ("default", ["loss.cycle_form=L1"], r"loss.cycle_form must be one of l1, l2, not 'L1'"),
        ("default", ["generator.norm=instanse"], r"not 'instanse' \(did you mean 'instance'\?\)"),
        ("default", ["generator.noise=8"], "noise enters through norm 'conditional'"),
        ("default", ["film_stock.jpeg=2"], r"film_stock.jpeg must lie in 0\.\.1"),
        ("default", ["loss.gamma=1.5"], r"loss.gamma must lie in 0\.\.1"),
        ("default", ["seed=-1"], "seed must not be negative"),
        ("default", ["optimizer.beta1=1.0"], r"optimizer.beta1 must lie in 0\.\.1"),
        ("default", ["generator.width=0"], "generator.width must be at least 1"),
        ("missing.toml", [], "cannot be read: No such file"),
    ],
)
def test_mistakes_are_named(name: str, overrides: list[str], words: str) -> None:
    with pytest.raises(BadRecipe, match=words):
        recipe.load(name, overrides)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("default", ["generator.name=big"], "no generator 'big'; choose from light-unet, unet, resnet"),
        ("default", ["discriminator.name=big"], "no discriminator 'big'; choose from patch, capsule, capsule-patch"),
        ("default", ["system=gan"], "no system 'gan'; choose from pix2pix, cyclegan"),
        ("default", ["phases.0.size=100"], r"size 100 is not a multiple of 32, which generator 'light-unet' needs"),
        ("default", ["loss.cycle=10"], "system 'pix2pix' has no term 'cycle': set loss.cycle=0"),
        ("cyclegan", ["loss.gamma=0.5"], "system 'cyclegan' has no content loss"),
        ("cyclegan", ["loss.adversarial=0"], "loss.adversarial must be above 0"),
        ("cyclegan", ["loss.latent=1"], "are about noise"),
        ("default", ["loss.adversarial=0", "loss.r1=1"], "loss.r1 tames a discriminator"),
        ("pix2pix", ["generator.paints=picture"], "paints one chroma"),
        ("cyclegan", ["generator.name=light-unet"], "light-unet paints chroma"),
        ("pix2pix", ["generator.depth=1"], "generator unet needs a depth of at least 2"),
        ("default", ["phases.0.size=32"], "size 32 does not suit these networks: "),
        ("cyclegan", ["phases.0.size=4"], "size 4 does not suit these networks: "),
        ("semi-supervised", ["loss.identity=5", "generator.paints=chroma"], "loss.identity has no meaning for chroma"),
        ("translate", ["color_to_gray=arithmetic"], "set color_to_gray=network"),
        ("semi-supervised", ["loss.adversarial_from=5", "loss.cycle=0", "loss.l1=0"], "leaves nothing to learn from"),
    ],
)
def test_what_cannot_be_built_is_named(name: str, overrides: list[str], words: str) -> None:
    with pytest.raises(BadRecipe, match=words):
        systems.build(recipe.load(name, ["generator.width=8", "discriminator.width=8", *overrides]))


def test_every_registered_name_is_a_type_of_network() -> None:
    assert set(networks.GENERATORS) == {"light-unet", "unet", "resnet"}
