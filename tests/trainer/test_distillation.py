"""A student learns from its teacher, the teacher stays as it is, and a run says whose student it trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kinochrome_trainer import checkpoint, cost, loop, losses, networks, recipe, systems
from kinochrome_trainer.colour import luma_of
from kinochrome_trainer.distillation import Distillation, digest, on_grid
from kinochrome_trainer.errors import BadRecipe, BadRun, TrainingError
from kinochrome_trainer.recipe import Recipe
from kinochrome_trainer.system import Batch
from tests.trainer import pictures, small
from tests.trainer.test_systems import batch, chance


def distilled(teacher: Path, *overrides: str) -> Recipe:
    return small("distilled", f"teacher.run={teacher}", *overrides)


def build(chosen: Recipe) -> Distillation:
    system = systems.build(chosen)
    assert isinstance(system, Distillation)
    return system


def vivid(teacher: Path, folder: Path) -> Path:
    """The same run with a generator that paints strong colours, of which there is something to learn."""
    shutil.copytree(teacher, folder)
    file = checkpoint.latest(folder)
    step = checkpoint.described(file)[1]
    tensors = load_file(file)
    tensors["average.head.weight"] = torch.randn(
        tensors["average.head.weight"].shape, generator=torch.Generator().manual_seed(1)
    )
    described = {"recipe": json.dumps(recipe.to_table(checkpoint.described(file)[0])), "step": str(step)}
    save_file(tensors, file, described)
    return folder


def stochastic(folder: Path, noise: int = 3) -> Path:
    chosen = small(
        "cyclegan-stochastic", f"generator.noise={noise}", "loss.latent=0", "phases=[{size=32, batch=2, steps=1}]"
    )
    loop.train(chosen, folder / "run", colour=[pictures.make(folder / "stills")])
    return folder / "run"


RESNET_POINTS = 'teacher.points=[{student="encode.2", teacher="body.3"}, {student="decode.0", teacher="body.5"}]'


def test_the_student_comes_to_paint_as_its_teacher(teacher: Path, tmp_path: Path) -> None:
    """Without the truth of stills: all it learns it has from the teacher."""
    chosen = distilled(vivid(teacher, tmp_path / "vivid"), "loss.l1=0", "optimizer.lr=3e-3", "optimizer.warmup_steps=0")
    system = build(chosen)
    reports = [system.step(batch(), step, chance(7)) for step in range(60)]
    assert set(reports[0]) == {"output_matching", "feature_matching"}
    for term in reports[0]:
        assert reports[-1][term] < 0.6 * reports[0][term], term


def test_the_teacher_never_changes_and_gets_no_gradient(teacher: Path) -> None:
    system = build(distilled(teacher))
    network = system.teacher.network
    before = digest(network)
    for step in range(3):
        system.step(batch(), step, chance(step))
    assert digest(network) == before == digest(checkpoint.painter(checkpoint.latest(teacher))[0])
    assert not network.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert not any(name.startswith("teacher") for name in system.modules)


def test_the_student_sees_wear_and_the_teacher_what_lies_under_it(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = build(distilled(teacher, "film_stock.probability=1"))
    shown: dict[str, torch.Tensor] = {}

    def watch(name: str, paint: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def painted(luma: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
            shown[name] = luma
            return paint(luma, noise)

        return painted

    for name, network in (("teacher", system.teacher.network), ("student", system.generator)):
        monkeypatch.setattr(network, "paint", watch(name, network.paint))
    given = batch()
    assert given.gray is not None
    system.step(given, 0, chance())
    luma = luma_of(given.colour)
    assert torch.equal(shown["teacher"][:2], luma)
    assert not torch.allclose(shown["student"][:2], luma, atol=0.02)
    for seen in shown.values():  # film frames as they are
        assert torch.allclose(seen[2:], given.gray[:, :1], atol=1e-6)


def test_gray_stills_are_learnt_from_though_no_truth_of_them_is_known(teacher: Path, tmp_path: Path) -> None:
    stills, film = pictures.make(tmp_path / "stills"), pictures.make(tmp_path / "film", 5)
    met: list[torch.Tensor | None] = []
    original = Distillation.step

    class Spy(Distillation):
        def step(self, batch: Batch, step: int, chance: torch.Generator) -> dict[str, float]:
            met.append(batch.gray)
            return original(self, batch, step, chance)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(systems.SYSTEMS, "distillation", Spy)
        for out, gray in (("without", []), ("with", [film])):
            loop.train(distilled(teacher, "phases.0.steps=2"), tmp_path / out, colour=[stills], gray=gray)
    assert met[:2] == [None, None]
    assert all(gray is not None and gray.shape == (2, 3, 32, 32) for gray in met[2:])
    student = build(distilled(teacher, "optimizer.lr=0"))
    alone = student.step(Batch(batch().colour, None, gray_is_real=False), 0, chance())
    assert set(alone) == set(student.losses)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "teacher.points.0.student=encode.9",
            r"teacher\.points\.0\.student: no point 'encode\.9' in the network; known: stem, encode\.0, ",
        ),
        (
            "teacher.points.1.teacher=scene",
            r"teacher\.points\.1\.teacher: no point 'scene' in the network; known: stem, .*, decode\.1$",
        ),
        ("teacher.points=[]", "compares features at teacher.points, and there are none"),
        ("loss.adversarial=1", "system 'distillation' has no term 'adversarial': set loss.adversarial=0"),
        ("generator.width=0", "generator.width must be at least 1"),
        ("phases=[{size=40, batch=2, steps=1}]", "phases: size 40 is not a multiple of 16"),
    ],
)
def test_what_a_recipe_asks_in_vain_is_one_line(override: str, words: str, teacher: Path) -> None:
    with pytest.raises(BadRecipe, match=words) as refused:
        build(distilled(teacher, override))
    assert "\n" not in str(refused.value)


def test_without_matching_there_is_nothing_to_learn_from_the_teacher(teacher: Path) -> None:
    with pytest.raises(BadRecipe, match=r"set loss\.output_matching or loss\.feature_matching"):
        build(distilled(teacher, "loss.output_matching=0", "loss.feature_matching=0"))
    system = build(distilled(teacher, "loss.feature_matching=0", "teacher.points=[]"))
    assert set(system.optimizers) == {"generator"} and system.losses == ("output_matching", "l1")


def test_a_teacher_that_cannot_teach_is_refused(teacher: Path, tmp_path: Path) -> None:
    stills = [pictures.make(tmp_path / "stills")]
    begun, empty = tmp_path / "begun", tmp_path / "empty"
    shutil.copytree(teacher, begun)
    loop.train(small("default", "generator.width=8", "loss.adversarial=0"), tmp_path / "part", colour=stills, steps=2)
    file = checkpoint.latest(tmp_path / "part")
    longer = checkpoint.described(file)[0].resolved(1, steps=9)
    metadata = {"recipe": json.dumps(recipe.to_table(longer)), "step": "2"}
    save_file(load_file(file), file, metadata)
    checkpoint.latest(begun).write_bytes(b"cut")
    empty.mkdir()
    cases: list[tuple[Path | str, str]] = [
        ("", r"no teacher is named: .* --set teacher\.run="),
        (tmp_path / "none", "none is no folder: name the --out folder of a training run"),
        (empty, "teacher.run: .*empty holds no checkpoint"),
        (begun, "teacher.run: checkpoint .* cannot be read"),
        (tmp_path / "part", "part is unfinished, 2 of 9 steps: carry it on with --resume"),
        (stochastic(tmp_path), "was trained with generator.noise=3, the student has 0: set generator.noise=3"),
    ]
    for run, words in cases:
        with pytest.raises(TrainingError, match=words) as refused:
            loop.train(distilled(Path(run)) if run else small("distilled"), tmp_path / "out", colour=stills)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_run_says_who_taught_it_and_is_not_resumed_with_another(teacher: Path, tmp_path: Path) -> None:
    stills, run, moved = [pictures.make(tmp_path / "stills")], tmp_path / "run", tmp_path / "moved"
    loop.train(distilled(teacher), run, colour=stills, steps=2)
    known = digest(checkpoint.painter(checkpoint.latest(teacher))[0])
    told = json.loads((run / "recipe.json").read_text())["recipe"]["teacher"]
    assert (told["run"], told["step"], told["sha256"]) == (str(teacher), 2, known)
    assert checkpoint.described(checkpoint.latest(run))[0].teacher.sha256 == known
    other = vivid(teacher, tmp_path / "other")
    with pytest.raises(BadRun, match=rf"was started with teacher\.sha256={known}, not "):
        loop.train(distilled(other), run, colour=stills, steps=3, resume=True)
    with pytest.raises(BadRun, match=r"is another teacher: its sha256 is .*, and teacher\.sha256=.* is asked for"):
        loop.train(distilled(other, f"teacher.sha256={known}"), tmp_path / "new", colour=stills)
    shutil.copytree(teacher, moved)
    assert loop.train(distilled(moved), run, colour=stills, steps=3, resume=True) == 3


def test_any_generator_may_teach(tmp_path: Path) -> None:
    """One that paints whole pictures at the full size, with noise: student and teacher are given the same."""
    run = stochastic(tmp_path)
    chosen = distilled(
        run, RESNET_POINTS, "generator.norm=conditional", "generator.noise=3", "optimizer.lr=3e-3", "loss.l1=0"
    )
    system = build(chosen)
    assert system.teacher.network.paints_pictures and system.teacher.network.chroma_stride == 1
    reports = [system.step(batch(), step, chance(step)) for step in range(40)]
    assert reports[-1]["feature_matching"] < 0.9 * reports[0]["feature_matching"]


def test_the_perceptual_term_compares_student_and_teacher(teacher: Path, vgg: Path) -> None:
    system = build(distilled(teacher, "loss.perceptual=1", f"features.weights={vgg}"))
    assert system.step(batch(), 0, chance())["perceptual"] > 0


def test_what_is_exported_carries_no_hook(teacher: Path) -> None:
    system = build(distilled(teacher))
    assert not any(module._forward_hooks for module in system.average.modules())
    assert sum(len(module._forward_hooks) for module in system.generator.modules()) == 4


def test_feature_matching_is_its_equation() -> None:
    chance = torch.Generator().manual_seed(0)
    ours = [torch.randn(2, 3, 4, 4, generator=chance), torch.randn(2, 5, 2, 2, generator=chance)]
    theirs = [torch.randn(2, 3, 4, 4, generator=chance), 100 * torch.randn(2, 5, 2, 2, generator=chance)]
    shares = [((a - b).norm() ** 2 / b.norm() ** 2).item() for a, b in zip(ours, theirs, strict=True)]
    assert losses.feature_matching(ours, theirs).item() == pytest.approx(sum(shares) / 2, rel=1e-4)
    assert losses.feature_matching(theirs, theirs).item() == 0
    assert losses.output_matching(ours[0], theirs[0]).item() == pytest.approx(
        (ours[0] - theirs[0]).abs().mean().item(), rel=1e-5
    )


def test_grids_are_brought_together_without_shifting_anything() -> None:
    ramp = torch.linspace(0, 1, 8).expand(1, 1, 8, 8)
    coarse = on_grid(ramp, torch.zeros(1, 2, 2, 2))
    assert torch.allclose(coarse[0, 0, 0], torch.stack((ramp[0, 0, 0, :4].mean(), ramp[0, 0, 0, 4:].mean())))
    fine = on_grid(coarse, torch.zeros(1, 2, 8, 8))
    assert fine.shape == (1, 1, 8, 8) and fine.mean().item() == pytest.approx(ramp.mean().item())
    assert on_grid(ramp, ramp) is ramp


def test_cost_is_the_published_one() -> None:
    """CycleGAN's ResNet-9: 56.8 GMACs at 256 x 256 and 11.4 million parameters (GAN Compression, table 1), which
    counts three zeros for each input of the two transposed convolutions."""
    settings = recipe.Generator(name="resnet", paints="picture", width=64, blocks=9, norm="instance")
    with torch.device("meta"):
        generator = networks.generator(settings)
    zeros = 3 * (64**2 * 256 * 128 * 9 + 128**2 * 128 * 64 * 9)
    assert (cost.macs(generator, 256, 256) + zeros) / 1e9 == pytest.approx(56.8, abs=0.01)
    assert cost.parameters(generator) / 1e6 == pytest.approx(11.4, abs=0.1)
