"""What colorizer files say of themselves, for people. Strangers may have written it: it is printed as plain text."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

MODELS = ("name", "family", "lines", "precision", "MB", "PSNR over gray", "colourfulness", "licence", "sha256")
EVALUATED = {
    "stills": "stills",
    "working_size": "lines",
    "step": "steps of training",
    "truth_colourfulness": "true colourfulness",
}
LONGEST = 400  # characters of what a file says of one thing


def listing(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a plain table."""
    table = Table(box=None)
    for words in heading:
        table.add_column(Text(words))
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def model_row(colorizer: Any) -> list[str]:
    """A row of MODELS, of a `colorizer_file.Colorizer`."""
    manifest, figures = colorizer.manifest, _versions(colorizer.manifest.evaluation)
    ours, gray = figures.get("ours", {}), figures.get("gray", {})
    truth = _number(manifest.evaluation.get("truth_colourfulness"))
    known = "psnr" in ours and "psnr" in gray
    return [
        colorizer.name,
        manifest.family,
        str(manifest.working_size),
        manifest.precision,
        f"{len(colorizer.content) / 1e6:.1f}",
        f"{ours['psnr'] - gray['psnr']:+.2f} dB" if known else "not measured",
        f"{ours['colourfulness'] / truth:.0%} of truth" if truth and "colourfulness" in ours else "",
        manifest.licence,
        colorizer.sha256[:12],
    ]


def model(colorizer: Any) -> None:
    """Print what a `colorizer_file.Colorizer` says of itself."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(box=None, show_header=False, title=Text(colorizer.name), title_justify="left")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for key, value in _model_rows(colorizer):
        table.add_row(Text(key), Text(value))
    console.print(table)
    figures = _versions(colorizer.manifest.evaluation)
    if figures:
        console.print()
        names = list(dict.fromkeys(name for numbers in figures.values() for name in numbers))
        rows = [[name, *(_figure(numbers.get(name)) for numbers in figures.values())] for name in names]
        listing(("on held-out stills", *figures), rows)


def _model_rows(colorizer: Any) -> Iterator[tuple[str, str]]:
    manifest = colorizer.manifest
    recipe, evaluation, parity = manifest.recipe, manifest.evaluation, manifest.parity
    yield "file", f"{colorizer.path}, {len(colorizer.content) / 1e6:.1f} MB, format version {manifest.format_version}"
    yield "sha256", colorizer.sha256
    yield "licence", manifest.licence
    yield "family", f"{manifest.family}: {_line(recipe['about'])}" if recipe.get("about") else manifest.family
    yield (
        "paints",
        (
            f"at {manifest.working_size} lines, sizes that are multiples of {manifest.size_multiple}, "
            f"1/{manifest.chroma_stride} of their lines, in {manifest.chroma_encoding}"
        ),
    )
    styles = (
        f"as many as there are seeds, by {manifest.noise_length} numbers of noise" if manifest.noise_length else "one"
    )
    yield "colourings", styles
    yield "precision", manifest.precision
    for name, value in manifest.precision_loss.items():
        yield f"  {_line(name)}", _line(value)
    for name, value in recipe.items():
        if name != "about":
            yield ("trained, " if name == next(iter(recipe)) else "  ") + _line(name), _line(value)
    if {"largest", "mean"} <= parity.keys():
        cases = parity.get("cases")
        tried = [case for case in cases if isinstance(case, list)] if isinstance(cases, list) else []
        sizes = ", ".join("x".join(map(str, case)) for case in tried)
        largest, mean = _figure(parity["largest"]), _figure(parity["mean"])
        yield "from PyTorch", f"{largest} code values at most, {mean} on average, on {_line(sizes)}"
    if evaluation:
        facts = [f"{_figure(evaluation[name])} {words}" for name, words in EVALUATED.items() if name in evaluation]
        yield "evaluated", ", ".join(facts)
    else:
        yield "evaluated", "no: `kinochrome evaluate` takes its figures"


def _versions(evaluation: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of an evaluation, the figures of each painter: ours, gray, and others."""
    found = {}
    for name, figures in evaluation.items():
        if isinstance(figures, dict) and name not in ("settings", "intervals", "sequences"):
            numbers = {_line(key): number for key, value in figures.items() if (number := _number(value)) is not None}
            if numbers:
                found[_line(name)] = numbers
    return found


def _number(value: object) -> float | None:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30 else None
    )


def _figure(value: object) -> str:
    number = _number(value)
    return "" if number is None else str(value) if isinstance(value, int) else f"{number:.4g}"


def _line(value: object) -> str:
    """What a file says, on one line of moderate length."""
    if isinstance(value, dict):
        words = ", ".join(f"{key} {_line(inner)}" for key, inner in value.items())
    elif isinstance(value, list):
        words = ", ".join(map(_line, value))
    else:
        words = str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in words[:LONGEST])
