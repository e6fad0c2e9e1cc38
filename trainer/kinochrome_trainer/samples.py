"""Sample sheets: gray, ours, truth side by side, one row a still."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .colour import rgb_to_ycbcr, ycbcr_to_rgb
from .metrics import paint
from .networks import Generator


def sheet(
    generator: Generator, colour: Sequence[Tensor], gray: Sequence[Tensor], lines: int, height: int = 160
) -> Image.Image:
    """A contact sheet of stills (1, 3, H, W) in 0..1. Rows of `gray` have no truth, so they show two pictures."""
    rows = []
    for rgb, has_truth in [(still, True) for still in colour] + [(still, False) for still in gray]:
        luma, _ = rgb_to_ycbcr(rgb)
        panels = [luma.expand_as(rgb), ycbcr_to_rgb(luma, paint(generator, luma, lines))]
        rows.append([_picture(panel, height) for panel in panels + ([rgb] if has_truth else [])])
    width = max(sum(panel.width for panel in row) for row in rows)
    page = Image.new("RGB", (width, height * len(rows)))
    for index, row in enumerate(rows):
        left = 0
        for panel in row:
            page.paste(panel, (left, index * height))
            left += panel.width
    return page


def save(page: Image.Image, file: Path) -> None:
    """Write the sheet as JPEG: sheets are looked at, not measured."""
    file.parent.mkdir(parents=True, exist_ok=True)
    page.save(file, quality=90)


def _picture(rgb: Tensor, height: int) -> Image.Image:
    pixels = (rgb[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(pixels)
    return picture.resize((max(1, round(picture.width * height / picture.height)), height))
