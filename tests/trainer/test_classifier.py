"""The classifier: both kinds of weights, what it refuses, and what it makes of real photographs."""

import urllib.error
from pathlib import Path

import pytest
import torch
from skimage import data
from torch import Tensor

from kinochrome_trainer import classifier, metrics
from kinochrome_trainer.errors import BadWeights
from tests import shared

WEIGHTS = shared.DATA / "weights" / "decoded_squeezenet_v1_0_caffe_bgr.pth"


def caffe() -> dict[str, Tensor]:
    """Made weights under Caffe's names."""
    chance = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"conv1": (96, 3, 7, 7), "conv10": (1000, 512, 1, 1)}
    for number, (inside, squeezed, half) in classifier._FIRES.items():
        shapes[f"fire{number}.squeeze"] = (squeezed, inside, 1, 1)
        shapes[f"fire{number}.e1"] = (half, squeezed, 1, 1)
        shapes[f"fire{number}.e3"] = (half, squeezed, 3, 3)
    weights = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = torch.randn(shape, generator=chance) * (2 / (shape[1] * shape[2] ** 2)) ** 0.5
        weights[f"{name}.bias"] = torch.zeros(shape[0])
    return weights


def torchvisions(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under torchvision's names (torchvision/models/squeezenet.py)."""
    layers = {"conv1": "features.0", "conv10": "classifier.1"}
    layers |= {f"fire{n}": f"features.{at}" for n, at in zip(range(2, 10), (3, 4, 5, 7, 8, 9, 10, 12), strict=True)}
    parts = {"e1": "expand1x1", "e3": "expand3x3"}
    renamed = {}
    for name, value in weights.items():
        layer, *rest = name.split(".")
        renamed[".".join([layers[layer], *(parts.get(part, part) for part in rest)])] = value
    return renamed


@pytest.mark.parametrize("shape", [(20, 30), (300, 260), (256, 256)])
@pytest.mark.parametrize("names", [dict, torchvisions])
def test_pictures_of_any_size_give_classes_and_features(names: type[dict[str, Tensor]], shape: tuple[int, int]) -> None:
    network = classifier.Classifier(names(caffe()), "made")
    rgb = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        seen = network(torch.cat((rgb[:1], rgb)))
    assert seen.logits.shape == (3, classifier.CLASSES)
    assert [layer.shape[1] for layer in seen.features] == [96, 128, 256, 384, 384, 512, 512]
    for layer in seen.features:
        lengths = layer.square().sum(1)
        assert ((lengths - 1).abs().lt(1e-4) | lengths.lt(1e-4)).all()  # a place where nothing fires has none
    distances = seen.distance_to_first()
    assert distances.shape == (3,) and distances[1] == pytest.approx(0, abs=1e-6) and 0 < distances[2] <= 2


def test_figures_use_it() -> None:
    network = classifier.Classifier(caffe(), "made")
    truth = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    same, other = metrics.figures(torch.cat((truth, 1 - truth)), truth, classifier=network)
    assert same.recognition == 1 and same.squeezenet_distance == pytest.approx(0, abs=1e-6)
    assert other.squeezenet_distance is not None and other.squeezenet_distance > 0.001


def test_files_of_weights_are_read_and_others_refused(tmp_path: Path) -> None:
    torch.save(caffe(), tmp_path / "caffe.pth")
    torch.save(torchvisions(caffe()), tmp_path / "torchvision.pth")
    assert classifier.load(str(tmp_path / "caffe.pth")).caffe
    assert not classifier.load(str(tmp_path / "torchvision.pth")).caffe

    other = caffe()
    del other["fire4.e3.bias"]
    torch.save(other, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name, words in {
        "other.pth": r"other\.pth holds no SqueezeNet v1\.0: its fire4\.e3\.bias is missing",
        "list.pth": "holds no state dict",
        "text.pth": "cannot be read as weights",
        "none.pth": "is no file: name one that holds SqueezeNet",
    }.items():
        with pytest.raises(BadWeights, match=words) as caught:
            classifier.load(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **named: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(BadWeights, match=r"cannot be fetched from https://.*: download it elsewhere") as caught:
        classifier.load("imagenet")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="no classifier's weights beside this checkout")
def test_it_knows_a_cat_and_a_cup_of_coffee() -> None:
    network = classifier.load(str(WEIGHTS))
    for picture, classes in ((data.chelsea(), {281, 282, 285}), (data.coffee(), {504, 967})):
        rgb = torch.from_numpy(picture.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255
        with torch.no_grad():
            assert int(network(rgb).logits.argmax()) in classes  # tabby, tiger cat, Egyptian cat; mug, espresso
