"""`kinochrome evaluate`, of runs and of colorizer files."""

import json
from pathlib import Path

import pytest
import torch

from kinochrome_trainer import checkpoint, recipe, systems
from tests import films
from tests.client import command
from tests.client.test_cli import kinochrome
from tests.export import made
from tests.films import Kind
from tests.trainer import pictures
from tests.trainer.test_classifier import caffe

NAMES = {"evaluation.json", "evaluation-stills.csv", "evaluation-worst.jpg", "evaluation-best.jpg"}


@pytest.fixture(scope="module")
def stills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures.zipped(pictures.make(tmp_path_factory.mktemp("data") / "stills", 5))


def test_a_colorizer_file_is_measured_with_everything(tmp_path: Path, stills: Path) -> None:
    made.make(tmp_path / "mine.onnx", noise_length=4)
    clip = films.make(tmp_path, Kind("clip.mp4", frames=12))
    torch.save(caffe(), tmp_path / "squeezenet.pth")
    arguments: list[str | Path] = [
        "--classifier",
        tmp_path / "squeezenet.pth",
        "--sequences",
        clip,
        "--neighbours",
        stills,
    ]
    done = kinochrome("evaluate", tmp_path / "mine.onnx", "--data", stills, *arguments)
    assert done.returncode == 0, done.stderr
    for words in ("5 stills at 32 lines", "PSNR, dB", "nearest neighbour", "ΔE 2000", "diversity", "CDC", "recognised"):
        assert words in done.stdout
    folder = tmp_path / "mine.evaluation"
    assert {file.name for file in folder.iterdir()} == NAMES
    table = json.loads((folder / "evaluation.json").read_text())
    assert table["step"] == 5 and table["model"] == "mine.onnx" and table["working_size"] == 32
    assert table["truth"]["recognition"] == 1 and table["ours"]["diversity"] > 1
    assert table["nearest_neighbour"]["mae"] < 1  # the stills are among the neighbours
    assert table["sequences"]["clips"][0]["name"] == "clip.mp4"


def test_a_run_keeps_its_figures_for_the_export(tmp_path: Path, stills: Path) -> None:
    settings = ["generator.width=8", "generator.depth=2", "discriminator.layers=1", "phases.0.size=32"]
    small = recipe.load("default", settings)
    run = tmp_path / "run"
    checkpoint.save(run / "checkpoints", systems.build(small), small, 3)
    done = kinochrome("evaluate", run, "--data", stills, "--json", "--size", "48")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed == json.loads((run / "evaluation.json").read_text())
    assert printed["step"] == 3 and printed["working_size"] == 48 and "sequences" not in printed
    assert {file.name for file in run.iterdir()} == NAMES | {"checkpoints"}
    assert any("no classifier" in note for note in printed["notes"])


def test_what_cannot_be_measured_is_one_line(tmp_path: Path, stills: Path) -> None:
    made.make(tmp_path / "mine.onnx")
    (tmp_path / "bad.onnx").write_text("no model")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[list[str | Path], str]] = [
        ([tmp_path / "bad.onnx", "--data", stills], "is text, not an ONNX model"),
        ([tmp_path / "mine.onnx", "--data", tmp_path / "empty"], "holds no still"),
        ([tmp_path / "mine.onnx", "--data", stills, "--classifier", "squeeze"], "--classifier squeeze is no file"),
        ([tmp_path / "mine.onnx", "--data", stills, "--sequences", tmp_path / "empty"], "holds no clip"),
    ]
    for arguments, words in cases:
        done = command.run("evaluate", *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("kinochrome: ") and done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr
    assert not (tmp_path / "mine.evaluation").exists()
