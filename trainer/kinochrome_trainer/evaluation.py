"""How good a painter is, over a set of held-out stills: means with intervals, beside those of trivial painters.

`evaluate` measures, `table` is for people, `write` keeps everything in a folder.
"""

import contextlib
import csv
import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import baselines, sequences
from .classifier import Classifier
from .colour import rgb_to_ycbcr, ycbcr_to_rgb
from .errors import BadData
from .metrics import SMALLEST, THRESHOLD, Figures, Painter, colourfulness, diversity, figures, noise, paint, picture
from .sequences import Clip
from .stills import Stills

VERSIONS = {
    "ours": "ours",
    "gray": "gray",
    "mean_chroma": "mean chroma",
    "nearest_neighbour": "nearest neighbour",
    "truth": "truth",
}
"""What is measured, with a heading for each: see `Evaluation.versions`."""
SEEDS = 4
RESAMPLES = 2000
SHOWN = 8  # rows of a sheet
PANEL = 160  # lines of a picture on a sheet
NAMES = ("evaluation.json", "evaluation-stills.csv", "evaluation-worst.jpg", "evaluation-best.jpg")
"""The files that `write` makes."""


@dataclass(frozen=True)
class Label:
    """How people read a figure."""

    text: str
    better: str
    """lower, higher, or nothing where neither is."""
    digits: int
    scale: float = 1.0


LABELS = {
    "psnr": Label("PSNR, dB", "higher", 2),
    "ssim": Label("SSIM", "higher", 4),
    "mae": Label("MAE, 8 bits", "lower", 2),
    "rmse": Label("RMSE, 8 bits", "lower", 2),
    "within": Label("pixels within threshold, %", "higher", 1, 100),
    "sum_at_128": Label("sum at 128×128, of -1..1", "lower", 0),
    "ab_error": Label("ab error", "lower", 2),
    "delta_e76": Label("ΔE 1976", "lower", 2),
    "delta_e2000": Label("ΔE 2000", "lower", 2),
    "colourfulness": Label("colourfulness", "", 1),
    "squeezenet_distance": Label("SqueezeNet distance", "lower", 4),
    "recognition": Label("recognised as the truth is, %", "higher", 1, 100),
    "diversity": Label("diversity, 8 bits", "", 2),
}
"""Every field of `Figures`, in the order of the table."""


@dataclass(frozen=True)
class Mean:
    """A mean over stills (or clips) and its 95 % interval.

    The interval is the percentile bootstrap's (Efron, 1979): of RESAMPLES resamples of the stills, with a fixed seed,
    the middle 95 % of their means. It speaks of other stills of the same kind, not of other training runs.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One version of one still."""

    index: int
    """Of the still, in the set."""
    still: str
    version: str
    figures: Figures | None
    """None for the truth, whose errors are all 0."""
    colourfulness: float
    neighbour: str = ""
    """The still whose chroma it wears, of the nearest neighbour's version."""


@dataclass(frozen=True)
class Evaluation:
    """All that `evaluate` found."""

    stills: int
    """Measured ones."""
    broken: int
    """Stills that could not be read, and were left out."""
    working_size: int
    """Lines to which the short side of each still was brought for the painter."""
    settings: dict[str, Any]
    """What the figures depend on besides the stills."""
    versions: dict[str, dict[str, Mean]]
    """By name, of VERSIONS, and figure, of `Figures`.

    ours: the painter, with the noise of seed 0. gray: painted nothing. mean_chroma: one colour all over, the mean
    (Cb, Cr) of the other stills. nearest_neighbour: the chroma, stretched to fit, of the other still whose luma is
    nearest, both at 16×16 (L2). truth: the still itself, of which only colourfulness (and recognition, 1 by
    definition) means something.
    """
    gain: dict[str, Mean]
    """Ours less gray, still by still, so that the interval is that of the difference."""
    rows: list[Row]
    clips: list[Clip]
    steadiness: dict[str, dict[str, Mean]]
    """By `sequences.VERSIONS` and field of `Steadiness`; means over clips. Empty without clips."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""
    ranked: list[int] = field(default_factory=list)
    """Indices of the measured stills, worst first, by their PSNR above gray's."""

    def plain(self) -> dict[str, Any]:
        """As JSON takes it: means by version and figure, the intervals beside them."""

        def means(named: dict[str, Mean]) -> dict[str, float]:
            return {name: round(mean.mean, 6) for name, mean in named.items()}

        def spans(named: dict[str, Mean]) -> dict[str, list[float]]:
            return {name: [round(mean.low, 6), round(mean.high, 6)] for name, mean in named.items()}

        table: dict[str, Any] = {
            "stills": self.stills,
            "broken": self.broken,
            "working_size": self.working_size,
            "settings": self.settings,
            **{version: means(named) for version, named in self.versions.items()},
            "gain": means(self.gain),
            "intervals": {
                **{version: spans(named) for version, named in self.versions.items()},
                "gain": spans(self.gain),
            },
            "truth_colourfulness": round(self.versions["truth"]["colourfulness"].mean, 6),
            "notes": self.notes,
        }
        if self.clips:
            table["sequences"] = {
                **{version: means(named) for version, named in self.steadiness.items()},
                "intervals": {version: spans(named) for version, named in self.steadiness.items()},
                "clips": [dataclasses.asdict(clip) for clip in self.clips],
            }
        return table


