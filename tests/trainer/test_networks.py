"""Generators by name: shapes, ranges, and what their docstrings promise."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from kinochrome_trainer import networks, recipe
from kinochrome_trainer.colour import luma_of


def settings(name: str, paints: str = "chroma", norm: str = "batch") -> recipe.Generator:
    return recipe.Generator(
        name=name,
        paints=paints,
        width=8,
        depth=4 if name == "unet" else 2,
        blocks=2,
        norm=norm,
        noise=4 if norm == "conditional" else 0,
    )


PAINTING = [(name, "chroma") for name in networks.GENERATORS] + [("unet", "picture"), ("resnet", "picture")]
NORMS = ("batch", "instance", "conditional")


@pytest.mark.parametrize(("name", "paints"), PAINTING)
@pytest.mark.parametrize("norm", NORMS)
def test_a_generator_gives_chroma_of_its_stride(name: str, paints: str, norm: str) -> None:
    generator = networks.generator(settings(name, paints, norm)).eval()
    multiple, stride = generator.size_multiple, generator.chroma_stride
    for rows, columns in ((2, 2), (2, 3), (4, 2)):
        luma = torch.rand(2, 1, rows * multiple, columns * multiple)
        noise = torch.randn(2, generator.noise_length) if generator.noise_length else None
        chroma = generator.paint(luma, noise)
        assert chroma.shape == (2, 2, rows * multiple // stride, columns * multiple // stride)
        assert chroma.abs().max() <= 0.5
        rgb = generator.picture(luma.expand(-1, 3, -1, -1), noise)
        assert rgb.shape == (2, 3, rows * multiple, columns * multiple)
        if paints == "chroma":
            assert torch.allclose(luma_of(rgb), luma, atol=1e-5)


@pytest.mark.parametrize(("name", "paints"), PAINTING)
@pytest.mark.parametrize("norm", NORMS)
def test_every_weight_learns(name: str, paints: str, norm: str) -> None:
    torch.manual_seed(0)
    generator = networks.generator(settings(name, paints, norm)).train()
    side = generator.size_multiple * 2
    noise = torch.randn(3, generator.noise_length)
    generator.picture(torch.rand(3, 3, side, side), noise).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in generator.parameters())


@pytest.mark.parametrize("name", networks.GENERATORS)
def test_noise_chooses_the_colouring(name: str) -> None:
    torch.manual_seed(0)
    generator = networks.generator(settings(name, norm="conditional")).eval()
    side = generator.size_multiple * 2
    luma = torch.rand(1, 1, side, side)
    one, other = (generator.paint(luma, torch.randn(1, 4)) for _ in range(2))
    assert not torch.equal(one, other)
    assert torch.equal(generator.paint(luma), generator.paint(luma, torch.zeros(1, 4)))


@pytest.mark.parametrize("norm", ["instance", "conditional"])
def test_pictures_of_a_batch_do_not_depend_on_each_other_without_batch_norm(norm: str) -> None:
    generator = networks.generator(settings("resnet", norm=norm)).train()
    luma, noise = torch.rand(3, 1, 16, 16), torch.randn(3, generator.noise_length)
    together, alone = generator.paint(luma, noise), generator.paint(luma[1:2], noise[1:2])
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_instance_norm_is_torchs() -> None:
    from kinochrome_trainer.layers import InstanceNorm

    x = torch.randn(2, 5, 7, 6) * 3 + 1
    weights = torch.randn(2, 5, 7, 6)
    for layout in (torch.contiguous_format, torch.channels_last):
        ours, theirs = (x.clone(memory_format=layout).requires_grad_() for _ in range(2))
        one, other = InstanceNorm()(ours, None), nn.InstanceNorm2d(5)(theirs)
        (one * weights).sum().backward()
        (other * weights).sum().backward()
        assert torch.allclose(one, other, atol=1e-5)
        assert ours.grad is not None and theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)
        with torch.no_grad():
            assert torch.allclose(InstanceNorm()(x, None), one, atol=1e-5)


@pytest.mark.parametrize("blocks", [3, 6, 9])
def test_the_resnet_is_that_of_cyclegan(blocks: int) -> None:
    """3 convolutions down, N blocks of 2, 2 up, an output layer; 11.4 M weights with nine blocks."""
    generator = networks.generator(
        recipe.Generator(name="resnet", paints="picture", width=64, blocks=blocks, norm="instance")
    )
    convolutions = [module for module in generator.modules() if isinstance(module, nn.Conv2d)]
    transposed = [module for module in generator.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert (len(convolutions), len(transposed)) == (3 + 2 * blocks + 1, 2)
    assert all(module.padding_mode == "reflect" for module in convolutions)
    if blocks == 9:
        assert sum(parameter.numel() for parameter in generator.parameters()) == pytest.approx(11.4e6, rel=0.01)


def test_a_resize_convolution_paints_the_same_shape() -> None:
    chosen = replace(settings("resnet", "picture", "instance"), upsample="resize")
    generator = networks.generator(chosen)
    assert not any(isinstance(module, nn.ConvTranspose2d) for module in generator.modules())
    assert generator.paint(torch.rand(1, 1, 20, 24)).shape == (1, 2, 20, 24)


@pytest.mark.parametrize("name", ["unet", "resnet"])
def test_batch_norm_is_in_neither_the_first_nor_the_last_layer(name: str) -> None:
    generator = networks.generator(settings(name, "picture", "batch"))
    kinds = [type(module) for module in generator.modules() if not list(module.children())]
    from kinochrome_trainer.layers import BatchNorm

    first = next(index for index, kind in enumerate(kinds) if issubclass(kind, nn.Conv2d))
    assert not issubclass(kinds[first + 1], BatchNorm)
    last = max(index for index, kind in enumerate(kinds) if issubclass(kind, nn.Conv2d | nn.ConvTranspose2d))
    assert not any(issubclass(kind, BatchNorm) for kind in kinds[last:])
    assert sum(issubclass(kind, BatchNorm) for kind in kinds) > 3


def test_the_default_generator_fits_its_budget() -> None:
    generator = networks.generator(recipe.load("default").generator)
    assert sum(parameter.numel() for parameter in generator.parameters()) < 4.5e6


def test_the_style_encoder_reads_a_noise() -> None:
    assert networks.StyleEncoder(8, 5)(torch.rand(3, 3, 32, 48)).shape == (3, 5)
