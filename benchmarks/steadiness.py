"""How steady colours are, with and without the stabiliser, on colour films made gray: the figures of docs and README.

    python -m benchmarks.steadiness --data FOLDER_OF_COLOUR_CLIPS --json steadiness.json --sheet sheets

Each clip's luma plane, as it is, is coloured frame by frame with the default colorizer. All figures are taken at the
colorizer's working resolution and never across a cut:

- CDC, the colour distribution consistency (`kinochrome_trainer.consistency`), times 1000. It contains luma: gray frames
  have a floor of their own.
- warp error (as fast_blind_video_consistency's evaluate_WarpError.py, but with OpenCV's DIS flow on the gray frames in
  place of FlowNet2); times 10,000. Gray frames have a floor here too.
- colourfulness (Hasler and Süsstrunk, original form with signed means) and PSNR against the truth.
- what is left: the part above gray's floor with the stabiliser, relative to that without.
- borders: the clip steadied in pieces as the pipeline does it, against the unbroken run, in 8-bit chroma code values.
"""

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypedDict, cast

import av
import cv2
import numpy as np
import numpy.typing as npt

from kinochrome_proto.manifest import Manifest
from kinochrome_server import colorizers
from kinochrome_server.chroma import Float, Geometry, chroma_planes, thumbnail
from kinochrome_server.cuts import CutFinder
from kinochrome_server.engines.cpu import CpuEngine
from kinochrome_server.engines.interface import EngineSettings
from kinochrome_server.looks import Look
from kinochrome_server.planes import LUMA_WEIGHTS, Picture, luma_of, picture_of
from kinochrome_server.segments import WARM_UP
from kinochrome_server.steady import LOOKAHEAD, Stabilizer
from kinochrome_trainer.consistency import cdc, histograms

Bytes = npt.NDArray[np.uint8]

SEGMENT = 48
"""Frames of a piece when borders are measured: the pipeline's shortest segment."""
MOMENTS = 6
"""Columns of a sheet."""
AMPLIFY = 4
"""Chroma on a sheet's lower rows is this many times what it was, on middle gray."""


@dataclass(frozen=True)
class Clip:
    """A colour film at working resolution."""

    name: str
    luma: Bytes
    """(N, h, w), full range."""
    truth: Bytes
    """(N, h, w, 3), R'G'B'."""
    cuts: list[bool]
    geometry: Geometry
    """Of the thumbnails taken for films of their own."""


@dataclass(frozen=True)
class Figures:
    """Of one version of a clip."""

    cdc: float
    """Times 1000."""
    warp: float
    """Times 10,000."""
    colourfulness: float
    psnr: float


class Row(TypedDict):
    """One clip's results."""

    frames: int
    cuts: list[int]
    gray: Figures
    unsteadied: Figures
    steadied: Figures
    truth: Figures
    border_mean: float
    border_largest: float
    elsewhere_largest: float
    milliseconds: float


def read(file: Path, manifest: Manifest, limit: int) -> Clip:
    """The first `limit` frames of a clip."""
    luma, truth, cuts, finder = [], [], [], CutFinder()
    geometry: Geometry | None = None
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            if geometry is None:
                picture = picture_of(frame, stream.sample_aspect_ratio)
                geometry = Geometry.of(picture, manifest, "yuv444p")
            small = thumbnail(luma_of(frame, geometry.picture), geometry)
            luma.append(small)
            cuts += finder.push(small)
            coloured = frame.reformat(format="rgb24", src_colorspace=geometry.picture.matrix).to_ndarray()
            size = (small.shape[1], small.shape[0])
            truth.append(cv2.resize(coloured, size, interpolation=cv2.INTER_AREA))
            if len(luma) == limit:
                break
    assert geometry is not None
    return Clip(file.stem, np.stack(luma), np.stack(truth), cuts + finder.flush(), _of_thumbnail(geometry, manifest))