def means(values: npt.NDArray[np.float64]) -> list[Mean]:
    """Mean and interval of each column of (stills, columns)."""
    count = len(values)
    chance = np.random.default_rng(0)
    weights = chance.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    low, high = np.percentile(weights @ values, (2.5, 97.5), axis=0)
    columns = zip(values.mean(0), low, high, strict=True)
    return [Mean(float(mean), float(least), float(most)) for mean, least, most in columns]


def evaluate(
    painter: Painter,
    stills: Stills,
    lines: int,
    *,
    threshold: float = THRESHOLD,
    seeds: int = SEEDS,
    classifier: Classifier | None = None,
    neighbours: Stills | None = None,
    clips: Sequence[Path] = (),
    on_progress: Callable[[int, int, str], None] = lambda done, count, note: None,
) -> Evaluation:
    """Measure a painter (a network in eval mode) on colour stills, each made gray by Rec.601 luma.

    Args:
        painter: what is measured.
        stills: held-out ones.
        lines: to which the short side of each still is brought for the painter.
        threshold: of `Figures.within`, as a share of full scale.
        seeds: how many colourings of each still are compared, where the painter has several; 2 or more.
        classifier: for the figures that need one.
        neighbours: stills among which the nearest is sought, instead of the other held-out ones.
        clips: films or folders of frames (see `sequences.clips`), for steadiness.
        on_progress: called with stills done, their number, and what is being done besides.

    Raises BadData when more than 1 % of the stills are broken, or one is too small, or a clip cannot be used.
    """
    count = len(stills)
    glance = baselines.survey(stills, lambda done, _: on_progress(0, count, f"looking at {done}"))
    library = None
    if neighbours is not None:
        among = len(neighbours)
        library = baselines.survey(neighbours, lambda done, _: on_progress(0, count, f"{done} of {among} neighbours"))
    rows: list[Row] = []
    for place, index in enumerate(glance.indices):
        rgb = picture(stills, index)
        if min(rgb.shape[2:]) < SMALLEST:
            raise BadData(f"{_name(stills, index)} is too small to measure: a side has less than {SMALLEST} pixels")
        luma, _ = rgb_to_ycbcr(rgb)
        colourings = _colourings(painter, luma, lines, seeds)
        versions, lender = {"ours": colourings[:1], "gray": luma.expand_as(rgb)}, ""
        if len(glance.indices) > 1:
            versions["mean_chroma"] = ycbcr_to_rgb(luma, glance.mean_chroma(place).expand(-1, -1, *luma.shape[2:]))
        if library is not None or len(glance.indices) > 1:
            source, twin = (
                (glance.stills, glance.nearest(glance.luma[place], but=place))
                if library is None
                else (library.stills, library.nearest(glance.luma[place]))
            )
            borrowed = baselines.borrowed(source, twin, (luma.shape[2], luma.shape[3]))
            versions["nearest_neighbour"], lender = ycbcr_to_rgb(luma, borrowed), _name(source, twin)
        found = figures(torch.cat(list(versions.values())), rgb, threshold=threshold, classifier=classifier)
        for version, measured in zip(versions, found, strict=True):
            if version == "ours" and len(colourings) > 1:
                measured = dataclasses.replace(measured, diversity=diversity(colourings))
            neighbour = lender if version == "nearest_neighbour" else ""
            rows.append(Row(index, _name(stills, index), version, measured, measured.colourfulness, neighbour))
        rows.append(Row(index, _name(stills, index), "truth", None, colourfulness(rgb).item()))
        on_progress(place + 1, len(glance.indices), "")
    measured_clips = []
    for done, clip in enumerate(clips, 1):
        on_progress(len(glance.indices), len(glance.indices), f"clip {done} of {len(clips)}, {clip.name}")
        measured_clips.append(sequences.measure(painter, clip, lines, noise(painter, 0)))
    notes = []
    if classifier is None:
        notes.append("no classifier was named: the SqueezeNet distance and recognition are left out")
    if len(glance.indices) == 1:
        notes.append("one still has no others: baselines made of those are left out, and intervals say nothing")
    if not painter.noise_length:
        notes.append("the painter takes no noise: it has one colouring of each still, and no diversity")
    ours, gray = (
        np.array([row.figures.psnr for row in rows if row.version == name and row.figures]) for name in ("ours", "gray")
    )
    return Evaluation(
        stills=len(glance.indices),
        broken=len(stills) - len(glance.indices),
        working_size=lines,
        settings={
            "threshold": threshold,
            "seeds": seeds if painter.noise_length else 1,
            "classifier": classifier.name if classifier else None,
            "neighbours": len(neighbours) if neighbours is not None else "leave-one-out",
            "interval": f"95 %, percentile bootstrap over stills, {RESAMPLES} resamples",
        },
        versions=_by_version(rows, classifier is not None),
        gain=_gain(rows),
        rows=rows,
        clips=measured_clips,
        steadiness=_steadiness(measured_clips),
        notes=notes,
        ranked=[glance.indices[place] for place in np.argsort(ours - gray, kind="stable")],
    )


