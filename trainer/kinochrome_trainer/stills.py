"""Stills from folders and zip archives, cropped for training in an order that depends on the seed alone."""

import contextlib
import copy
import hashlib
import io
import json
import math
import os
import random
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .errors import BadData, BadRecipe
from .recipe import Data

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
FILM_SUFFIXES = {
    *(".3gp", ".avi", ".dv", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf"),
    *(".ogv", ".ts", ".vob", ".webm", ".wmv"),
}
BROKEN_LIMIT = 0.01  # more broken stills than this share is a broken data set, not an accident
SHRINK_FROM = 1.5  # a still this many times larger than needed is worth a shrunk copy
CHUNK = 64  # stills shrunk before the next are read: bounds the memory


class Stills:
    """The pictures in one or several folders or zip archives, sorted by name. Archives are read in place."""

    def __init__(self, sources: Sequence[Path]) -> None:
        """Raises BadData when a source is missing, is neither folder nor zip, or holds no still."""
        self.origins: list[tuple[Path, str]] = []
        """Source and name of each still, as the person who named the sources knows it."""
        for source in sources:
            self.origins += [(source, name) for name in _names(source)]
        self.entries = list(self.origins)
        """Where each still is read: its origin, or a shrunk copy."""
        self.faults: dict[int, str] = {}
        """What is wrong with each still that was found broken so far, by its index."""
        self.checked = False
        """Whether every still has been read, so that `faults` names all there are."""
        self._archives: dict[tuple[int, Path], zipfile.ZipFile] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_archives": {}}  # each process opens archives of its own

    def folders(self) -> list[str]:
        """The folder of each still: what `Data.balance` weighs."""
        return [f"{source}:{Path(name).parent}" for source, name in self.origins]

    def open(self, index: int, at_least: int | None = None) -> Image.Image:
        """The still as an RGB picture, turned as its EXIF tag says.

        With `at_least`, a JPEG may be decoded at a half, a quarter or an eighth of its size, which is faster, as long
        as its short side keeps that many pixels. Raises BadData naming a still that is broken, and notes the fault.
        """
        source, name = self.entries[index]
        try:
            picture = Image.open(io.BytesIO(self._bytes(source, name)))
            if at_least:
                scale = at_least / min(picture.size)
                picture.draft(None, (math.ceil(picture.width * scale), math.ceil(picture.height * scale)))
            return _eight_bits(ImageOps.exif_transpose(picture)).convert("RGB")
        except Exception as error:  # decoders raise all manner of things at damaged bytes
            reason = "no picture" if isinstance(error, UnidentifiedImageError) else error or type(error).__name__
            self.faults[index] = f"still {source / name} is broken: {reason}"
            raise BadData(self.faults[index]) from None

    def halves(self, seed: int) -> tuple["Stills", "Stills"]:
        """Two disjoint halves, for unpaired training: by a hash of the names, so each has something of every folder.

        Raises BadData when there are not two stills.
        """
        if len(self) < 2:
            raise BadData(f"unpaired training needs two stills or more, not {len(self)}")
        # The same name in two sources is two stills; the source's own name, unlike its path, moves with the data.
        names = [f"{seed}\0{source.name}\0{name}" for source, name in self.origins]
        keys = [hashlib.sha256(name.encode(errors="surrogateescape")).digest() for name in names]
        order = sorted(range(len(self)), key=lambda index: keys[index])
        middle = len(order) // 2
        return self._subset(sorted(order[:middle])), self._subset(sorted(order[middle:]))

    def _subset(self, indices: Sequence[int]) -> "Stills":
        other = copy.copy(self)
        other.origins = [self.origins[index] for index in indices]
        other.entries = [self.entries[index] for index in indices]
        other.faults = {new: self.faults[old] for new, old in enumerate(indices) if old in self.faults}
        return other

    def _archive(self, source: Path) -> zipfile.ZipFile:
        # A forked process must not read through its parent's file: they would share the position in it.
        key = (os.getpid(), source)
        if key not in self._archives:
            self._archives[key] = zipfile.ZipFile(source)
        return self._archives[key]

    def _bytes(self, source: Path, name: str) -> bytes:
        return (source / name).read_bytes() if source.is_dir() else self._archive(source).read(name)

    def _short_side(self, index: int) -> int:
        """Pixels of the short side, from the header alone; 0 where that cannot be read, which `open` will tell of."""
        source, name = self.entries[index]
        try:
            with (source / name).open("rb") if source.is_dir() else self._archive(source).open(name) as file:
                return min(Image.open(file).size)
        except Exception:
            return 0

    def _identities(self) -> Iterator[tuple[str, str, int, int]]:
        """Of each still what changes when it does: path, name, size in bytes, and time of change or checksum."""
        paths = {source: (str(source.resolve()), source.is_dir()) for source in {source for source, _ in self.entries}}
        for source, name in self.entries:
            path, is_folder = paths[source]
            try:
                if is_folder:
                    status = (source / name).stat()
                    yield path, name, status.st_size, status.st_mtime_ns
                else:
                    member = self._archive(source).getinfo(name)
                    yield path, name, member.file_size, member.CRC
            except OSError:
                yield path, name, 0, 0


def _names(source: Path) -> list[str]:
    if source.is_dir():
        names = [str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()]
    elif source.suffix.lower() in FILM_SUFFIXES and source.exists():
        raise BadData(f"{source} is a film: take stills from it with `kinochrome frames {source} -o DIR`, and name DIR")
    elif source.exists():
        try:
            with zipfile.ZipFile(source) as archive:
                names = archive.namelist()
        except (OSError, zipfile.BadZipFile):
            raise BadData(f"{source} is neither a folder nor a zip archive of stills") from None
    else:
        raise BadData(f"{source} does not exist: name a folder or a zip archive of stills")
    # macOS puts a file ._NAME beside NAME, which is no picture.
    stills = sorted(
        name for name in names if Path(name).suffix.lower() in SUFFIXES and not Path(name).name.startswith("._")
    )
    if not stills and any(Path(name).suffix.lower() in FILM_SUFFIXES for name in names):
        raise BadData(f"{source} holds films, not stills: take stills from each with `kinochrome frames FILM -o DIR`")
    if not stills:
        raise BadData(f"{source} holds no still ({', '.join(sorted(SUFFIXES))})")
    return stills


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A gray picture of 16 bits, as film scanners make them, brought to 8: Pillow itself clips it at 255."""
    if not picture.mode.startswith("I"):
        return picture
    pixels = np.asarray(picture).astype(np.float32)
    scale = 257 if pixels.max(initial=0) > 255 else 1
    return Image.fromarray((pixels / scale).round().clip(0, 255).astype(np.uint8))


def to_tensor(picture: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) uint8."""
    return torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).contiguous()


