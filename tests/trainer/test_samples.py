"""Sample sheets: what each panel shows."""

import numpy as np
import torch

from kinochrome_trainer import networks, recipe, samples
from kinochrome_trainer.colour import luma_of


def generator(**settings: object) -> networks.Generator:
    chosen = recipe.Generator(name="resnet", paints="picture", width=8, blocks=1, norm="instance", **settings)  # type: ignore[arg-type]
    return networks.generator(chosen).eval()


def panels(page: np.ndarray, height: int) -> list[np.ndarray]:
    """The first row's square panels."""
    return [page[:height, left : left + height] for left in range(0, page.shape[1], height)]


def test_a_row_is_gray_ours_truth() -> None:
    still = torch.rand(1, 3, 40, 40)
    page = np.asarray(samples.sheet(generator(), [still], [still], lines=32, height=40))
    assert page.shape == (80, 120, 3)
    gray, ours, truth = panels(page, 40)
    assert np.array_equal(gray[..., 0], gray[..., 2])
    assert np.abs(truth.astype(float) / 255 - still[0].permute(1, 2, 0).numpy()).max() < 0.005
    luma = luma_of(torch.from_numpy(ours.copy()).permute(2, 0, 1).unsqueeze(0) / 255)
    assert (luma - luma_of(still)).abs().mean() < 0.05  # clipped here and there


def test_translated_rows_keep_their_colours_and_show_the_whole_picture() -> None:
    still, network = torch.rand(1, 3, 40, 40), generator()
    page = np.asarray(samples.sheet(network, [], [still], lines=40, height=40, translate=True))
    assert page.shape == (40, 80, 3)
    given, made = panels(page, 40)
    assert np.abs(given.astype(float) / 255 - still[0].permute(1, 2, 0).numpy()).max() < 0.005
    with torch.no_grad():
        expected = network.picture(still)[0].permute(1, 2, 0).numpy()
    assert np.abs(made.astype(float) / 255 - expected).max() < 0.005


def test_very_wide_stills_make_no_sheet_that_jpeg_cannot_hold() -> None:
    page = samples.sheet(generator(), [torch.rand(1, 3, 8, 1600)], [], lines=16, height=40)
    assert page.size == (3 * 3 * 40, 40)
