"""Every test process keeps to one core: several that each use all of them wait for each other most of the time."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from typing import TYPE_CHECKING, Any, TextIO

import pytest

if TYPE_CHECKING:
    from tests.export.exports import Exports
    from tests.promises import Kept


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of film × promise, from what the corpus tests recorded."""
    from tests.promises import Kept

    rows = [
        Kept(**value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", [])
        if name == "kept" and getattr(report, "when", "") == "call"
    ]
    if rows:
        terminalreporter.section("film × promise")
        table(sorted(rows, key=lambda kept: kept.film), terminalreporter._tw)


def table(rows: "list[Kept]", out: "TextIO | Any") -> None:
    """Write one line a film and one column a promise."""
    columns = list(dict.fromkeys(name for kept in rows for name in kept.promises))
    lines = [["film", *columns], *([kept.film, *(kept.promises.get(name, "") for name in columns)] for kept in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns) + 1)]
    for line in lines:
        out.write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n")


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where jobs that were begun are kept in mind, and a server's address: not the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        for name in ("SERVER", "TOKEN", "TLS_CA", "TLS_CERT", "TLS_KEY"):
            patch.delenv(f"KINOCHROME_{name}", raising=False)
        yield


@pytest.fixture(scope="session")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random VGG-19 weights."""
    from tests.trainer import weights  # not above: most tests need no torch

    return weights.vgg(tmp_path_factory.mktemp("weights") / "vgg19.pth")


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, whose generator students can learn from."""
    from tests.trainer import weights

    return weights.teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> "Exports":
    """Colorizer files of the recipes, by name; each is exported once for all test processes."""
    from tests.export.exports import Exports

    own = tmp_path_factory.getbasetemp()
    return Exports((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "exports")