def _of_thumbnail(geometry: Geometry, manifest: Manifest) -> Geometry:
    lines, columns = geometry.thumbnail
    small: Picture = dataclasses.replace(
        geometry.picture,
        width=columns,
        height=lines,
        depth=8,
        sample_aspect_ratio=Fraction(1),
        rotation=0,
        full_range=True,
    )
    return Geometry.of(small, manifest, "yuv444p")


def steadied(luma: Bytes, painted: Float, cuts: list[bool], strength: float) -> Float:
    """(N, 2, h/s, w/s) chroma, through the stabiliser."""
    stabilizer = Stabilizer(strength)
    settled: list[Float] = []
    for small, chroma, cut in zip(luma, painted, cuts, strict=True):
        settled += stabilizer.push(small, chroma, cut)
    return np.stack(settled + stabilizer.flush())


def in_segments(luma: Bytes, painted: Float, strength: float) -> Float:
    """The same, in pieces that know only the frames that the pipeline gives a segment; they find their own cuts."""
    pieces = []
    for start in range(0, len(luma), SEGMENT):
        first, last = max(0, start - WARM_UP), min(len(luma), start + SEGMENT + LOOKAHEAD)
        finder = CutFinder()
        cuts = [cut for small in luma[first:last] for cut in finder.push(small)] + finder.flush()
        pieces.append(steadied(luma[first:last], painted[first:last], cuts, strength)[start - first :][:SEGMENT])
    return np.concatenate(pieces)


def pictures(clip: Clip, chroma: Float) -> Bytes:
    """(N, h, w, 3) R'G'B', chroma brought to the thumbnail's grid as the pipeline brings it to a film's."""
    coloured = []
    for luma, small in zip(clip.luma, chroma, strict=True):
        blue, red = chroma_planes(small, luma, luma, clip.geometry)
        coloured.append(_rgb(luma, blue, red, clip.geometry.picture.matrix))
    return np.stack(coloured)


def _rgb(
    luma: Bytes, blue: npt.NDArray[np.generic], red: npt.NDArray[np.generic], matrix: int, amplify: int = 1
) -> Bytes:
    kr, kb = LUMA_WEIGHTS[matrix]
    y = luma.astype(np.float32)
    cb, cr = (amplify * (plane.astype(np.float32) - 128) for plane in (blue, red))
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    g = (y - kr * r - kb * b) / (1 - kr - kb)
    return np.asarray(np.clip(np.stack((r, g, b), 2) + 0.5, 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Way:
    """The motion from a frame to the next, on the gray frames."""

    index: int
    places: Float
    seen: npt.NDArray[np.bool_]
    """(h, w): neither occluded nor at a motion boundary."""


def ways(clip: Clip) -> list[Way]:
    """Of each pair of neighbours in a shot."""
    motion = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found = []
    for index, (here, there, cut) in enumerate(zip(clip.luma, clip.luma[1:], clip.cuts[1:], strict=False)):
        if cut:
            continue
        onward, back = (_flow(motion, *pair) for pair in ((here, there), (there, here)))
        height, width = here.shape
        rows, columns = np.indices(here.shape, np.float32)
        places = np.stack((columns, rows), 2) + onward
        returning = cv2.remap(back, places[..., 0], places[..., 1], cv2.INTER_LINEAR)
        squared = (onward**2).sum(2)
        occluded = ((onward + returning) ** 2).sum(2) > 0.01 * (squared + (returning**2).sum(2)) + 0.5
        slopes = np.zeros(here.shape, np.float32)
        slopes[:, :-1] += (np.diff(onward, axis=1) ** 2).sum(2)
        slopes[:-1] += (np.diff(onward, axis=0) ** 2).sum(2)
        inside = ((places >= 0) & (places <= (width - 1, height - 1))).all(2)
        found.append(Way(index, places, inside & ~occluded & (slopes <= 0.01 * squared + 0.002)))
    return found


def _flow(motion: cv2.DISOpticalFlow, here: Bytes, there: Bytes) -> Float:
    return cast(Float, motion.calc(here, there, np.zeros((*here.shape, 2), np.float32)))


def warp_error(frames: Bytes, motion: list[Way]) -> float:
    """Mean over pairs of the mean squared distance (R'G'B' in 0..1) between a frame and the next one warped to it."""
    errors = []
    for way in motion:
        here, there = (frames[way.index + step].astype(np.float32) / 255 for step in (0, 1))
        moved = cv2.remap(there, way.places[..., 0], way.places[..., 1], cv2.INTER_LINEAR)
        errors.append(((moved - here) ** 2).sum(2)[way.seen].mean() if way.seen.any() else 0.0)
    return float(np.mean(errors))


def colourfulness(frame: Bytes) -> float:
    """Hasler and Süsstrunk (2003): √(σ²rg + σ²yb) + 0.3·√(μ²rg + μ²yb)."""
    red, green, blue = np.moveaxis(frame.astype(np.float32), 2, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def psnr(frame: Bytes, truth: Bytes) -> float:
    error = ((frame.astype(np.float32) - truth) ** 2).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-6)))


