"""Small curves as SVG that sits inside a page and takes its colours and type from it."""

import re
from collections.abc import Sequence
from io import StringIO

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

# Drawn in stand-in colours, which then become the page's, so that a chart follows it into dark mode.
QUIET, RULE, ACCENT = "#010101", "#020202", "#030303"
PAGE_COLOURS = {QUIET: "var(--quiet)", RULE: "var(--rule)", ACCENT: "var(--accent)"}
POINTS = 600  # more than a chart has pixels in width: longer curves are thinned to means of so many stretches
SMOOTHED_OVER = 40  # a running mean takes in this part of a curve's points


def curve(name: str, x: Numbers, y: Numbers, marks: Sequence[tuple[float, str]] = (), smoothed: bool = True) -> str:
    """An <svg> of y over x (steps). NaN and infinity leave a gap.

    Args:
        name: unlike that of any other chart on the page; sets its ids apart.
        x: (N,), rising.
        y: (N,).
        marks: vertical lines with a label each, at places on x.
        smoothed: draw y faintly with its running mean over it; else y alone, over a vertical axis that starts at 0.
    """
    y = np.where(np.isfinite(y), y, np.nan)
    line = running_mean(y) if smoothed else y
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}):
        figure = Figure(figsize=(4.4, 2.2), layout="constrained")  # inches of 72 px
        axes = figure.add_subplot()
        axes.set_xlim(0, max(float(x[-1]), 1) * 1.02)
        axes.set_ylim(*bounds(y, line) if smoothed else (0, 1.05 * max(float(np.nanmax(y, initial=0)), 1e-9)))
        _mark(axes, marks)
        if smoothed:
            axes.plot(*thinned(x, y), color=ACCENT, alpha=0.3, linewidth=1)
        alone = np.isfinite(y).sum() == 1  # a line needs two points
        axes.plot(*thinned(x, line), color=ACCENT, linewidth=1.6, marker="o" if alone else "", markersize=4)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.tick_params(colors=QUIET, length=0)
        axes.grid(axis="y", color=RULE, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.patch.set_visible(False)
        figure.patch.set_visible(False)
        text = StringIO()
        figure.savefig(text, format="svg")
    return _inlined(text.getvalue())


def _mark(axes: Axes, marks: Sequence[tuple[float, str]]) -> None:
    """Vertical lines, their labels above the chart; one too near to its neighbour goes a row higher."""
    width = axes.get_xlim()[1]
    row, before = 0, -width
    for place, label in marks:
        axes.axvline(place, color=RULE, linewidth=1, linestyle=(0, (3, 3)))
        row = row + 1 if place - before < 0.13 * width else 0
        before = place
        axes.annotate(
            label,
            (place, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3 + 9 * row),
            textcoords="offset points",
            ha="center" if place else "left",
            color=QUIET,
            size=8,
        )


def running_mean(y: Numbers) -> Numbers:
    """Mean of the values around each, a SMOOTHED_OVERth of them all; NaN where y is, and left out of the means."""
    present = np.isfinite(y)
    window = np.ones(max(1, len(y) // SMOOTHED_OVER))
    sums, counts = (np.convolve(row, window, "same")[: len(y)] for row in (np.where(present, y, 0), present))
    return np.where(present, sums / np.maximum(counts, 1), np.nan)


def thinned(x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
    """At most POINTS points, each the mean of a stretch; NaN where a stretch holds nothing else."""
    if len(x) <= POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), POINTS)
    means = [np.mean(y[part][np.isfinite(y[part])]) if np.isfinite(y[part]).any() else np.nan for part in parts]
    return np.array([x[part].mean() for part in parts]), np.array(means)


def bounds(y: Numbers, smooth: Numbers) -> tuple[float, float]:
    """Limits of the vertical axis: all that matters of the curve, but not the spike that many losses start with."""
    settled = np.concatenate(
        [smooth[len(smooth) // 50 :], np.nanpercentile(y, [2, 98]) if np.isfinite(y).any() else []]
    )
    settled = settled[np.isfinite(settled)]
    if not len(settled):
        return 0.0, 1.0
    low, high = float(settled.min()), float(settled.max())
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def short(value: float) -> str:
    """0, 0.035, 20, 4k, 1.5M, 2e−4: as short as a tick must be."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    text = f"{value:.4g}"
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    return text.replace("-", "\N{MINUS SIGN}")


def _inlined(svg: str) -> str:
    """Matplotlib's SVG file as an element of an HTML page: no prologue, namespaces, metadata, fixed size or colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' id="(?:figure|axes|patch|matplotlib|line2d|text|xtick|ytick)[\w.]*"', "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for stand_in, colour in PAGE_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return svg.strip()
