"""Networks by name: shapes, ranges, and what their docstrings promise."""

import pytest
import torch

from kinochrome_trainer import networks, recipe


def settings(name: str) -> recipe.Generator:
    return recipe.Generator(name=name, width=8, depth=4 if name == "unet" else 2)


@pytest.mark.parametrize("name", networks.GENERATORS)
def test_a_generator_gives_chroma_of_its_stride(name: str) -> None:
    generator = networks.generator(settings(name)).eval()
    multiple, stride = generator.size_multiple, generator.chroma_stride
    for rows, columns in ((1, 1), (2, 3), (4, 2)):
        luma = torch.rand(2, 1, rows * multiple, columns * multiple)
        chroma = generator(luma)
        assert chroma.shape == (2, 2, rows * multiple // stride, columns * multiple // stride)
        assert chroma.abs().max() <= 0.5


@pytest.mark.parametrize("name", networks.GENERATORS)
def test_every_weight_learns(name: str) -> None:
    torch.manual_seed(0)
    generator = networks.generator(settings(name)).train()
    side = generator.size_multiple * 2
    generator(torch.rand(3, 1, side, side)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in generator.parameters())


def test_the_default_generator_fits_its_budget() -> None:
    generator = networks.generator(recipe.load("default").generator)
    assert sum(parameter.numel() for parameter in generator.parameters()) < 4.5e6


@pytest.mark.parametrize(("stride", "side"), [(1, 128), (4, 256)])
def test_the_discriminator_judges_patches(stride: int, side: int) -> None:
    judge = networks.PatchDiscriminator(recipe.Discriminator(width=8), stride)
    scores = judge(torch.rand(2, 1, side, side), torch.rand(2, 2, side // stride, side // stride))
    assert scores.shape[:2] == (2, 1)
    assert scores.shape[2] > 1


def test_the_patch_of_three_layers_is_70_pixels_wide() -> None:
    """Isola et al., 2017: the 70x70 PatchGAN."""
    judge = networks.PatchDiscriminator(recipe.Discriminator(width=8), 1)
    for module in judge.modules():  # instance norm looks at the whole picture: not part of a patch
        if isinstance(module, torch.nn.InstanceNorm2d):
            module.forward = lambda input: input  # type: ignore[method-assign]
    chroma = torch.zeros(1, 2, 256, 256, requires_grad=True)
    scores = judge(torch.zeros(1, 1, 256, 256), chroma)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    assert chroma.grad is not None
    seen = chroma.grad[0].abs().sum(0).sum(0).nonzero()
    assert (seen.max() - seen.min() + 1).item() == 70
