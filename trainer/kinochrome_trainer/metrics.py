"""How good colours are, by picture, and against painting nothing.

Every figure is taken on R'G'B' made from the still's own luma and the chroma under test.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .colour import rgb_to_lab, rgb_to_ycbcr, ycbcr_to_rgb
from .networks import Generator
from .stills import Stills, to_tensor


@dataclass(frozen=True)
class Figures:
    """Means over a set of stills."""

    ab_error: float
    """Mean of √((a−a')² + (b−b')²) in CIE Lab units: lower is better."""
    psnr: float
    """Mean of the pictures' PSNR over R'G'B', in dB."""
    delta_e76: float
    """Mean CIE 1976 colour difference ΔE*ab."""
    colourfulness: float
    """Hasler and Süsstrunk (2003): √(σ²rg + σ²yb) + 0.3·√(μ²rg + μ²yb), 8-bit values, signed means (original form)."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of a generator beside those of painting nothing and, where they mean something, of the truth."""

    stills: int
    working_size: int
    """Lines to which the short side of each still was brought for the generator."""
    ours: Figures
    gray: Figures
    truth_colourfulness: float


def colourfulness(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) in 0..1 -> (N,), the form that `Figures.colourfulness` states."""
    red, green, blue = (255 * rgb).unbind(1)
    rg, yb = (red - green).flatten(1), (0.5 * (red + green) - blue).flatten(1)
    spread = (rg.var(1, correction=0) + yb.var(1, correction=0)).sqrt()
    return spread + 0.3 * (rg.mean(1) ** 2 + yb.mean(1) ** 2).sqrt()


def figures(rgb: Tensor, truth: Tensor) -> Figures:
    """Figures of one picture (1, 3, H, W) against its truth."""
    lab, true_lab = rgb_to_lab(rgb), rgb_to_lab(truth)
    error = (lab - true_lab).square()
    return Figures(
        ab_error=error[:, 1:].sum(1).sqrt().mean().item(),
        psnr=-10 * torch.log10((rgb - truth).square().mean().clamp_min(1e-10)).item(),
        delta_e76=error.sum(1).sqrt().mean().item(),
        colourfulness=colourfulness(rgb).mean().item(),
    )


def mean(rows: list[Figures]) -> Figures:
    """Field by field."""
    names = [field.name for field in dataclasses.fields(Figures)]
    return Figures(**{name: sum(cast(float, getattr(row, name)) for row in rows) / len(rows) for name in names})


def working_shape(height: int, width: int, lines: int, multiple: int) -> tuple[int, int]:
    """Height and width near `lines` on the short side, same shape, both multiples of `multiple`."""
    scale = lines / min(height, width)
    near = [max(multiple, round(side * scale / multiple) * multiple) for side in (height, width)]
    return near[0], near[1]


@torch.no_grad()
def paint(generator: Generator, luma: Tensor, lines: int) -> Tensor:
    """Chroma (1, 2, H, W) for luma (1, 1, H, W), painted at `lines` lines and brought back bilinearly."""
    height, width = luma.shape[2:]
    shape = working_shape(height, width, lines, generator.size_multiple)
    small = F.interpolate(luma, shape, mode="bilinear", antialias=True)
    return F.interpolate(generator(small), (height, width), mode="bilinear")


def pictures(stills: Stills, longest: int = 512) -> Iterator[Tensor]:
    """Each still as (1, 3, H, W) in 0..1, shrunk where its long side passes `longest`."""
    for index in range(len(stills)):
        picture = stills.open(index)
        picture.thumbnail((longest, longest), Image.Resampling.BICUBIC)
        yield to_tensor(picture).unsqueeze(0).float() / 255


def evaluate(
    generator: Generator, stills: Stills, lines: int, on_still: Callable[[int], None] = lambda done: None
) -> Evaluation:
    """Measure a generator (in eval mode) on colour stills, each made gray by Rec.601 luma."""
    ours, gray, truth = [], [], []
    for done, rgb in enumerate(pictures(stills), 1):
        luma, _ = rgb_to_ycbcr(rgb)
        ours.append(figures(ycbcr_to_rgb(luma, paint(generator, luma, lines)), rgb))
        gray.append(figures(luma.expand_as(rgb), rgb))
        truth.append(colourfulness(rgb).item())
        on_still(done)
    return Evaluation(len(ours), lines, mean(ours), mean(gray), sum(truth) / len(truth))
