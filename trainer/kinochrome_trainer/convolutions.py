"""Convolutions that train faster on a CPU than torch's, from the same weights.

`Conv3x3` multiplies less: Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", 2016, section 4.3) takes 36 multiplications where the sum has 144. `Narrow` wastes less: the CPU's
kernels compute output channels in sixteens, of which a picture has three.

Both are torch's own where that serves better: on other devices, at other precisions, where no gradient is wanted, and
when compiled or exported.
"""

import math
import threading
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

TILE, SEEN = 4, 6
"""Winograd's output tiles, and the input tiles that they see, are squares of these sides."""
WORTH_IT = 96
"""Channels from which on multiplications outweigh the transforms around them."""
AT_ONCE = 2**19
"""Numbers of features that are transformed together: with all that is made of them they fit into a core's cache."""
FOLD = 2
"""`Narrow` computes squares of this side at once."""

# Lavin and Gray (2016), section 4.3: a tile's output is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A. As matrices on flattened tiles, the
# two sides of each become one: kron(M, M).
_INPUT = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OUTPUT = torch.tensor([[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
INPUT, KERNEL, OUTPUT = (torch.kron(one, one).contiguous() for one in (_INPUT, _KERNEL, _OUTPUT))
"""(36, 36), (36, 9), (16, 36)"""


class _Scratch(threading.local):
    """Memory that is kept between calls: pages fresh from the kernel cost more than the arithmetic done in them."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A tensor with anything in it, valid until the same name is asked for again."""
        size = math.prod(shape)
        if name not in self._kept or len(self._kept[name]) < size:
            self._kept[name] = torch.empty(size)
        return self._kept[name][:size].view(shape)


_scratch = _Scratch()


@dataclass(frozen=True)
class _Tiling:
    """How pictures (N, H, W, C), padded by 1, lie in tiles. T is the number of tiles, of all pictures together."""

    height: int
    width: int
    reflect: bool

    @property
    def rows(self) -> int:
        return -(-self.height // TILE)

    @property
    def columns(self) -> int:
        return -(-self.width // TILE)

    def seen(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (36, T, C): what each tile sees, transformed. Valid until the next call."""
        count, height, width, channels = x.shape
        padded = _scratch("padded", count, self.rows * TILE + 2, self.columns * TILE + 2, channels)
        padded[:, 1 : height + 1, 1 : width + 1] = x
        if self.reflect:
            padded[:, 0], padded[:, height + 1] = padded[:, 2], padded[:, height - 1]
            padded[:, :, 0], padded[:, :, width + 1] = padded[:, :, 2], padded[:, :, width - 1]
        else:
            padded[:, 0], padded[:, height + 1], padded[:, :, 0], padded[:, :, width + 1] = 0, 0, 0, 0
        padded[:, height + 2 :], padded[:, :, width + 2 :] = 0, 0
        tiles = _scratch("tiles", SEEN, SEEN, count, self.rows, self.columns, channels)
        tiles.copy_(padded.unfold(1, SEEN, TILE).unfold(2, SEEN, TILE).permute(4, 5, 0, 1, 2, 3))
        seen = _scratch("seen", SEEN**2, tiles[0, 0].numel())
        return torch.mm(INPUT, tiles.view(SEEN**2, -1), out=seen).view(SEEN**2, -1, channels)

    def of_seen(self, gradient: Tensor, x: Tensor) -> None:
        """Write into x (N, H, W, C) the gradient that (36, T, C), one of `seen`, hands on to it."""
        count, height, width, channels = x.shape
        tiles = _scratch("tiles", SEEN**2, gradient[0].numel())
        torch.mm(INPUT.T, gradient.flatten(1), out=tiles)
        placed = tiles.view(SEEN, SEEN, count, self.rows, self.columns, channels).permute(2, 3, 0, 4, 1, 5)
        padded = _scratch("padded", count, self.rows + 1, TILE, self.columns + 1, TILE, channels)
        padded[:, -1], padded[:, :, :, -1] = 0, 0
        rest = SEEN - TILE  # by which tiles overlap
        padded[:, :-1, :, :-1] = placed[:, :, :TILE, :, :TILE]
        padded[:, 1:, :rest, :-1] += placed[:, :, TILE:, :, :TILE]
        padded[:, :-1, :, 1:, :rest] += placed[:, :, :TILE, :, TILE:]
        padded[:, 1:, :rest, 1:, :rest] += placed[:, :, TILE:, :, TILE:]
        padded = padded.view(count, (self.rows + 1) * TILE, (self.columns + 1) * TILE, channels)
        if self.reflect:
            padded[:, :, 2] += padded[:, :, 0]
            padded[:, :, width - 1] += padded[:, :, width + 1]
            padded[:, 2] += padded[:, 0]
            padded[:, height - 1] += padded[:, height + 1]
        x.copy_(padded[:, 1 : height + 1, 1 : width + 1])

    def put(self, product: Tensor, y: Tensor) -> None:
        """Write into y (N, H, W, C) what products (36, T, C) come to."""
        count, height, width, channels = y.shape
        tiles = _scratch("out", TILE**2, product[0].numel())
        torch.mm(OUTPUT, product.flatten(1), out=tiles)
        placed = tiles.view(TILE, TILE, count, self.rows, self.columns, channels).permute(2, 3, 0, 4, 1, 5)
        if (height, width) != (self.rows * TILE, self.columns * TILE):
            whole = placed.reshape(count, self.rows * TILE, self.columns * TILE, channels)
            y.copy_(whole[:, :height, :width])
        else:
            y.view(count, self.rows, TILE, self.columns, TILE, channels).copy_(placed)

    def of_put(self, gradient: Tensor) -> Tensor:
        """The gradient (36, T, C) of products, from that of what they come to (N, H, W, C). Valid until the next."""
        count, height, width, channels = gradient.shape
        if (height, width) != (self.rows * TILE, self.columns * TILE):
            gradient = F.pad(gradient, (0, 0, 0, self.columns * TILE - width, 0, self.rows * TILE - height))
        tiles = _scratch("out", TILE, TILE, count, self.rows, self.columns, channels)
        tiles.copy_(gradient.reshape(count, self.rows, TILE, self.columns, TILE, channels).permute(2, 4, 0, 1, 3, 5))
        product = _scratch("product", SEEN**2, tiles[0, 0].numel())
        return torch.mm(OUTPUT.T, tiles.view(TILE**2, -1), out=product).view(SEEN**2, -1, channels)


class _Winograd(torch.autograd.Function):
    """3x3 convolution of stride 1, padded by 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, reflect: bool) -> Tensor:
        outside, inside = weight.shape[:2]
        kernel = (KERNEL @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(SEEN**2, outside, inside)
        tiling = _Tiling(x.shape[2], x.shape[3], reflect)
        ctx.save_for_backward(x, kernel)  # not what tiles see, which is 2.25 times as large
        ctx.tiling = tiling
        x = x.permute(0, 2, 3, 1)
        y = x.new_empty(*x.shape[:3], outside)
        for part in _parts(x):
            seen = tiling.seen(x[part])
            product = _scratch("product", SEEN**2, seen.shape[1], outside)
            tiling.put(torch.bmm(seen, kernel.transpose(1, 2), out=product), y[part])
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, kernel = ctx.saved_tensors
        tiling: _Tiling = ctx.tiling
        x, gradient = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
        of_x = x.new_empty(x.shape) if ctx.needs_input_grad[0] else None
        of_kernel = _scratch("kernel", *kernel.shape) if ctx.needs_input_grad[1] else None
        for part in _parts(x):
            product = tiling.of_put(gradient[part])
            if of_kernel is not None:
                others = 0 if part.start == 0 else 1
                of_kernel.baddbmm_(product.transpose(1, 2), tiling.seen(x[part]), beta=others)
            if of_x is not None:
                seen = _scratch("seen", SEEN**2, product.shape[1], x.shape[3])
                tiling.of_seen(torch.bmm(product, kernel, out=seen), of_x[part])
        of_weight = None
        if of_kernel is not None:
            of_weight = (KERNEL.T @ of_kernel.flatten(1)).view(3, 3, *kernel.shape[1:]).permute(2, 3, 0, 1)
        return None if of_x is None else of_x.permute(0, 3, 1, 2), of_weight, None


def _parts(x: Tensor) -> list[slice]:
    """Pictures (N, H, W, C), a few at a time."""
    few = max(1, AT_ONCE // x[0].numel())
    return [slice(start, start + few) for start in range(0, len(x), few)]


def _trains_on_a_cpu(x: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype is torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.onnx.is_in_onnx_export()
    )


class Conv3x3(nn.Conv2d):
    """3x3 convolution of stride 1 without bias, padded by 1: by `padding_mode` zeros or reflect."""

    def __init__(self, inside: int, outside: int, padding_mode: Literal["zeros", "reflect"] = "zeros") -> None:
        super().__init__(inside, outside, 3, padding=1, bias=False, padding_mode=padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        if min(self.in_channels, self.out_channels) < WORTH_IT or not _trains_on_a_cpu(x):
            return super().forward(x)
        y: Tensor = _Winograd.apply(x, self.weight, self.padding_mode == "reflect")  # type: ignore[no-untyped-call]
        return y


class Narrow(nn.Conv2d):
    """Convolution of stride 1 to few channels, for heights and widths that are multiples of FOLD.

    Squares of FOLD x FOLD neighbours share one larger kernel of stride FOLD, with a copy of the weights for each of
    them: more multiplications, and fewer thrown away.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not _trains_on_a_cpu(x):
            return super().forward(x)
        copies = [
            F.pad(self.weight, (right, FOLD - 1 - right, down, FOLD - 1 - down))
            for down in range(FOLD)
            for right in range(FOLD)
        ]
        folded = torch.stack(copies, 1).flatten(0, 1)  # (outside * FOLD², inside, k + FOLD - 1, k + FOLD - 1)
        bias = None if self.bias is None else self.bias.repeat_interleave(FOLD**2)
        side = int(self.padding[0])
        padded = F.pad(x, (side,) * 4, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)
        return F.pixel_shuffle(F.conv2d(padded, folded, bias, stride=FOLD), FOLD)
