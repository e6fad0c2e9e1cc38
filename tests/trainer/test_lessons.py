"""A classifier teaches a generator, and leaves nothing of itself behind; a run starts where another has got to."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kinochrome_trainer import checkpoint, classifier, loop, losses, systems
from kinochrome_trainer.errors import BadRecipe, BadRun, BadWeights
from kinochrome_trainer.recipe import Recipe
from tests.trainer import pictures, small
from tests.trainer.test_classifier import caffe
from tests.trainer.test_systems import batch, chance


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(caffe(), file)
    return file


def taught(squeezenet: Path, *overrides: str) -> Recipe:
    asked = "loss.adversarial=0", "loss.hints=1", "loss.classes=0.5", "classifier.point=encode.2"
    return small("default", *asked, f"classifier.weights={squeezenet}", *overrides)


def test_the_generator_learns_what_the_classifier_sees(squeezenet: Path) -> None:
    """With no other loss: its deepest features come to tell what was in the picture in colour."""
    settings = "loss.l1=0", "optimizer.lr=1e-2", "optimizer.warmup_steps=0", "film_stock.probability=0"
    system = systems.build(taught(squeezenet, *settings))
    deepest = dict(system.generator.named_modules())["encode.2"]
    before = [parameter.clone() for parameter in deepest.parameters()]
    reports = [system.step(batch(), step, chance(7)) for step in range(60)]
    assert set(reports[0]) == {"l1", "hints", "classes"}
    assert reports[-1]["hints"] < 0.6 * reports[0]["hints"]
    assert reports[-1]["classes"] < 0.6 * reports[0]["classes"]
    assert not any(torch.equal(old, new) for old, new in zip(before, deepest.parameters(), strict=True))


def test_each_term_alone(squeezenet: Path) -> None:
    for term, other in (("hints", "classes"), ("classes", "hints")):
        system = systems.build(taught(squeezenet, f"loss.{other}=0"))
        assert system.losses == ("l1", term) == tuple(system.step(batch(), 0, chance()))


def test_they_go_with_a_content_loss(squeezenet: Path, vgg: Path) -> None:
    """Its features of VGG-19 are others than the generator's that the lessons read."""
    system = systems.build(taught(squeezenet, "loss.gamma=0.5", f"features.weights={vgg}"))
    assert set(system.step(batch(), 0, chance())) == {"l1", "content", "hints", "classes"}


def test_nothing_of_the_classifier_is_kept(squeezenet: Path, tmp_path: Path) -> None:
    """A run's files hold what it learnt, and none of the weights that taught it; it resumes all the same."""
    stills = pictures.make(tmp_path / "stills")
    chosen = taught(squeezenet)
    loop.train(chosen, tmp_path / "part", colour=[stills], steps=8)
    loop.train(chosen, tmp_path / "part", colour=[stills], steps=9, resume=True)
    kept = load_file(checkpoint.latest(tmp_path / "part"))
    modules = {name.split(".")[0] for name in kept}
    assert modules == {"average", "generator", "lessons", "optimizer"}
    lessons = {name for name in kept if name.startswith("lessons.")}
    assert lessons == {f"lessons.{head}.{kind}" for head in ("hints", "classes") for kind in ("weight", "bias")}
    assert not any(
        "lessons" in name for name, _ in checkpoint.painter(checkpoint.latest(tmp_path / "part"))[0].named_modules()
    )


def test_hints_are_angles() -> None:
    one = torch.randn(2, 5, 3, 3, generator=chance(1))
    assert losses.hints(3 * one, one).item() == pytest.approx(0, abs=1e-6)
    assert losses.hints(-one, one).item() == pytest.approx(2, abs=1e-6)


def test_class_distribution_is_a_divergence() -> None:
    sure, other = torch.tensor([[4.0, 0, 0]]), torch.tensor([[0.0, 4, 0]])
    assert losses.class_distribution(sure, sure).item() == pytest.approx(0, abs=1e-6)
    told, read = (sure / 2).softmax(1), (other / 2).softmax(1)
    expected = sum(t * math.log(t / r) for t, r in zip(told[0].tolist(), read[0].tolist(), strict=True))
    assert losses.class_distribution(other, sure).item() == pytest.approx(expected, rel=1e-5)


def test_a_whole_picture_is_read_at_its_own_size(squeezenet: Path) -> None:
    network = classifier.load(str(squeezenet))
    features, logits = network.read(torch.rand(2, 3, 64, 96, generator=chance(1)))
    assert features.shape[:2] == (2, classifier.CHANNELS) and logits.shape == (2, classifier.CLASSES)
    assert features.shape[3] > features.shape[2]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("classifier.point=encode.9", r"classifier\.point: no point 'encode\.9' in the network; known: stem, "),
        ("classifier.point=", r"classifier\.point: no point '' in the network; known: stem, "),
    ],
)
def test_a_point_that_is_not_there(squeezenet: Path, override: str, words: str) -> None:
    with pytest.raises(BadRecipe, match=words):
        systems.build(taught(squeezenet, override))


def test_a_classifier_that_is_none(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(BadWeights, match="holds no SqueezeNet"):
        systems.build(taught(tmp_path / "other.pth"))


def test_a_run_starts_where_another_has_got_to(teacher: Path, tmp_path: Path) -> None:
    """Also with residual blocks at its bottom, which begin as if they were not there."""
    before = checkpoint.painter(checkpoint.latest(teacher))[0]
    for bottom, anew in ((0, 0), (2, 24)):
        system = systems.build(small("default", "generator.width=16", f"generator.bottom={bottom}"))
        assert checkpoint.start(system, teacher) == anew
        gray = torch.rand(1, 1, 32, 32, generator=chance(4))
        with torch.no_grad():
            assert torch.allclose(system.average.paint(gray), before.paint(gray), atol=1e-6)
        assert all(
            torch.equal(one, other)
            for one, other in zip(system.generator.parameters(), system.average.parameters(), strict=True)
        )


def test_a_start_counts_once(teacher: Path, tmp_path: Path) -> None:
    """A resumed run carries on from its own checkpoint, even where the run that it started from is gone."""
    stills, said = pictures.make(tmp_path / "stills"), list[str]()
    chosen = small("default", "generator.width=16", "generator.bottom=1", f"start={teacher}")
    loop.train(chosen, tmp_path / "run", colour=[stills], steps=2, on_warning=said.append)
    assert [text for text in said if "start anew" in text] == [
        f"12 of the generator's tensors are not in {teacher}, or of another shape: they start anew"
    ]
    gone = small("default", "generator.width=16", "generator.bottom=1", f"start={tmp_path / 'gone'}")
    said.clear()
    loop.train(gone, tmp_path / "run", colour=[stills], steps=3, resume=True, on_warning=said.append)
    assert not any("start anew" in text for text in said)


def test_a_start_that_cannot_be(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRun, match=r"start .*nowhere is no folder"):
        checkpoint.start(systems.build(small("default")), tmp_path / "nowhere")
    with pytest.raises(BadRun, match=r"start: .* holds no checkpoint"):
        checkpoint.start(systems.build(small("default")), tmp_path)
    with pytest.raises(BadRun, match=r"start .* trained another generator: the two have no layer in common"):
        checkpoint.start(systems.build(small("cyclegan")), teacher)