class _Crops(Dataset[tuple[Tensor, dict[int, str]]]):
    """Crops by (index, seed), and the faults met: what a crop shows depends on nothing else, whoever cuts it."""

    def __init__(self, stills: Stills, size: int, zoom: float) -> None:
        self.stills, self.size, self.zoom = stills, size, zoom

    def __len__(self) -> int:
        return len(self.stills)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, dict[int, str]]:
        index, seed = key
        chance = random.Random(seed)
        picture, faults = self._open(index)
        if picture is None:
            return torch.zeros(3, self.size, self.size, dtype=torch.uint8), faults
        side = min(picture.size) * chance.uniform(self.zoom, 1)
        left = chance.uniform(0, picture.width - side)
        top = chance.uniform(0, picture.height - side)
        size = (self.size, self.size)
        crop = picture.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        if chance.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_tensor(crop), faults

    def _open(self, index: int) -> tuple[Image.Image | None, dict[int, str]]:
        """The still, or the next one that is whole, so that one bad file does not end a night's training.

        None when so many in a row are broken that `batches` will refuse them all.
        """
        faults: dict[int, str] = {}
        while not _too_many(faults, len(self.stills)):
            near = (index + len(faults)) % len(self.stills)
            try:
                return self.stills.open(near), faults
            except BadData as error:
                faults[near] = str(error)
        return None, faults


