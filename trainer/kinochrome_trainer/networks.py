"""The networks, by name. A generator maps luma (N, 1, H, W) in 0..1 to chroma (N, 2, H/s, W/s) in -0.5..0.5.

`s` is the generator's `chroma_stride`: chroma needs no full resolution, and that is where time goes.
H and W must be multiples of its `size_multiple`.
"""

import itertools
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import recipe
from .errors import BadRecipe


def conv(inside: int, outside: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU. Batch norm, not instance norm: at inference it is a constant, so a large
    object that enters the frame does not shift the colours of everything else."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class Generator(nn.Module):
    """Base of all generators."""

    chroma_stride: ClassVar[int]
    """How many luma lines share one line of chroma."""
    size_multiple: int
    """Height and width of the luma must be multiples of this."""


class LightUNet(Generator):
    """A U-Net whose stem and output work at a quarter of the input: for colour in real time on a CPU.

    The stem folds 4x4 pixels into channels (space to depth), so no detail of the luma is lost on the way in.
    A global term (mean of the deepest features) tells every place what scene it is in.
    """

    chroma_stride = 4

    def __init__(self, settings: recipe.Generator) -> None:
        super().__init__()
        width, depth = settings.width, settings.depth
        self.size_multiple = 4 * 2**depth
        channels = [width * min(2**level, 8) for level in range(depth + 1)]
        self.stem = conv(16, width)
        self.encode = nn.ModuleList(conv(c, c) for c in channels)
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in itertools.pairwise(channels))
        self.scene = nn.Linear(channels[-1], channels[-1])
        self.narrow = nn.ModuleList(conv(b, a, kernel=1) for a, b in itertools.pairwise(channels))
        self.decode = nn.ModuleList(nn.Sequential(conv(2 * c, c), conv(c, c)) for c in channels[:-1])
        self.dropout = nn.Dropout2d(settings.dropout)
        self.head = nn.Conv2d(width, 2, 3, padding=1)
        nn.init.normal_(self.head.weight, std=1e-3)

    def forward(self, luma: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle(luma, 4))  # (N, 1, H, W) -> (N, width, H/4, W/4)
        skips = []
        for encode, down in zip(self.encode, self.down, strict=False):
            skips.append(encode(x))
            x = down(skips[-1])
        x = self.encode[-1](x)
        x = x + self.scene(x.mean((2, 3)))[:, :, None, None]
        x = self.dropout(x)
        for narrow, decode, skip in zip(reversed(self.narrow), reversed(self.decode), reversed(skips), strict=True):
            x = F.interpolate(narrow(x), scale_factor=2.0, mode="bilinear")
            x = decode(torch.cat((x, skip), 1))
        return 0.5 * torch.tanh(self.head(x))  # (N, 2, H/4, W/4)


class UNet(Generator):
    """The U-Net of pix2pix (Isola et al., 2017, section 6.1.1): 4x4 convolutions of stride 2, skips at every level."""

    chroma_stride = 1

    def __init__(self, settings: recipe.Generator) -> None:
        super().__init__()
        width, depth = settings.width, settings.depth
        self.size_multiple = 2**depth
        channels = [width * min(2**level, 8) for level in range(depth)]
        self.down = nn.ModuleList([nn.Conv2d(1, width, 4, 2, 1)])
        self.up = nn.ModuleList()
        for level in range(1, depth):
            deepest = level == depth - 1
            layers: list[nn.Module] = [
                nn.LeakyReLU(0.2),
                nn.Conv2d(channels[level - 1], channels[level], 4, 2, 1, bias=deepest),
            ]
            # No norm at the bottom: for one picture of the smallest size it would see a single value.
            self.down.append(nn.Sequential(*layers, *([] if deepest else [nn.BatchNorm2d(channels[level])])))
        for level in reversed(range(1, depth)):
            inside = channels[level] * (1 if level == depth - 1 else 2)
            self.up.append(
                nn.Sequential(
                    nn.ReLU(),
                    nn.ConvTranspose2d(inside, channels[level - 1], 4, 2, 1, bias=False),
                    nn.BatchNorm2d(channels[level - 1]),
                    nn.Dropout(settings.dropout if level > depth - 4 else 0.0),
                )
            )
        self.head = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(2 * width, 2, 4, 2, 1), nn.Tanh())

    def forward(self, luma: Tensor) -> Tensor:
        x = luma * 2 - 1
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        skips.pop()
        for up in self.up:
            x = torch.cat((up(x), skips.pop()), 1)
        chroma: Tensor = 0.5 * self.head(x)  # (N, 2, H, W)
        return chroma


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al., 2017): one score per patch for (gray, chroma) on the chroma grid.

    Gray comes folded to the chroma grid by space to depth, so a generator of stride 4 is judged on a
    sixteenth of the places; with stride 1 this is the usual form.
    """

    CHROMA_GAIN = 4.0  # chroma of photographs rarely passes ±0.2: this brings it to the scale of gray

    def __init__(self, settings: recipe.Discriminator, chroma_stride: int) -> None:
        super().__init__()
        self.chroma_stride = chroma_stride
        inside, outside = chroma_stride**2 + 2, settings.width
        layers: list[nn.Module] = [nn.Conv2d(inside, outside, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(1, settings.layers + 1):
            inside, outside = outside, settings.width * min(2**level, 8)
            stride = 2 if level < settings.layers else 1
            layers += [
                nn.Conv2d(inside, outside, 4, stride, 1, bias=False),
                nn.InstanceNorm2d(outside, affine=True),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(outside, 1, 4, 1, 1))

    def forward(self, gray: Tensor, chroma: Tensor) -> Tensor:
        folded = F.pixel_unshuffle(gray, self.chroma_stride)  # (N, 1, H, W) -> (N, s*s, H/s, W/s)
        scores: Tensor = self.layers(torch.cat((folded - 0.5, chroma * self.CHROMA_GAIN), 1))
        return scores


GENERATORS: dict[str, type[LightUNet] | type[UNet]] = {"light-unet": LightUNet, "unet": UNet}


def generator(settings: recipe.Generator) -> Generator:
    """Build the generator that a recipe names. Raises BadRecipe for a name that is not in GENERATORS."""
    if settings.name not in GENERATORS:
        raise BadRecipe(f"no generator {settings.name!r}; choose from {', '.join(GENERATORS)}")
    return GENERATORS[settings.name](settings)
