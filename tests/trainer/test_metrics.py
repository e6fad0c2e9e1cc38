"""Figures of a picture against independent implementations, and against cases worked out by hand."""

import numpy as np
import pytest
import torch
from skimage import color
from skimage import metrics as reference
from torch import Tensor

from kinochrome_trainer import metrics
from kinochrome_trainer.colour import rgb_to_ycbcr, ycbcr_to_rgb
from tests.trainer.painters import OneColour


def random(count: int, height: int = 20, width: int = 30, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_figures_are_those_of_scikit_image() -> None:
    truth, versions = random(1), (0.6 * random(2, seed=1) + 0.4 * random(1)).clamp(0, 1)
    for painted, ours in zip(versions, metrics.figures(versions, truth), strict=True):
        a, b = (picture.permute(1, 2, 0).double().numpy() for picture in (painted, truth[0]))
        assert ours.psnr == pytest.approx(reference.peak_signal_noise_ratio(b, a, data_range=1), abs=1e-3)
        similar = reference.structural_similarity(
            b, a, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert ours.ssim == pytest.approx(similar, abs=1e-4)
        lab_a, lab_b = color.rgb2lab(a), color.rgb2lab(b)
        assert ours.delta_e76 == pytest.approx(color.deltaE_cie76(lab_a, lab_b).mean(), abs=0.02)
        assert ours.delta_e2000 == pytest.approx(color.deltaE_ciede2000(lab_b, lab_a).mean(), abs=0.02)
        assert ours.ab_error == pytest.approx(np.linalg.norm(lab_a[..., 1:] - lab_b[..., 1:], axis=-1).mean(), abs=0.02)
        assert ours.mae == pytest.approx(255 * np.abs(a - b).mean(), rel=1e-5)
        assert ours.rmse == pytest.approx(255 * np.sqrt(((a - b) ** 2).mean()), rel=1e-5)


def test_a_known_difference_gives_the_figures_worked_out_by_hand() -> None:
    truth = torch.full((1, 3, 16, 16), 0.5)
    painted = truth.clone()
    painted[:, 0, :8] += 0.1  # red, in the upper half
    (found,) = metrics.figures(painted, truth, threshold=0.08)
    assert found.mae == pytest.approx(25.5 / 6, rel=1e-4)
    assert found.rmse == pytest.approx(25.5 / 6**0.5, rel=1e-4)
    assert found.within == pytest.approx(0.5)
    assert metrics.figures(painted, truth, threshold=0.101)[0].within == 1
    # of values in -1..1, 0.1 is 0.2: half of the pixels, one channel
    assert found.sum_at_128 == pytest.approx(0.2 * 128 * 128 / 2, rel=1e-3)
    assert found.squeezenet_distance is None and found.recognition is None and found.diversity is None


def test_a_pixel_counts_as_right_only_with_all_its_channels() -> None:
    truth = torch.full((1, 3, 16, 16), 0.5)
    painted = truth.clone()
    painted[:, 2, :, 4:] += 0.2
    assert metrics.figures(painted, truth)[0].within == pytest.approx(0.25)


def test_the_truth_itself_has_no_errors() -> None:
    truth = random(1)
    (found,) = metrics.figures(truth, truth)
    assert found.mae == found.rmse == found.ab_error == found.delta_e2000 == found.sum_at_128 == 0
    assert found.psnr == pytest.approx(100) and found.ssim == pytest.approx(1) and found.within == 1


def test_colourfulness_is_the_original_signed_form() -> None:
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 1  # rg = 255 and yb = 127.5 everywhere: no spread, only means
    assert metrics.colourfulness(red).item() == pytest.approx(0.3 * (255**2 + 127.5**2) ** 0.5, rel=1e-4)
    assert metrics.colourfulness(torch.full((1, 3, 4, 4), 0.3)).item() == pytest.approx(0, abs=1e-3)


def test_diversity_is_the_mean_over_pairs() -> None:
    levels = torch.tensor([0.0, 0.1, 0.4]).view(3, 1, 1, 1).expand(-1, 3, 4, 4)
    assert metrics.diversity(levels) == pytest.approx(255 * (0.1 + 0.4 + 0.3) / 3, rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "expected"), [((256, 341), (160, 224)), ((341, 256), (224, 160)), ((10, 10), (160, 160))]
)
def test_the_working_shape_keeps_the_pictures(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert metrics.working_shape(*shape, 160, 32) == expected


def test_painting_brings_luma_to_the_working_shape_and_chroma_back() -> None:
    luma, _ = rgb_to_ycbcr(random(2, 37, 50))
    chroma = metrics.paint(OneColour((0.1, -0.2)), luma, 32)
    assert chroma.shape == (2, 2, 37, 50)
    assert torch.allclose(chroma, torch.tensor((0.1, -0.2)).view(1, 2, 1, 1))
    assert ycbcr_to_rgb(luma, chroma).shape == (2, 3, 37, 50)


def test_noise_is_that_with_which_films_are_coloured() -> None:
    engines = np.random.Generator(np.random.PCG64(3)).standard_normal((1, 8), np.float32)
    drawn = metrics.noise(OneColour(noise_length=8), 3)
    assert drawn is not None and np.array_equal(drawn.numpy(), engines)
    assert metrics.noise(OneColour(), 3) is None
    luma = torch.full((3, 1, 16, 16), 0.5)
    assert metrics.paint(OneColour(noise_length=8), luma, 16, drawn).shape == (3, 2, 16, 16)  # one noise for all
