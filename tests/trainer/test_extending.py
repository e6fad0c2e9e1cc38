"""docs/extending.md does what it says: its diffs apply, its recipe trains, its commands run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kinochrome_server import colorizers
from tests.trainer import pictures

ROOT = Path(__file__).parents[2]


def blocks(kind: str) -> list[str]:
    """The page's code blocks of a kind, in order."""
    page = (ROOT / "docs" / "extending.md").read_text()
    return re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)


@pytest.mark.slow
def test_the_page_works_as_written(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "trainer", tmp_path / "trainer", ignore=shutil.ignore_patterns("__pycache__"))
    for diff in blocks("diff"):
        applied = subprocess.run(
            ["git", "apply", "--unidiff-zero", "-"], input=diff, cwd=tmp_path, capture_output=True, text=True
        )
        assert applied.returncode == 0, applied.stderr
    (recipe,) = blocks("toml")
    name = re.match(r"# (\S+)\n", recipe)
    assert name
    (tmp_path / name[1]).write_text(recipe)
    pictures.make(tmp_path / "stills", 12, (80, 72))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "trainer"), "OMP_NUM_THREADS": "1"}
    (commands,) = blocks("console")
    for command in commands.strip().splitlines():
        program, *words = command.split()
        done = subprocess.run(
            [str(Path(sys.executable).with_name(program)), *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    header, *_, last = (tmp_path / "runs" / "smooth" / "log.csv").read_text().splitlines()
    row = dict(zip(header.split(","), last.split(","), strict=True))
    assert float(row["variation"]) > 0
    manifest = colorizers.load(str(tmp_path / "smooth.onnx")).manifest
    assert manifest.recipe["generator"]["name"] == "dilated" and manifest.chroma_stride == 4
