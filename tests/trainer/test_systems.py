"""What each system does in a step."""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinochrome_trainer import systems
from kinochrome_trainer.colour import luma_of, rgb_to_ycbcr
from kinochrome_trainer.cyclegan import CycleGAN, ImagePool
from kinochrome_trainer.recipe import Recipe, names
from kinochrome_trainer.system import Batch, System
from tests.trainer import small


def batch(count: int = 2, size: int = 32) -> Batch:
    chance = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, 4, 4, generator=chance)
    colour = torch.nn.functional.interpolate(coarse, size)
    gray = torch.rand(count, 1, size, size, generator=chance).expand(-1, 3, -1, -1).contiguous()
    return Batch(colour, gray, gray_is_real=True)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(recipe: Recipe) -> System:
    return systems.build(recipe)


@pytest.mark.parametrize("name", names())
def test_a_step_moves_every_network_and_reports_what_it_announced(name: str, vgg: Path, teacher: Path) -> None:
    files = f"features.weights={vgg}", f"teacher.run={teacher}"
    system = build(small(name, *files, "loss.adversarial_from=0", "optimizer.ema=0.5"))
    before = {
        (network, key): value.clone()
        for network in ["average", *system.optimizers]
        for key, value in system.modules[network].state_dict().items()
    }
    report = [system.step(batch(), step, chance(step)) for step in range(2)][-1]
    assert set(report) == set(system.losses)
    assert all(value == value for value in report.values())
    for network in ["average", *system.optimizers]:
        after = system.modules[network].state_dict()
        moved = [
            not torch.equal(value, before[network, key]) for key, value in after.items() if value.is_floating_point()
        ]
        assert all(moved), network


def test_steps_depend_on_seed_alone(vgg: Path) -> None:
    one, other = (build(small("cyclegan-stochastic")) for _ in range(2))
    assert one.step(batch(), 0, chance()) == other.step(batch(), 0, chance())
    third = build(small("cyclegan-stochastic", "seed=2"))
    assert third.step(batch(), 0, chance()) != one.step(batch(), 1, chance())


def test_joined_passes_are_the_separate_ones() -> None:
    """With instance norm all that G paints goes through in one pass: that must not change what is painted."""
    joined, separate = build(small("cyclegan")), build(small("cyclegan"))
    assert isinstance(joined, CycleGAN) and isinstance(separate, CycleGAN)
    separate.independent = False
    for step in range(2):
        one, other = joined.step(batch(), step, chance(step)), separate.step(batch(), step, chance(step))
        assert one == pytest.approx(other, rel=1e-3)


def test_with_arithmetic_the_way_back_is_luma_and_no_network() -> None:
    system = build(small("cyclegan", "color_to_gray=arithmetic"))
    assert isinstance(system, CycleGAN)
    assert system.back is None and set(system.optimizers) == {"generator", "judge_y"}
    rgb = batch().colour
    (gray,) = system._gray_again([rgb])
    assert torch.equal(gray, luma_of(rgb).expand_as(rgb))


def test_gray_made_from_colour_stills_is_exposed_and_real_film_is_not() -> None:
    worn = "film_stock.probability=1"
    system = build(small("cyclegan", worn))
    assert isinstance(system, CycleGAN)
    colour = batch().colour
    real = system._gray(Batch(colour, colour, gray_is_real=True), chance())
    made = system._gray(Batch(colour, colour, gray_is_real=False), chance())
    assert torch.allclose(real, luma_of(colour).expand_as(colour))
    assert not torch.allclose(made, real, atol=0.02)
    assert torch.equal(made[:, 0], made[:, 1])
    kept = build(small("translate"))
    assert isinstance(kept, CycleGAN)
    assert torch.equal(kept._gray(Batch(colour, colour, gray_is_real=True), chance()), colour)


def test_semi_supervised_learns_from_its_pairs() -> None:
    system = build(small("semi-supervised", "optimizer.lr=2e-3", "film_stock.probability=0"))
    errors = [system.step(batch(), step, chance(step))["l1"] for step in range(40)]
    assert sum(errors[-5:]) < 0.7 * sum(errors[:5])


