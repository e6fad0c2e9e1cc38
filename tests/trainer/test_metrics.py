"""Figures against independent implementations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import color
from skimage import metrics as reference

from kinochrome_trainer import metrics, networks, recipe
from kinochrome_trainer.colour import rgb_to_ycbcr
from kinochrome_trainer.stills import Stills
from tests.trainer import pictures


def test_figures_are_those_of_scikit_image() -> None:
    chance = torch.Generator().manual_seed(0)
    truth, painted = torch.rand(1, 3, 20, 30, generator=chance), torch.rand(1, 3, 20, 30, generator=chance)
    ours = metrics.figures(painted, truth)
    a, b = (picture[0].permute(1, 2, 0).double().numpy() for picture in (painted, truth))
    assert ours.psnr == pytest.approx(reference.peak_signal_noise_ratio(b, a, data_range=1), abs=1e-3)
    assert ours.delta_e76 == pytest.approx(color.deltaE_cie76(color.rgb2lab(a), color.rgb2lab(b)).mean(), abs=0.02)
    ab = color.rgb2lab(a)[..., 1:] - color.rgb2lab(b)[..., 1:]
    assert ours.ab_error == pytest.approx(np.linalg.norm(ab, axis=-1).mean(), abs=0.02)


def test_colourfulness_is_the_original_signed_form() -> None:
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 1  # rg = 255 and yb = 127.5 everywhere: no spread, only means
    assert metrics.colourfulness(red).item() == pytest.approx(0.3 * (255**2 + 127.5**2) ** 0.5, rel=1e-4)
    assert metrics.colourfulness(torch.full((1, 3, 4, 4), 0.3)).item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("shape", "expected"), [((256, 341), (160, 224)), ((341, 256), (224, 160)), ((10, 10), (160, 160))]
)
def test_the_working_shape_keeps_the_pictures(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert metrics.working_shape(*shape, 160, 32) == expected


def test_evaluation_compares_with_painting_nothing(tmp_path: Path) -> None:
    stills = Stills([pictures.make(tmp_path / "stills", 3)])
    generator = networks.generator(recipe.Generator(width=8, depth=2)).eval()
    for parameter in generator.parameters():
        torch.nn.init.zeros_(parameter)  # a generator that paints nothing is as good as gray, exactly
    seen: list[int] = []
    result = metrics.evaluate(generator, stills, 32, seen.append)
    assert result.stills == 3 and seen == [1, 2, 3]
    assert result.ours.ab_error == pytest.approx(result.gray.ab_error, abs=1e-4)
    assert result.gray.colourfulness == pytest.approx(0, abs=0.01)
    rgb = next(metrics.pictures(stills))
    assert result.truth_colourfulness > 20 and rgb_to_ycbcr(rgb)[0].shape == (1, 1, 40, 48)
