"""Films coloured by the workers that all tests of a process share."""

import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

from kinochrome_server.pipeline import Report, Settings, colorize
from kinochrome_server.pool import WorkerPool
from kinochrome_server.sources import FileSource, Source
from tests.server.serving import KINOCHROME

MS = Fraction(1, 1000)  # the clock of Matroska: times in it survive exactly
LONG = {"sc_threshold": "0"}  # a film's groups of pictures are as long as it asks for
STEADY = range(0, 130 * 40, 40)


POOL: WorkerPool | None = None
"""Set by the fixture `shared_workers`."""


def run(film: Path | Source, out: Path, **settings: Any) -> tuple[Report, list[str]]:
    """Colour a film; return the report and what was warned of."""
    said: list[str] = []
    source = FileSource(film) if isinstance(film, Path) else film
    with out.open("wb") as sink:
        given = Settings(container=out.suffix[1:], **settings)
        report = colorize(source, sink, given, on_warning=said.append, pool=POOL)
    return report, said


def command(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """`kinochrome colorize`, in a process of its own."""
    return subprocess.run([KINOCHROME, "colorize", *arguments], capture_output=True, text=True, timeout=120)
