"""The convolutions that train faster give what torch's give: values, gradients, files."""

import copy
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from kinochrome_trainer import convolutions
from kinochrome_trainer.convolutions import AT_ONCE, WORTH_IT, Conv3x3, Narrow

MANY = WORTH_IT


def through(layer: nn.Conv2d, x: Tensor, towards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Its output, and the gradients of x and of its weights."""
    x = x.clone().requires_grad_()
    y = layer(x)
    of_x, of_weight = torch.autograd.grad(y, (x, layer.weight), towards)
    return y.detach(), of_x, of_weight


def plain(layer: nn.Conv2d) -> nn.Conv2d:
    """torch's own layer of the same weights, in double precision."""
    same = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
    )
    same.load_state_dict(layer.state_dict())
    return same.double()


def assert_same(layer: nn.Conv2d, x: Tensor) -> None:
    reference = plain(layer)
    towards = torch.randn(len(x), layer.out_channels, *x.shape[2:], generator=torch.Generator().manual_seed(2))
    found = through(layer, x, towards)
    wanted = through(reference, x.double(), towards.double())
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("shape", [(8, 8), (16, 12), (7, 10), (2, 5)])
def test_winograd_is_the_convolution(padding: Literal["zeros", "reflect"], shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = Conv3x3(MANY, MANY + 16, padding)
    x = torch.randn(3, MANY, *shape)
    assert_same(layer, x)
    assert_same(layer.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last))  # type: ignore[call-overload]


def test_more_pictures_than_are_transformed_at_once() -> None:
    torch.manual_seed(0)
    side = 64
    few = AT_ONCE // (MANY * side**2)
    assert few >= 1
    assert_same(Conv3x3(MANY, MANY, "reflect"), torch.randn(2 * few + 1, MANY, side, side))


def test_scratch_of_one_shape_does_not_leak_into_another() -> None:
    torch.manual_seed(0)
    layer = Conv3x3(MANY, MANY)
    for side in (16, 4, 12):
        assert_same(layer, torch.randn(2, MANY, side, side))


def test_it_is_taken_only_where_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []
    real = convolutions._Winograd.apply

    def noted(*given: object) -> Tensor:
        taken.append(given)
        y: Tensor = real(*given)
        return y

    monkeypatch.setattr(convolutions._Winograd, "apply", noted)
    layer, x = Conv3x3(MANY, MANY), torch.randn(1, MANY, 8, 8)
    layer(x)
    assert len(taken) == 1
    with torch.no_grad():
        layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    copy.deepcopy(layer).double()(x.double())
    Conv3x3(MANY - 1, MANY)(x[:, 1:])
    assert len(taken) == 1


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_narrow_is_the_convolution(padding: Literal["zeros", "reflect"]) -> None:
    torch.manual_seed(0)
    layer = Narrow(8, 3, 7, padding=3, padding_mode=padding)
    assert_same(layer, torch.randn(2, 8, 12, 16))
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, 2, 3]))  # type: ignore[union-attr]
        layer.weight.zero_()
    assert layer(torch.randn(1, 8, 4, 4))[0, :, 0, 0].tolist() == [1, 2, 3]