def spread(system: System) -> float:
    """Mean distance between colourings of one gray picture by several noises, in code values."""
    noise = torch.randn(6, system.average.noise_length, generator=chance(9))
    luma = luma_of(batch(1).colour).expand(6, -1, -1, -1)
    with torch.no_grad():
        painted = system.average.paint(luma, noise)
    return 255 * (painted - painted.mean(0)).abs().mean().item()


@pytest.mark.slow
def test_the_cures_make_noise_matter() -> None:
    """The study of the family measures the ratio on real stills; here it must at least show on a toy."""
    chosen = ("optimizer.lr=1e-3", "optimizer.ema=0.9", "phases=[{size=32, batch=2, steps=200}]")
    plain = build(small("cyclegan-stochastic", "loss.mode_seeking=0", "loss.latent=0", *chosen))
    cured = build(small("cyclegan-stochastic", *chosen))
    for step in range(120):
        for system in (plain, cured):
            system.step(batch(), step, chance(step))
    assert spread(cured) > 5 * spread(plain)


def test_r1_and_clipping_are_applied() -> None:
    """The penalty is reported and lowers the slope of the discriminator; clipping bounds what Adam is given."""
    system = build(small("default", "loss.adversarial_from=0", "loss.r1=10", "optimizer.clip=0.001"))
    norms: list[float] = []
    original = system.optimizers["generator"].step

    def spy(*args: object, **kwargs: object) -> object:
        gradients = [p.grad.norm() ** 2 for p in system.generator.parameters() if p.grad is not None]
        norms.append(torch.stack(gradients).sum().sqrt().item())
        return original()

    system.optimizers["generator"].step = spy  # type: ignore[method-assign]
    report = system.step(batch(), 0, chance())
    assert report["r1"] > 0
    assert norms[0] == pytest.approx(0.001, rel=0.02)


def test_batch_norm_learns_the_statistics_of_gray_alone() -> None:
    """What G paints besides (identity, cycle) is normalised by its own batch, and leaves no trace in inference."""
    system = build(small("translate", "optimizer.lr=0", "optimizer.discriminator_lr=0"))
    one, other = batch(), batch()
    bright = Batch(one.colour * 0 + 1, one.gray, gray_is_real=True)
    system.step(other, 0, chance())
    before = {key: value.clone() for key, value in system.generator.state_dict().items() if "running_mean" in key}
    again = build(small("translate", "optimizer.lr=0", "optimizer.discriminator_lr=0"))
    again.step(bright, 0, chance())
    after = again.generator.state_dict()
    assert before and all(torch.allclose(value, after[key]) for key, value in before.items())


def pictures(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


def test_the_image_pool_fills_up_and_then_hands_out_older_pictures() -> None:
    pool, dice = ImagePool(4), random.Random(1)
    assert torch.equal(pool.exchange(pictures(1, 2, 3), dice), pictures(1, 2, 3))
    assert len(pool.pictures) == 3
    seen: list[float] = []
    for value in range(4, 64):
        out = pool.exchange(pictures(value), dice)
        assert len(pool.pictures) <= 4
        seen.append(out[0, 0, 0, 0].item())
    older = [value for value, now in zip(seen, range(4, 64), strict=True) if value != now]
    assert 0.3 < len(older) / len(seen) < 0.7
    assert len(set(older)) == len(older)  # a picture that is handed out leaves the pool
    restored = ImagePool(4)
    restored.load_state_dict(pool.state_dict())
    assert torch.equal(restored.pictures, pool.pictures)
    assert pool.exchange(torch.zeros(1, 3, 8, 8), dice).shape == (1, 3, 8, 8)  # a new phase
    assert len(pool.pictures) == 1
    none = ImagePool(0)
    assert torch.equal(none.exchange(pictures(7), dice), pictures(7))


def test_overuse_keeps_running_means_of_both_histograms(vgg: Path) -> None:
    system = build(small("translate"))
    for step in range(3):
        report = system.step(batch(), step, chance(step))
    used, real = system.colours.used, system.colours.real
    assert used.sum().item() == pytest.approx(1, rel=1e-4) and real.sum().item() == pytest.approx(1, rel=1e-4)
    assert not torch.allclose(used, real)
    assert report["overuse"] == report["overuse"]
    assert rgb_to_ycbcr(batch().colour)[1].shape[1] == 2
