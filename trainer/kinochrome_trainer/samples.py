"""Sample sheets: gray, ours, truth side by side, one row a still."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .colour import luma_of, ycbcr_to_rgb
from .metrics import paint, working_shape
from .networks import Generator

SEEDS = 3  # colourings shown of a stochastic generator


def sheet(
    generator: Generator,
    colour: Sequence[Tensor],
    gray: Sequence[Tensor],
    lines: int,
    height: int = 160,
    device: torch.device | str = "cpu",
    translate: bool = False,
) -> Image.Image:
    """A contact sheet of stills (1, 3, H, W) in 0..1: gray, ours, truth. Rows of `gray` have no truth; a stochastic
    generator shows SEEDS colourings, each of one noise from top to bottom.

    The generator is on `device`, where stills are brought too; it paints at `lines` lines, `height` is a row's. With
    `translate`, rows of `gray` keep their colours, beside the whole pictures that the generator makes of them.
    """
    chance = torch.Generator().manual_seed(0)
    noises = torch.randn(SEEDS, 1, generator.noise_length, generator=chance).to(device)
    rows = []
    for rgb, has_truth in [(still, True) for still in colour] + [(still, False) for still in gray]:
        if translate and not has_truth:
            rows.append(
                [_picture(panel.cpu(), height) for panel in (rgb, translated(generator, rgb.to(device), lines))]
            )
            continue
        luma = luma_of(rgb.to(device))
        painted = [paint(generator, luma, lines, noise) for noise in (noises if generator.noise_length else noises[:1])]
        panels = [luma.expand_as(rgb), *(ycbcr_to_rgb(luma, chroma) for chroma in painted)]
        rows.append([_picture(panel.cpu(), height) for panel in panels + ([rgb] if has_truth else [])])
    width = max(sum(panel.width for panel in row) for row in rows)
    page = Image.new("RGB", (width, height * len(rows)), "white")
    for index, row in enumerate(rows):
        left = 0
        for panel in row:
            page.paste(panel, (left, index * height))
            left += panel.width
    return page


@torch.no_grad()
def translated(generator: Generator, rgb: Tensor, lines: int) -> Tensor:
    """R'G'B' (1, 3, H, W) -> what a generator of pictures makes of it at `lines` lines, at the size that this gives."""
    shape = working_shape(rgb.shape[2], rgb.shape[3], lines, generator.size_multiple)
    return generator.picture(F.interpolate(rgb, shape, mode="bilinear", antialias=True)).clamp(0, 1)


def save(page: Image.Image, file: Path) -> None:
    """Write the sheet as JPEG: sheets are looked at, not measured."""
    file.parent.mkdir(parents=True, exist_ok=True)
    page.save(file, quality=90)


WIDEST = 3  # times the height: JPEG holds no more than 65,500 pixels, and a sheet is for eyes


def _picture(rgb: Tensor, height: int) -> Image.Image:
    pixels = (rgb[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(pixels)
    width = max(1, min(WIDEST * height, round(picture.width * height / picture.height)))
    return picture.resize((width, height))
