"""Small colour stills made by the tests."""

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def make(folder: Path, count: int = 12, size: tuple[int, int] = (48, 40)) -> Path:
    """A folder of JPEGs, half of them in a subfolder: blue above, green below, a red patch somewhere."""
    chance = np.random.default_rng(5)
    for index in range(count):
        width, height = size
        picture = np.empty((height, width, 3), np.uint8)
        picture[: height // 2] = (90, 140, 220)
        picture[height // 2 :] = (70, 130, 60)
        left, top = chance.integers(0, width - 12), chance.integers(0, height - 12)
        picture[top : top + 12, left : left + 12] = (200, 60, 50)
        target = folder / ("a" if index % 2 else "b") / f"{index:03}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(target, quality=95)
    return folder


def zipped(folder: Path) -> Path:
    """The same stills as a zip archive."""
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for still in sorted(folder.rglob("*.jpg")):
            file.write(still, still.relative_to(folder))
    return archive
