"""Colour clips, made gray and painted frame by frame: how steady and how strong the colours are."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from .colour import rgb_to_ycbcr, ycbcr_to_rgb
from .consistency import SPANS, cdc, histograms, longest_shot
from .errors import BadData
from .metrics import Painter, colourfulness, paint, working_shape
from .stills import FILM_SUFFIXES, SUFFIXES, Stills, to_tensor

FRAMES = 160  # read of each clip, at most
CUT = 0.5
"""Share of pixels that must move to another of 64 bins of luma from one frame to the next for a cut to lie between."""
VERSIONS = ("ours", "gray", "truth")


@dataclass(frozen=True)
class Steadiness:
    """Of one version of a clip, or the mean over clips."""

    cdc: float
    """CDC times 1000, at the working size, never across a cut: see `consistency`. Lower is steadier."""
    colourfulness: float
    """As `metrics.Figures.colourfulness`, mean over frames."""


@dataclass(frozen=True)
class Clip:
    """One clip's results."""

    name: str
    frames: int
    cuts: int
    versions: dict[str, Steadiness]
    """By VERSIONS."""


def clips(sources: Sequence[Path]) -> list[Path]:
    """The clips that people name: films, folders of frames, or folders of either, in the order of their names.

    Raises BadData for a source that holds none.
    """
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(source.iterdir())
            here = [entry for entry in inside if entry.suffix.lower() in FILM_SUFFIXES and entry.is_file()]
            here += [entry for entry in inside if entry.is_dir() and _holds_frames(entry)]
            here = [source] if _holds_frames(source) else here
        else:
            here = [source] if source.is_file() else []
        if not here:
            raise BadData(f"{source} holds no clip: name films, or folders of frames, for --sequences")
        found += here
    return found


def _holds_frames(folder: Path) -> bool:
    return any(file.suffix.lower() in SUFFIXES for file in folder.iterdir())


def measure(
    painter: Painter, clip: Path, lines: int, noise: Tensor | None, on_frame: Callable[[], None] = lambda: None
) -> Clip:
    """Paint the first FRAMES frames of a clip, all with the same noise, and measure at the working size.

    Raises BadData when it cannot be read or no shot is longer than the longest of CDC's spans.
    """
    found: dict[str, list[npt.NDArray[np.float64]]] = {version: [] for version in VERSIONS}
    vivid: dict[str, list[float]] = {version: [] for version in VERSIONS}
    lumas: list[npt.NDArray[np.float64]] = []
    for rgb in _frames(clip):
        shape = working_shape(rgb.shape[2], rgb.shape[3], lines, painter.size_multiple)
        truth = F.interpolate(rgb, shape, mode="bilinear", antialias=True).clamp(0, 1)
        luma, _ = rgb_to_ycbcr(truth)
        ours = ycbcr_to_rgb(luma, paint(painter, luma, lines, noise))
        for version, picture in zip(VERSIONS, (ours, luma.expand_as(truth), truth), strict=True):
            found[version].append(histograms(_bytes(picture)))
            vivid[version].append(colourfulness(picture).item())
        lumas.append(found["gray"][-1][0].reshape(64, 4).sum(1))
        on_frame()
    cuts = [False] + [bool(np.abs(one - other).sum() / 2 > CUT) for one, other in itertools.pairwise(lumas)]
    if longest_shot(cuts) <= max(SPANS):
        raise BadData(f"{clip} holds no shot of {max(SPANS) + 1} frames or more: too short for --sequences")
    versions = {
        version: Steadiness(1000 * cdc(np.stack(found[version]), cuts), float(np.mean(vivid[version])))
        for version in VERSIONS
    }
    return Clip(clip.name, len(lumas), sum(cuts), versions)


def _bytes(rgb: Tensor) -> npt.NDArray[np.uint8]:
    """(1, 3, H, W) in 0..1 -> (H, W, 3)."""
    return (rgb[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def _frames(clip: Path) -> Iterator[Tensor]:
    """(1, 3, H, W) in 0..1, in the order of names or of time."""
    if clip.is_dir():
        stills = Stills([clip])
        for index in range(min(len(stills), FRAMES)):
            yield to_tensor(stills.open(index)).unsqueeze(0).float() / 255
        return
    try:
        import av
    except ModuleNotFoundError:
        raise BadData(
            f"reading {clip} needs PyAV, which is not installed: pip install 'kinochrome[server]', "
            "or name a folder of its frames"
        ) from None
    try:
        with av.open(str(clip)) as container:
            if not container.streams.video:
                raise BadData(f"{clip} holds no pictures")
            for index, frame in enumerate(container.decode(container.streams.video[0])):
                if index == FRAMES:
                    return
                # The matrix that the film states, BT.601 where it states none
                pixels = torch.from_numpy(frame.to_ndarray(format="rgb24").copy())
                yield pixels.permute(2, 0, 1).unsqueeze(0).float() / 255
    except (av.FFmpegError, OSError) as error:
        raise BadData(f"{clip} cannot be read as a film: {error.strerror or error}") from None
