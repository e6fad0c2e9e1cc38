"""Stills from folders and zip archives, cropped for training in an order that depends on the seed alone."""

import io
import random
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .errors import BadData
from .recipe import Data

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
BROKEN_LIMIT = 0.01  # more broken stills than this share is a broken data set, not an accident


class Stills:
    """The pictures in one or several folders or zip archives, sorted by name. Archives are read in place."""

    def __init__(self, sources: Sequence[Path]) -> None:
        """Raises BadData when a source is missing, is neither folder nor zip, or holds no still."""
        self.entries: list[tuple[Path, str]] = []
        for source in sources:
            self.entries += [(source, name) for name in _names(source)]
        self._archives: dict[Path, zipfile.ZipFile] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getstate__(self) -> dict[str, object]:
        return {"entries": self.entries, "_archives": {}}  # each process opens archives of its own

    def folders(self) -> list[str]:
        """The folder of each still: what `Data.balance` weighs."""
        return [f"{source}:{Path(name).parent}" for source, name in self.entries]

    def open(self, index: int) -> Image.Image:
        """The still as an RGB picture, turned as its EXIF tag says. Raises BadData naming a still that is broken."""
        source, name = self.entries[index]
        try:
            picture = Image.open(io.BytesIO(self._bytes(source, name)))
            picture.load()
        except (OSError, UnidentifiedImageError, SyntaxError, zipfile.BadZipFile) as error:
            raise BadData(f"still {source / name} is broken: {error}") from None
        return ImageOps.exif_transpose(picture).convert("RGB")

    def _bytes(self, source: Path, name: str) -> bytes:
        if source.is_dir():
            return (source / name).read_bytes()
        if source not in self._archives:
            self._archives[source] = zipfile.ZipFile(source)
        return self._archives[source].read(name)


def _names(source: Path) -> list[str]:
    if source.is_dir():
        names = [str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()]
    elif source.exists():
        try:
            with zipfile.ZipFile(source) as archive:
                names = archive.namelist()
        except (OSError, zipfile.BadZipFile):
            raise BadData(f"{source} is neither a folder nor a zip archive of stills") from None
    else:
        raise BadData(f"{source} does not exist: name a folder or a zip archive of stills")
    names = sorted(name for name in names if Path(name).suffix.lower() in SUFFIXES)
    if not names:
        raise BadData(f"{source} holds no still ({', '.join(sorted(SUFFIXES))})")
    return names


def to_tensor(picture: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) uint8."""
    return torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).contiguous()


class _Crops(Dataset[Tensor]):
    """Crops by (index, seed): what a crop shows depends on nothing else, whoever cuts it and when."""

    def __init__(self, stills: Stills, data: Data) -> None:
        self.stills, self.data = stills, data

    def __len__(self) -> int:
        return len(self.stills)

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        index, seed = key
        chance = random.Random(seed)
        try:
            picture = self.stills.open(index)
        except BadData:
            # A neighbour stands in, so that one bad file does not end a night's training; `check` bounds how many.
            picture = self.stills.open((index + 1) % len(self.stills))
        side = min(picture.size) * chance.uniform(self.data.zoom, 1)
        left = chance.uniform(0, picture.width - side)
        top = chance.uniform(0, picture.height - side)
        size = (self.data.size, self.data.size)
        crop = picture.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        if chance.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_tensor(crop)


class _Order:
    """Endless batches of (index, seed) from a given step on; step k's batch is the same however one got there."""

    def __init__(self, stills: Stills, data: Data, batch: int, seed: int, first_step: int, steps: int) -> None:
        folders = stills.folders()
        counts = Counter(folders)
        weights = np.array([counts[folder] ** -data.balance for folder in folders])
        self.shares = weights / weights.sum()
        self.batch, self.seed, self.first_step, self.steps = batch, seed, first_step, steps

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first_step, self.steps):
            chance = np.random.default_rng((self.seed, step))
            indices = chance.choice(len(self.shares), self.batch, p=self.shares)
            seeds = chance.integers(0, 2**63, self.batch)
            yield [(int(index), int(seed)) for index, seed in zip(indices, seeds, strict=True)]


def batches(stills: Stills, data: Data, *, batch: int, seed: int, first_step: int, steps: int) -> Iterator[Tensor]:
    """Batches (batch, 3, size, size) uint8 for the steps first_step..steps-1."""
    loader = DataLoader(
        _Crops(stills, data),
        batch_sampler=_Order(stills, data, batch, seed, first_step, steps),
        num_workers=data.workers,
        prefetch_factor=4 if data.workers else None,
    )
    yield from loader


def check(stills: Stills, sample: int = 512) -> int:
    """Open up to `sample` stills spread over the set; return how many are broken. Raises BadData past 1 %."""
    indices = np.unique(np.linspace(0, len(stills) - 1, min(sample, len(stills))).astype(int))
    faults: list[str] = []
    for index in indices:
        try:
            stills.open(int(index))
        except BadData as error:
            faults.append(str(error))
    if len(faults) > BROKEN_LIMIT * len(indices):
        raise BadData(f"{len(faults)} of {len(indices)} stills looked at are broken, the first: {faults[0]}")
    return len(faults)
