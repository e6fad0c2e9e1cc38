"""The pictures that another precision is calibrated and measured on: stills, or ones made on the spot."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kinochrome_proto.manifest import LUMA, NOISE, Manifest
from kinochrome_trainer import metrics
from kinochrome_trainer.colour import rgb_to_ycbcr
from kinochrome_trainer.stills import Stills

from .calibration import Feed

GRAY_BELOW = 1.0  # mean |chroma| in 8-bit code values: what JPEG leaves of a gray picture is less
MADE = 16  # pictures made on the spot
MADE_KIND = "pictures made on the spot"


@dataclass(frozen=True)
class Picture:
    """A picture, and what a colorizer takes of it."""

    luma: Tensor
    """(1, 1, H, W) in 0..1."""
    truth: Tensor | None
    """R'G'B' (1, 3, H, W) in 0..1; None of a gray picture."""
    feed: Feed
    """The graph's inputs by name: luma (1, 1, h, w) uint8 at the working size, and noise where it takes any."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of one kind."""

    items: list[Picture]
    kind: str
    """"colour stills", "gray stills", "stills, 3 of 8 in colour" or MADE_KIND."""

    def in_colour(self) -> "Pictures":
        """Those that are not gray."""
        return _named([picture for picture in self.items if picture.truth is not None])

    def halves(self) -> "tuple[Pictures, Pictures]":
        """Every other picture, and the rest."""
        return _named(self.items[::2]), _named(self.items[1::2])


def from_stills(sources: Sequence[Path], manifest: Manifest, count: int) -> Pictures:
    """At most `count` stills of folders or zip archives, spread evenly, for a colorizer.

    Raises BadData when there are none, or one is broken.
    """
    stills = Stills(sources)
    count = min(count, len(stills))
    places = [(2 * place + 1) * len(stills) // (2 * count) for place in range(count)]
    items = []
    for index in places:
        rgb = metrics.picture(stills, index)
        luma, chroma = rgb_to_ycbcr(rgb)
        gray = chroma.abs().mean().item() * 255 < GRAY_BELOW
        items.append(_picture(luma, None if gray else rgb, manifest, index))
    return _named(items)


def made(manifest: Manifest) -> Pictures:
    """Gray pictures of patches with edges, slopes and grain, of several shapes: of every brightness, and of nothing."""
    chance = np.random.default_rng(0)
    items = []
    for index, coarse in zip(range(MADE), itertools.cycle((4, 8, 16, 32)), strict=False):
        height, width = ((192, 256), (256, 192), (192, 344))[index % 3]
        patches = chance.random((height // coarse + 1, width // coarse + 1)).repeat(coarse, 0).repeat(coarse, 1)
        slope = np.linspace(0, 1, width) * np.linspace(0, 1, height)[:, None]
        luma = 0.7 * patches[:height, :width] + 0.3 * slope + chance.normal(0, 0.03, (height, width))
        tensor = torch.from_numpy(luma.clip(0, 1).astype(np.float32))[None, None]
        items.append(_picture(tensor, None, manifest, index))
    return Pictures(items, MADE_KIND)


def _picture(luma: Tensor, truth: Tensor | None, manifest: Manifest, seed: int) -> Picture:
    height, width = luma.shape[2:]
    shape = metrics.working_shape(height, width, manifest.working_size, manifest.size_multiple)
    small = F.interpolate(luma, shape, mode="bilinear", antialias=True)
    feed: Feed = {LUMA: (small * 255).round().clamp(0, 255).to(torch.uint8).numpy()}
    if manifest.noise_length:
        feed[NOISE] = np.random.default_rng(seed).standard_normal((1, manifest.noise_length), np.float32)
    return Picture(luma, truth, feed)


def _named(items: list[Picture]) -> Pictures:
    coloured = sum(item.truth is not None for item in items)
    if coloured in (0, len(items)):
        return Pictures(items, "colour stills" if coloured else "gray stills")
    return Pictures(items, f"stills, {coloured} of {len(items)} in colour")
