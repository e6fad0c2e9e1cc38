"""The generators, by name. Inside, each maps a picture (N, 1 or 3, H, W) in 0..1 to what its recipe says it paints.

Chroma is painted at (H/s, W/s), where `s` is the generator's `chroma_stride`: chroma needs no full resolution, and
that is where time goes. H and W must be multiples of its `size_multiple`.
"""

import itertools
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import recipe
from .colour import luma_of, rgb_to_ycbcr, ycbcr_to_rgb
from .convolutions import Conv3x3, Narrow
from .errors import BadRecipe
from .layers import Block, Residual, norm


class Generator(nn.Module, ABC):
    """Base of all generators; a subclass sets `size_multiple` and defines `forward`."""

    chroma_stride: ClassVar[int]
    """How many luma lines share one line of chroma."""
    size_multiple: int
    """Height and width of the luma must be multiples of this."""

    def __init__(self, settings: recipe.Generator) -> None:
        super().__init__()
        self.paints_pictures = settings.paints == "picture"
        self.noise_length = settings.noise
        # Pictures are read as pictures too: gray comes as three equal channels, and G(colour) has a meaning.
        self.inside, self.outside = (3, 3) if self.paints_pictures else (1, 2)

    @abstractmethod
    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """(N, inside, H, W) in -1..1, noise (N, noise_length) -> (N, outside, H/s, W/s) in -1..1."""

    def paint(self, luma: Tensor, noise: Tensor | None = None) -> Tensor:
        """Luma (N, 1, H, W) in 0..1 -> chroma (N, 2, H/s, W/s) in -0.5..0.5.

        noise: (N, noise_length), standard normal, chooses the colouring; without it, the one of zero noise.
        """
        out = self._run(luma.expand(-1, self.inside, -1, -1), noise)
        return rgb_to_ycbcr(0.5 + 0.5 * out)[1] if self.paints_pictures else 0.5 * out

    def picture(self, rgb: Tensor, noise: Tensor | None = None) -> Tensor:
        """R'G'B' (N, 3, H, W), gray or not, in 0..1 -> R'G'B' (N, 3, H, W).

        Painting chroma, the luma is kept, and results may lie outside 0..1: clipped, they would have no gradient.
        """
        if self.paints_pictures:
            return 0.5 + 0.5 * self._run(rgb, noise)
        luma = luma_of(rgb)
        chroma = self.paint(luma, noise)
        if self.chroma_stride > 1:
            chroma = F.interpolate(chroma, scale_factor=float(self.chroma_stride), mode="bilinear")
        return ycbcr_to_rgb(luma, chroma, clip=False)

    def _run(self, x: Tensor, noise: Tensor | None) -> Tensor:
        if noise is None and self.noise_length:
            noise = x.new_zeros(len(x), self.noise_length)
        out: Tensor = self(2 * x - 1, noise)
        return out.float()


class LightUNet(Generator):
    """A U-Net whose stem and output work at a quarter of the input: for colour in real time on a CPU.

    The stem folds 4x4 pixels into channels (space to depth), so no detail of the luma is lost on the way in.
    A global term (mean of the deepest features) tells every place what scene it is in.
    """

    chroma_stride = 4

    def __init__(self, settings: recipe.Generator) -> None:
        super().__init__(settings)
        if self.paints_pictures:
            raise BadRecipe(
                "generator light-unet paints chroma at a quarter of the size: a picture needs resnet or unet"
            )

        def conv(inside: int, outside: int, kernel: int = 3, stride: int = 1, *, activated: bool = True) -> Block:
            if (kernel, stride) == (3, 1):
                convolution: nn.Conv2d = Conv3x3(inside, outside)
            else:
                convolution = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
            normed = norm(settings.norm, outside, settings.noise)
            return Block(convolution, normed, nn.ReLU() if activated else None)

        def residual(channels: int) -> Residual:
            second = conv(channels, channels, activated=False)
            if isinstance(second.norm, nn.BatchNorm2d):
                nn.init.zeros_(second.norm.weight)  # begins as if it were not there (Goyal et al., 2017, section 5.1)
            return Residual(conv(channels, channels), second)

        width, depth = settings.width, settings.depth
        self.size_multiple = 4 * 2**depth
        channels = [width * min(2**level, 8) for level in range(depth + 1)]
        self.stem = conv(16, width)
        self.encode = nn.ModuleList(conv(c, c) for c in channels)
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in itertools.pairwise(channels))
        self.bottom = nn.ModuleList(residual(channels[-1]) for _ in range(settings.bottom))
        self.scene = nn.Linear(channels[-1], channels[-1])
        self.narrow = nn.ModuleList(conv(b, a, kernel=1) for a, b in itertools.pairwise(channels))
        self.merge = nn.ModuleList(conv(2 * c, c) for c in channels[:-1])
        self.decode = nn.ModuleList(conv(c, c) for c in channels[:-1])
        self.dropout = nn.Dropout2d(settings.dropout)
        self.head = nn.Conv2d(width, self.outside, 3, padding=1)
        nn.init.normal_(self.head.weight, std=1e-3)

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        x = self.stem(F.pixel_unshuffle(x, 4), noise)  # (N, 1, H, W) -> (N, width, H/4, W/4)
        skips = []
        for encode, down in zip(self.encode, self.down, strict=False):
            skips.append(encode(x, noise))
            x = down(skips[-1], noise)
        x = self.encode[-1](x, noise)
        for block in self.bottom:
            x = block(x, noise)
        x = x + self.scene(x.mean((2, 3)))[:, :, None, None]
        x = self.dropout(x)
        levels = zip(reversed(self.narrow), reversed(self.merge), reversed(self.decode), reversed(skips), strict=True)
        for narrow, merge, decode, skip in levels:
            x = F.interpolate(narrow(x, noise), scale_factor=2.0, mode="bilinear")
            x = decode(merge(torch.cat((x, skip), 1), noise), noise)
        return torch.tanh(self.head(x))  # (N, 2, H/4, W/4)