def figures(frames: Bytes, clip: Clip, motion: list[Way]) -> Figures:
    return Figures(
        1e3 * cdc(np.stack([histograms(frame) for frame in frames]), clip.cuts),
        1e4 * warp_error(frames, motion),
        float(np.mean([colourfulness(frame) for frame in frames])),
        float(np.mean([psnr(frame, truth) for frame, truth in zip(frames, clip.truth, strict=True)])),
    )


def measure(clip: Clip, engine: CpuEngine, strength: float, sheet: Path | None) -> Row:
    """All figures of a clip; with `sheet`, a folder, its pictures too."""
    painted = np.concatenate([engine.run(clip.luma[start : start + 8]) for start in range(0, len(clip.luma), 8)])
    started = time.perf_counter()
    steady = steadied(clip.luma, painted, clip.cuts, strength)
    milliseconds = 1000 * (time.perf_counter() - started) / len(painted)
    motion = ways(clip)
    gray = np.repeat(clip.luma[..., np.newaxis], 3, 3)
    plain, held = pictures(clip, painted), pictures(clip, steady)
    if sheet is not None:
        draw(sheet / f"{clip.name}.png", clip, {"gray": gray, "plain": plain, "steady": held, "truth": clip.truth})
    # In code values of full-range 8-bit planes
    difference = 255 * np.abs(in_segments(clip.luma, painted, strength) - steady).max((1, 2, 3))
    near = np.zeros(len(painted), bool)
    for border in range(SEGMENT, len(painted), SEGMENT):
        near[border - 2 : border + 2] = True
    return Row(
        frames=len(painted),
        cuts=[index for index, cut in enumerate(clip.cuts) if cut],
        gray=figures(gray, clip, motion),
        unsteadied=figures(plain, clip, motion),
        steadied=figures(held, clip, motion),
        truth=figures(clip.truth, clip, motion),
        border_mean=float(difference[near].mean()) if near.any() else 0.0,
        border_largest=float(difference[near].max(initial=0)),
        elsewhere_largest=float(difference[~near].max(initial=0)),
        milliseconds=milliseconds,
    )


def draw(file: Path, clip: Clip, versions: dict[str, Bytes]) -> None:
    """Rows of moments, three neighbours of each: the versions, then amplified chroma of the coloured ones."""
    middle = [round((index + 0.5) * len(clip.luma) / (MOMENTS / 2)) for index in range(MOMENTS // 2)]
    shown = [min(moment + step, len(clip.luma) - 1) for moment in middle for step in (0, 2)]
    rows = [np.hstack([frames[index] for index in shown]) for frames in versions.values()]
    for name, frames in versions.items():
        if name != "gray":
            rows.append(np.hstack([_amplified(frames[index]) for index in shown]))
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.vstack(rows)[..., ::-1])


def _amplified(frame: Bytes) -> Bytes:
    _, red, blue = cv2.split(cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb))
    return _rgb(np.full(red.shape, 128, np.uint8), blue, red, 6, AMPLIFY)