def _colourings(painter: Painter, luma: Tensor, lines: int, seeds: int) -> Tensor:
    """(K, 3, H, W): one colouring, or those of the first seeds, seed 0 first."""
    drawn = [noise(painter, seed) for seed in range(seeds)]
    noises = [one for one in drawn if one is not None]
    if not noises:
        return ycbcr_to_rgb(luma, paint(painter, luma, lines))
    lumas = luma.expand(len(noises), -1, -1, -1)
    return ycbcr_to_rgb(lumas, paint(painter, lumas, lines, torch.cat(noises)))


def _name(stills: Stills, index: int) -> str:
    """Of a still, without the folder that its source lies in."""
    source, name = stills.origins[index]
    return str(source.name / Path(name))


def _values(rows: Sequence[Row], version: str) -> dict[str, npt.NDArray[np.float64]]:
    """By figure, in the order of the stills; figures that were not taken are left out."""
    taken = [row.figures for row in rows if row.version == version and row.figures]
    columns = {name: [getattr(one, name) for one in taken] for name in LABELS}
    return {name: np.array(column) for name, column in columns.items() if column and None not in column}


def _by_version(rows: Sequence[Row], recognised: bool) -> dict[str, dict[str, Mean]]:
    found: dict[str, dict[str, Mean]] = {}
    for version in VERSIONS:
        values = _values(rows, version)
        if version == "truth":
            values = {"colourfulness": np.array([row.colourfulness for row in rows if row.version == version])}
            if recognised:
                values["recognition"] = np.ones_like(values["colourfulness"])
        if values:
            found[version] = _named(values)
    return found


def _gain(rows: Sequence[Row]) -> dict[str, Mean]:
    ours, gray = _values(rows, "ours"), _values(rows, "gray")
    return _named({name: ours[name] - gray[name] for name in gray})


def _steadiness(clips: Sequence[Clip]) -> dict[str, dict[str, Mean]]:
    found: dict[str, dict[str, Mean]] = {}
    for version in sequences.VERSIONS if clips else ():
        of_clips = [dataclasses.asdict(clip.versions[version]) for clip in clips]
        found[version] = _named({name: np.array([one[name] for one in of_clips]) for name in of_clips[0]})
    return found


def _named(values: dict[str, npt.NDArray[np.float64]]) -> dict[str, Mean]:
    return dict(zip(values, means(np.stack(list(values.values()), 1)), strict=True))


@dataclass(frozen=True)
class Table:
    """Rows of words for people."""

    title: str
    heading: list[str]
    rows: list[list[str]]


