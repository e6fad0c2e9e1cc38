"""Real films and stills that lie beside a development checkout; tests that want them skip, saying so, without."""

import os
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no real films and stills beside this checkout")


def films() -> list[Path]:
    """Every real film, or none."""
    return sorted((DATA / "films").iterdir()) if DATA.is_dir() else []


def odd() -> list[Path]:
    """Odd and broken films: every fourth, or all of them with KINOCHROME_CORPUS=all; or none."""
    every = 1 if os.environ.get("KINOCHROME_CORPUS") == "all" else 4
    return sorted((DATA / "odd").iterdir())[::every] if DATA.is_dir() else []