def left(row: Row, name: str) -> float:
    """The part of a figure above gray's floor, with the stabiliser relative to without."""
    gray, plain, steady = (getattr(version, name) for version in (row["gray"], row["unsteadied"], row["steadied"]))
    return float((steady - gray) / (plain - gray))


def mean(rows: list[Row]) -> Row:
    """Figure by figure; of the largest differences at borders, the largest."""

    def version(versions: list[Figures]) -> Figures:
        return Figures(*np.mean([dataclasses.astuple(one) for one in versions], axis=0).tolist())

    return Row(
        frames=sum(row["frames"] for row in rows),
        cuts=[],
        gray=version([row["gray"] for row in rows]),
        unsteadied=version([row["unsteadied"] for row in rows]),
        steadied=version([row["steadied"] for row in rows]),
        truth=version([row["truth"] for row in rows]),
        border_mean=float(np.mean([row["border_mean"] for row in rows])),
        border_largest=max(row["border_largest"] for row in rows),
        elsewhere_largest=max(row["elsewhere_largest"] for row in rows),
        milliseconds=float(np.mean([row["milliseconds"] for row in rows])),
    )


HEADING = (
    f"{'':12}{'CDC x1000':^28}{'warp error x10000':^32}{'colourfulness':^20}{'PSNR':^14}\n"
    f"{'clip':12}{'gray':>6}{'plain':>7}{'steady':>7}{'left':>6}{'truth':>7}{'gray':>7}{'plain':>7}{'steady':>7}"
    f"{'left':>6}{'truth':>7}{'plain':>7}{'steady':>7}{'truth':>7}{'plain':>7}{'steady':>7}"
)


def line(name: str, row: Row) -> str:
    """A row of the table under HEADING."""
    gray, plain, steady, truth = row["gray"], row["unsteadied"], row["steadied"], row["truth"]
    return (
        f"{name:12}{gray.cdc:6.2f}{plain.cdc:7.2f}{steady.cdc:7.2f}{left(row, 'cdc'):6.0%}{truth.cdc:7.2f}"
        f"{gray.warp:7.2f}{plain.warp:7.2f}{steady.warp:7.2f}{left(row, 'warp'):6.0%}{truth.warp:7.2f}"
        f"{plain.colourfulness:7.2f}{steady.colourfulness:7.2f}{truth.colourfulness:7.2f}"
        f"{plain.psnr:7.2f}{steady.psnr:7.2f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of colour clips")
    parser.add_argument("--stabilize", type=float, default=Look().stabilize, help="strength (default %(default)s)")
    parser.add_argument("--frames", type=int, default=160, help="read at most so many of each clip (default 160)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--sheet", type=Path, help="a folder for a picture of each clip")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    engine = CpuEngine(colorizers.load(), EngineSettings())
    rows: dict[str, Row] = {}
    print(HEADING)
    for file in sorted(path for path in arguments.data.iterdir() if path.is_file()):
        clip = read(file, engine.manifest, arguments.frames)
        rows[clip.name] = measure(clip, engine, arguments.stabilize, arguments.sheet)
        print(line(clip.name, rows[clip.name]), flush=True)
    rows["mean"] = average = mean(list(rows.values()))
    print(line("mean", average))
    print(
        f"borders of segments: mean {average['border_mean']:.4f}, largest {average['border_largest']:.4f}, "
        f"elsewhere largest {average['elsewhere_largest']:.4f} code values; {average['milliseconds']:.2f} ms a frame"
    )
    if arguments.json:
        plain = {name: {**row, **_plain(row)} for name, row in rows.items()}
        arguments.json.write_text(json.dumps(plain, indent=1) + "\n")
    return 0


def _plain(row: Row) -> dict[str, object]:
    versions = {name: row[name] for name in ("gray", "unsteadied", "steadied", "truth")}
    return {name: dataclasses.asdict(version) for name, version in versions.items()}


if __name__ == "__main__":
    raise SystemExit(main())