class _Order:
    """Endless batches of (index, seed) from a given step on; step k's batch is the same however one got there."""

    def __init__(
        self,
        stills: Stills,
        balance: float,
        *,
        batch: int,
        seed: int,
        first_step: int,
        steps: int,
        stream: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        folders = stills.folders()
        counts = Counter(folders)
        weights = np.array([counts[folder] ** -balance for folder in folders])
        self.shares = weights / weights.sum()
        self.batch, self.seed, self.first_step, self.steps, self.stream = batch, seed, first_step, steps, stream
        rank, world = share
        if batch % world:
            raise BadRecipe(f"batch={batch} cannot be shared by {world} processes: make it a multiple of {world}")
        self.mine = slice(rank * batch // world, (rank + 1) * batch // world)

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first_step, self.steps):
            chance = np.random.default_rng((self.seed, step, self.stream))
            indices = chance.choice(len(self.shares), self.batch, p=self.shares)[self.mine]
            seeds = chance.integers(0, 2**63, self.batch)[self.mine]
            yield [(int(index), int(seed)) for index, seed in zip(indices, seeds, strict=True)]


def _collate(crops: list[tuple[Tensor, dict[int, str]]]) -> tuple[Tensor, dict[int, str]]:
    return torch.stack([crop for crop, _ in crops]), {
        index: text for _, faults in crops for index, text in faults.items()
    }


def batches(
    stills: Stills,
    data: Data,
    *,
    size: int,
    batch: int,
    seed: int,
    first_step: int,
    steps: int,
    stream: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Tensor]:
    """Batches (batch / world, 3, size, size) uint8 for the steps first_step..steps-1.

    Args:
        stills: what is drawn from. Broken ones are skipped, and noted in `stills.faults`.
        data: how it is drawn.
        size: side of the square crops, in pixels.
        batch: crops of a step, over all processes.
        seed: what is drawn follows from it, the step and the stream alone.
        first_step: the step of the first batch.
        steps: the step before which to stop.
        stream: another stream is drawn independently, as the other set of unpaired training must be.
        share: rank and number of the processes that share each batch; this one gets its slice.

    Raises BadData as soon as more than 1 % of the stills are found broken, BadRecipe when a batch cannot be shared.
    """
    order = _Order(
        stills, data.balance, batch=batch, seed=seed, first_step=first_step, steps=steps, stream=stream, share=share
    )
    loader = DataLoader(
        _Crops(stills, size, data.zoom),
        batch_sampler=order,
        collate_fn=_collate,
        num_workers=data.workers,
        prefetch_factor=4 if data.workers else None,
    )
    for crops, faults in loader:
        stills.faults |= faults  # a worker has noted them in its own copy
        _refuse_many(stills.faults, len(stills))
        yield crops


def check(stills: Stills, sample: int = 512) -> int:
    """Open up to `sample` stills spread over the set; return how many are broken. Raises BadData past 1 %.

    A set that `shrunk` has read from end to end is judged as a whole, and not opened again.
    """
    if stills.checked:
        return len(stills.faults)
    indices = {int(index) for index in np.linspace(0, len(stills) - 1, min(sample, len(stills)))}
    for index in sorted(indices):
        with contextlib.suppress(BadData):  # which is noted
            stills.open(index)
    faults = {index: text for index, text in stills.faults.items() if index in indices}
    _refuse_many(faults, len(indices), "stills looked at")
    return len(faults)


def _too_many(faults: dict[int, str], count: int) -> bool:
    return len(faults) > BROKEN_LIMIT * count


def _refuse_many(faults: dict[int, str], count: int, of: str = "stills") -> None:
    """Raises BadData when more than 1 % of `count` stills are broken."""
    if _too_many(faults, count):
        raise BadData(f"{len(faults)} of {count} {of} are broken, the first: {faults[min(faults)]}")


def shrunk(
    stills: Stills,
    short_side: int,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, count: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> Stills:
    """The same stills, in the same order and folders, the large ones read from shrunk copies: decoding is what costs.

    Copies are made once, of stills whose short side exceeds SHRINK_FROM times `short_side`: brought to that short
    side, JPEG of quality 95 in 4:4:4, all in one archive that any later run on the same stills finds again. While it
    is made, every still is read, so the broken ones are known. Without a large still, these very stills come back.

    Args:
        stills: what to shrink.
        short_side: pixels of the short side that crops still need.
        cache: folder of such archives, default $XDG_CACHE_HOME/kinochrome/stills; it may be emptied between runs.
        on_progress: called with the stills read and their number, while an archive is made.
        on_warning: called with one line when the archive cannot be written; the stills are then left as they are.

    Raises BadData when more than 1 % of the stills are broken.
    """
    settings = f"1 {short_side} {SHRINK_FROM}\n"  # 1: what this function makes of a still; count it up with a change
    identities = json.dumps(list(stills._identities()))
    name = hashlib.sha256((settings + identities).encode()).hexdigest() + ".zip"
    try:
        archive = (cache or _cache()) / name
        copies = _copies(stills, archive)
        if copies is None:
            large = {i for i in range(len(stills)) if stills._short_side(i) > SHRINK_FROM * short_side}
            if not large:
                return stills
            _write_copies(stills, large, short_side, archive, on_progress)
            copies = _copies(stills, archive)
    except OSError as error:
        reason = error.strerror or error
        on_warning(
            f"no shrunk copies of the stills can be kept ({reason}): training decodes them whole, which is slower"
        )
        return stills
    return stills if copies is None else copies


def _cache() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (root if root.is_absolute() else Path.home() / ".cache") / "kinochrome" / "stills"
    except RuntimeError:
        raise OSError("there is no home folder") from None


def _copies(stills: Stills, archive: Path) -> Stills | None:
    """`stills`, read from an archive of shrunk copies where it has one; None when there is no such archive."""
    try:
        with zipfile.ZipFile(archive) as file:
            faults = json.loads(file.read("faults.json"))
            names = {name for name in file.namelist() if name.endswith(".jpg")}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    copies = copy.copy(stills)
    copies.entries = [
        (archive, _copy_name(index)) if _copy_name(index) in names else entry
        for index, entry in enumerate(stills.entries)
    ]
    stills.faults = {int(index): text for index, text in faults.items()}
    copies.faults = dict(stills.faults)
    stills.checked = copies.checked = True
    return copies


def _copy_name(index: int) -> str:
    return f"{index:08}.jpg"


def _write_copies(
    stills: Stills, large: set[int], short_side: int, archive: Path, on_progress: Callable[[int, int], None]
) -> None:
    """Read every still; write shrunk copies of the large ones. Raises OSError when they cannot be written."""

    def read(index: int) -> bytes | None:
        with contextlib.suppress(BadData):  # which is noted
            if index in large:
                return _shrink(stills, index, short_side)
            stills.open(index)
        return None

    archive.parent.mkdir(parents=True, exist_ok=True)
    _sweep(archive.parent)
    handle, partial = tempfile.mkstemp(".partial", dir=archive.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            with zipfile.ZipFile(out, "w") as file, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                for start in range(0, len(stills), CHUNK):
                    indices = range(start, min(start + CHUNK, len(stills)))
                    for index, jpeg in zip(indices, pool.map(read, indices), strict=True):
                        if jpeg:
                            file.writestr(zipfile.ZipInfo(_copy_name(index)), jpeg)
                        on_progress(index + 1, len(stills))
                    _refuse_many(stills.faults, len(stills))
                file.writestr(zipfile.ZipInfo("faults.json"), json.dumps(stills.faults))
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, archive)  # whole, or not there; of two processes that made the same, either's will do
    finally:
        Path(partial).unlink(missing_ok=True)


def _shrink(stills: Stills, index: int, short_side: int) -> bytes:
    """A still as JPEG, its short side brought to `short_side` pixels."""
    picture = stills.open(index, at_least=2 * short_side)
    scale = short_side / min(picture.size)
    size = round(picture.width * scale), round(picture.height * scale)
    file = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(file, "jpeg", quality=95, subsampling=0)
    return file.getvalue()


def _sweep(cache: Path) -> None:
    """Remove what processes left that were killed while they wrote: nobody writes for a day without a byte."""
    for partial in cache.glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):  # its process has finished it, or another has swept
            if time.time() - partial.stat().st_mtime > 86400:
                partial.unlink()
