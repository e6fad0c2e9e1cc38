"""What `kinochrome inspect` and `kinochrome evaluate` found, for people."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

LISTED = 20  # cuts and spans named one by one; of more, the first and a count


def show(name: str, found: dict[str, Any]) -> None:
    """Print an `inspection.Inspection` in plain form."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(box=None, show_header=False, title=name, title_justify="left")
    table.add_column(style="dim")
    table.add_column()
    for key, value in _rows(found):
        table.add_row(key, value)
    console.print(table)


def tables(tables: Iterable[Any], notes: Iterable[str]) -> None:
    """Print each `evaluation.Table`, then the notes."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    for words in tables:
        table = Table(box=None, title=words.title, title_justify="left")
        for place, heading in enumerate(words.heading):
            table.add_column(heading, justify="left" if place < 2 else "right", style="dim" if place == 1 else None)
        for row in words.rows:
            table.add_row(*row)
        console.print(table)
        console.print()
    for note in notes:
        console.print(note, highlight=False, markup=False)


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "container", f"{found['container']}, {found['duration']:.2f} s, {found['chapters']} chapters"
    for stream in found["streams"]:
        about = [stream["type"], stream["codec"], stream["language"], stream["title"]]
        yield f"stream {stream['index']}", ", ".join(word for word in about if word)
    turned = f", turned by {found['rotation']} degrees" if found["rotation"] else ""
    aspect = f", pixels {found['sample_aspect_ratio']}" if found["sample_aspect_ratio"] != "1:1" else ""
    yield "picture", f"{found['width']}x{found['height']}{aspect}{turned}, {found['fields']}"
    yield "samples", f"{found['pix_fmt']}, {found['depth']} bits, {found['range']} range, matrix {found['matrix']}"
    yield "frames", f"{found['frames']} at {found['frame_rate']:g} a second, {found['frame_rate_kind']} rate"
    yield "shots", f"{found['shots']}" + _listed(", cuts at", [f"{cut:.2f}" for cut in found["cuts"]], " s")
    spans = [f"{span['start']:.2f} to {span['end']:.2f}" for span in found["in_colour"]]
    yield "in colour", _listed("", spans, " s") or "no shot"
    yield "segments", f"{found['segments']}, coloured apart and several at a time"
    if found["estimated_seconds"]:
        yield "to colour it", f"about {found['estimated_seconds']:.0f} s here"
    for warning in found["warnings"]:
        yield "warning", warning


def _listed(before: str, words: list[str], unit: str) -> str:
    if not words:
        return ""
    more = f" and {len(words) - LISTED} more" if len(words) > LISTED else ""
    return (
        f"{before} {', '.join(words[:LISTED])}{unit}{more}".strip()
        if not before
        else f"{before} {', '.join(words[:LISTED])}{unit}{more}"
    )
