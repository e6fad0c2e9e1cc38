"""VGG-19: layouts of weights, layers, errors."""

from pathlib import Path

import pytest
import torch

from kinochrome_trainer import features, recipe
from kinochrome_trainer.errors import BadRecipe, BadWeights, TrainingError
from tests.shared import DATA, needs_data


def test_layers_have_the_sizes_of_vgg19(vgg: Path) -> None:
    network = features.load(recipe.Features(str(vgg), ("relu1_2", "relu2_2", "relu5_4")))
    found = network(torch.rand(2, 3, 64, 48))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "relu1_2": (2, 64, 64, 48),
        "relu2_2": (2, 128, 32, 24),
        "relu5_4": (2, 512, 4, 3),
    }
    assert all((value >= 0).all() for value in found.values())


def test_nothing_is_computed_beyond_the_deepest_layer_wanted(vgg: Path) -> None:
    assert len(features.load(recipe.Features(str(vgg), ("relu2_1",))).convolutions) == 3


def test_gradients_reach_the_picture_and_not_the_weights(vgg: Path) -> None:
    network = features.load(recipe.Features(str(vgg)))
    picture = torch.rand(1, 3, 32, 32, requires_grad=True)
    network(picture)["relu2_2"].mean().backward()
    assert picture.grad is not None and picture.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


@needs_data
def test_the_normalised_layout_knows_its_unit_mean() -> None:
    """Its layers are scaled so that each channel has mean activation 1 over ImageNet; of a few stills, roughly that."""
    from kinochrome_trainer.stills import Stills, to_tensor

    network = features.load(
        recipe.Features(str(DATA / "weights" / "vgg_normalised_conv3_1.pth"), ("relu1_2", "relu2_2", "relu3_1"))
    )
    stills = Stills([DATA / "stills" / "val.zip"])
    means: dict[str, list[float]] = {name: [] for name in network.layers}
    for index in range(0, len(stills), 19):
        found = network(to_tensor(stills.open(index)).unsqueeze(0).float() / 255)
        for name, value in found.items():
            means[name].append(value.mean().item())
    for values in means.values():
        assert 0.5 < sum(values) / len(values) < 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("nowhere.pth", ("relu2_2",)), "features.weights=nowhere.pth is no file: name one that holds VGG-19"),
        (("{vgg}", ("relu9_1",)), "no layer 'relu9_1'; known: relu1_1"),
        (("{vgg}", ()), "names no layer"),
        (("{text}", ("relu2_2",)), "cannot be read as weights"),
        (("{other}", ("relu2_2",)), "holds no relu1_1 of a VGG-19"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    settings: tuple[str, tuple[str, ...]], words: str, vgg: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("hello")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other")
    file = settings[0].format(vgg=vgg, text=tmp_path / "text", other=tmp_path / "other")
    with pytest.raises(TrainingError, match=words) as caught:
        features.load(recipe.Features(file, settings[1]))
    assert isinstance(caught.value, BadRecipe if file == str(vgg) else BadWeights)


def test_weights_that_cannot_be_fetched_say_how_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(BadWeights, match=r"no route to host.*--set features.weights=FILE"):
        features.load(recipe.Features())