class UNet(Generator):
    """The U-Net of pix2pix (Isola et al., 2017, section 6.1.1): 4x4 convolutions of stride 2, skips at every level."""

    chroma_stride = 1

    def __init__(self, settings: recipe.Generator) -> None:
        super().__init__(settings)
        width, depth = settings.width, settings.depth
        if depth < 2:
            raise BadRecipe(f"generator unet needs a depth of at least 2, not {depth}")
        self.size_multiple = 2**depth
        channels = [width * min(2**level, 8) for level in range(depth)]
        self.down = nn.ModuleList([Block(nn.Conv2d(self.inside, width, 4, 2, 1))])
        self.up = nn.ModuleList()
        for level in range(1, depth):
            deepest = level == depth - 1
            convolution = nn.Conv2d(channels[level - 1], channels[level], 4, 2, 1, bias=deepest)
            # No norm at the bottom: for one picture of the smallest size it would see a single value.
            normed = None if deepest else norm(settings.norm, channels[level], settings.noise)
            self.down.append(Block(nn.Sequential(nn.LeakyReLU(0.2), convolution), normed))
        for level in reversed(range(1, depth)):
            inside, outside = channels[level] * (1 if level == depth - 1 else 2), channels[level - 1]
            up = nn.ConvTranspose2d(inside, outside, 4, 2, 1, bias=False)
            dropout = nn.Dropout(settings.dropout if level > depth - 4 else 0.0)
            normed = norm(settings.norm, outside, settings.noise)
            self.up.append(Block(nn.Sequential(nn.ReLU(), up), normed, dropout))
        self.head = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(2 * width, self.outside, 4, 2, 1), nn.Tanh())

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        skips = []
        for down in self.down:
            x = down(x, noise)
            skips.append(x)
        skips.pop()
        for up in self.up:
            x = torch.cat((up(x, noise), skips.pop()), 1)
        out: Tensor = self.head(x)  # (N, outside, H, W)
        return out


class ResNet(Generator):
    """CycleGAN's generator (Johnson et al., 2016; Zhu et al., 2017, appendix 7.2): three convolutions down, N residual
    blocks, two convolutions up and an output layer, all padded by reflection."""

    chroma_stride = 1
    size_multiple = 4

    def __init__(self, settings: recipe.Generator) -> None:
        super().__init__(settings)

        def conv(inside: int, outside: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
            if (kernel, stride) == (3, 1):
                return Conv3x3(inside, outside, padding_mode="reflect")
            return nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False, padding_mode="reflect")

        def block(convolution: nn.Module, channels: int, activation: nn.Module | None) -> Block:
            return Block(convolution, norm(settings.norm, channels, settings.noise), activation)

        def up(inside: int, outside: int) -> nn.Module:
            if settings.upsample == "transposed":
                return nn.ConvTranspose2d(inside, outside, 3, 2, 1, output_padding=1, bias=False)
            return nn.Sequential(nn.Upsample(scale_factor=2.0), conv(inside, outside))

        w = settings.width
        # Batch norm leaves the first layer out (Mahajan, 2022); the other norms do not.
        first = conv(self.inside, w, 7)
        body: list[nn.Module] = [
            Block(first, None, nn.ReLU()) if settings.norm == "batch" else block(first, w, nn.ReLU()),
            block(conv(w, 2 * w, 3, 2), 2 * w, nn.ReLU()),
            block(conv(2 * w, 4 * w, 3, 2), 4 * w, nn.ReLU()),
        ]
        for _ in range(settings.blocks):
            inner = block(conv(4 * w, 4 * w), 4 * w, nn.ReLU())
            body.append(Residual(inner, block(conv(4 * w, 4 * w), 4 * w, None)))
        body += [block(up(4 * w, 2 * w), 2 * w, nn.ReLU()), block(up(2 * w, w), w, nn.ReLU())]
        self.body = nn.ModuleList(body)
        self.head = Narrow(w, self.outside, 7, padding=3, padding_mode="reflect")

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        for part in self.body:
            x = part(x, noise)
        return torch.tanh(self.head(x))  # (N, outside, H, W)


GENERATORS: dict[str, type[Generator]] = {"light-unet": LightUNet, "unet": UNet, "resnet": ResNet}


def generator(settings: recipe.Generator) -> Generator:
    """Build the generator that a recipe names. Raises BadRecipe for a name that is not in GENERATORS."""
    if settings.name not in GENERATORS:
        raise BadRecipe(f"no generator {settings.name!r}; choose from {', '.join(GENERATORS)}")
    return GENERATORS[settings.name](settings)


class StyleEncoder(nn.Module):
    """Reads the noise back from a painted picture, for latent regression: R'G'B' (N, 3, H, W) -> (N, length)."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = []
        for inside, outside in itertools.pairwise(channels):
            layers += [nn.Conv2d(inside, outside, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels[-1], length)

    def forward(self, rgb: Tensor) -> Tensor:
        noise: Tensor = self.head(self.layers(2 * rgb - 1).mean((2, 3)))
        return noise.float()