def tables(found: Evaluation) -> Iterator[Table]:
    """What was found, each mean with half the width of its interval behind ±."""
    columns = [version for version in VERSIONS if version in found.versions]
    threshold = f"{100 * found.settings['threshold']:g} % of full scale"
    stills = f"{found.stills} stills at {found.working_size} lines, threshold {threshold}"
    if found.broken:
        stills += f", {found.broken} broken left out"
    rows = []
    for name, label in LABELS.items():
        if name in found.versions["ours"]:
            cells = [_cell(found.versions[version].get(name), label) for version in columns]
            rows.append([label.text, label.better, *cells, _cell(found.gain.get(name), label, sign=True)])
    yield Table(
        f"{stills}; ± half of a 95 % interval",
        ["", "better", *(VERSIONS[version] for version in columns), "ours - gray"],
        rows,
    )
    if found.clips:
        kinds = {"cdc": Label("CDC ×1000", "lower", 2), "colourfulness": LABELS["colourfulness"]}
        rows = [
            [label.text, label.better, *(_cell(named[name], label) for named in found.steadiness.values())]
            for name, label in kinds.items()
        ]
        yield Table(f"{len(found.clips)} clips, frame by frame, not steadied", ["", "better", *found.steadiness], rows)


def _cell(mean: Mean | None, label: Label, *, sign: bool = False) -> str:
    if mean is None:
        return ""
    value, half = label.scale * mean.mean, label.scale * (mean.high - mean.low) / 2
    return f"{value:{'+' if sign else ''}.{label.digits}f} ±{half:.{label.digits}f}"


def write(found: Evaluation, folder: Path, painter: Painter, stills: Stills, head: dict[str, Any]) -> None:
    """Put NAMES into a folder, which is made if need be; each file is whole or not there.

    Args:
        found: what to write.
        folder: where.
        painter: to paint the sheets' pictures again.
        stills: those that were measured.
        head: entries for the top of the JSON file, such as the training step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report, rows, worst, best = (folder / name for name in NAMES)
    count = min(SHOWN, len(found.ranked))
    for file, shown in ((worst, found.ranked[:count]), (best, found.ranked[::-1][:count])):
        jpeg = io.BytesIO()
        sheet(painter, stills, shown, found).save(jpeg, "jpeg", quality=90)
        _replace(file, jpeg.getvalue())
    _replace(rows, _csv(found.rows).encode(errors="surrogateescape"))
    _replace(report, (json.dumps({**head, **found.plain()}, indent=2) + "\n").encode())


def sheet(painter: Painter, stills: Stills, indices: Sequence[int], found: Evaluation) -> Image.Image:
    """Gray, ours and the truth of each still, side by side; above, its PSNR over gray's, its PSNR, and its name."""
    by_index = {(row.index, row.version): row.figures for row in found.rows}
    font, above = ImageFont.load_default(14), 20
    rows = []
    for index in indices:
        rgb = picture(stills, index)
        luma, _ = rgb_to_ycbcr(rgb)
        ours = ycbcr_to_rgb(luma, paint(painter, luma, found.working_size, noise(painter, 0)))
        mine, gray = by_index[index, "ours"], by_index[index, "gray"]
        assert mine and gray
        gain = f"{mine.psnr - gray.psnr:+.2f} dB to {mine.psnr:.2f} dB"
        caption = f"{gain}  {_name(stills, index)}"
        panels = [_panel(one) for one in (luma.expand_as(rgb), ours, rgb)]
        rows.append((caption.encode(errors="replace").decode(), panels))
    width = max(640, *(sum(panel.width for panel in panels) for _, panels in rows))
    page = Image.new("RGB", (width, (PANEL + above) * len(rows)))
    draw = ImageDraw.Draw(page)
    for number, (caption, panels) in enumerate(rows):
        top, left = number * (PANEL + above), 0
        draw.text((2, top + 1), caption, "white", font)
        for panel in panels:
            page.paste(panel, (left, top + above))
            left += panel.width
    return page


def _panel(rgb: Tensor) -> Image.Image:
    pixels = (rgb[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    image = Image.fromarray(pixels)
    return image.resize((max(1, round(image.width * PANEL / image.height)), PANEL))


def _csv(rows: Sequence[Row]) -> str:
    """One line for each still and version; what was not taken is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["still", "version", *LABELS, "neighbour"])
    for row in rows:
        taken = dataclasses.asdict(row.figures) if row.figures else {"colourfulness": row.colourfulness}
        cells = ["" if (value := taken.get(name)) is None else f"{value:.6g}" for name in LABELS]
        writer.writerow([row.still, row.version, *cells, row.neighbour])
    return text.getvalue()


def _replace(file: Path, content: bytes) -> None:
    """Write a file under a passing name, then give it its own."""
    handle, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(partial, 0o644)  # mkstemp's 0600 is for secrets
        os.replace(partial, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
