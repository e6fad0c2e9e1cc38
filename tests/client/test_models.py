"""`kinochrome models`: what colorizer files say of themselves, and whether it is true."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from kinochrome_proto import probe as probes
from kinochrome_server import colorizers
from tests.client import command
from tests.export import made


def test_models_lists_what_ships() -> None:
    done = command.run("models")
    assert done.returncode == 0, done.stderr
    heading, *rows = done.stdout.splitlines()
    assert heading.split()[:5] == ["name", "family", "lines", "precision", "MB"]
    assert [row.split()[0] for row in rows] == colorizers.shipped()


def test_show_tells_figures_licence_and_checksum() -> None:
    done = command.run("models", "show", "default")
    assert done.returncode == 0, done.stderr
    manifest, sha256 = colorizers.load().manifest, colorizers.load().sha256
    figures = manifest.evaluation["ours"]
    for words in (
        sha256,
        "Apache-2.0",
        "light U-Net",
        "14000",
        f"{figures['psnr']:.4g}",
        "code values at most",
        "stills",
    ):
        assert words in done.stdout, words
    printed = json.loads(command.run("models", "show", "default", "--json").stdout)
    assert printed["sha256"] == sha256 and printed["bytes"] == len(colorizers.load().content)
    assert {key: printed[key] for key in dataclasses.asdict(manifest)} == dataclasses.asdict(manifest)


def test_show_prints_what_strangers_wrote_as_plain_text(tmp_path: Path) -> None:
    evil = {"about": "[red]x[/blue]\x1b[2J", "list": [1, {"deep": None}], "long": "y" * 10_000}
    evaluation = {"ours": {"psnr": "no number", "[b]": 1e300, "mae": 0.5}, "gray": 7, "stills": [], "x": {"psnr": True}}
    parity = {"largest": "a", "mean": {}, "cases": [[1, "z"], 3]}
    file = tmp_path / "evil.onnx"
    made.make(
        file, recipe=evil, evaluation=evaluation, parity=parity, licence="[bold]MIT", precision_loss={"psnr": 0.1}
    )
    done = command.run("models", "show", file)
    assert done.returncode == 0, done.stderr
    assert "[red]x[/blue]?[2J" in done.stdout and "[bold]MIT" in done.stdout and "\x1b" not in done.stdout
    assert "0.5" in done.stdout and len(done.stdout) < 5000
    assert json.loads(command.run("models", "show", file, "--json").stdout)["recipe"] == evil


def with_probe(file: Path, *, off_by: float = 0.0) -> None:
    """A file that records what it paints, or something else."""
    made.make(file)
    engine_sees = np.frombuffer(probes.luma(*probes.size(8)), np.uint8).reshape(probes.size(8))
    small = engine_sees.reshape(2, engine_sees.shape[1] // 4, 4, engine_sees.shape[2] // 4, 4).mean((2, 4))
    chroma = np.stack([small, small], 1) * 0.1 / 255
    record = {
        "painted_by": "torch 9",
        "chroma": [value + off_by for value in probes.taken(chroma.ravel().tolist())],
        "tolerance": probes.TOLERANCE,
    }
    made.make(file, parity={"probe": record})


def test_verify_runs_files_and_compares_them_with_their_record(tmp_path: Path) -> None:
    with_probe(tmp_path / "good.onnx")
    done = command.run("models", "verify", tmp_path / "good.onnx", "default")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "good.onnx: whole, " in first and "code values from what torch 9 painted with it" in first
    assert second.startswith("default: whole, 0 code values from what onnxruntime 1.")


def broken(folder: Path) -> dict[str, str]:
    """Names of files that fail, and words that the line of each must hold."""
    with_probe(folder / "lies.onnx", off_by=3.0)
    made.make(folder / "garbled.onnx", parity={"probe": {"chroma": "none"}})
    made.make(folder / "stride.onnx", chroma_stride=8)
    model = made.made()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(np.nan, np.float32), "scale"))
    made.write(model, made.MANIFEST, folder / "nan.onnx")
    model = made.made()
    model.graph.node[2].attribute[0].i = 0
    made.write(model, made.MANIFEST, folder / "shape.onnx")
    made.make(folder / "flipped.onnx")
    content = bytearray((folder / "flipped.onnx").read_bytes())
    content[200] ^= 4
    (folder / "flipped.onnx").write_bytes(content)
    return {
        "lies.onnx": "code values otherwise than torch 9 did when it was made (at most 0.5 allowed)",
        "garbled.onnx": "the probe in its metadata is damaged",
        "stride.onnx": "gave chroma of (2, 2, 16, 18), by its metadata it should be (2, 2, 8, 9)",
        "nan.onnx": "paints numbers that are not finite",
        "shape.onnx": "shape.onnx",
        "flipped.onnx": "its checksum does not match",
        "none.onnx": "cannot be read",
    }


def test_verify_tells_of_each_file_that_fails_and_does_the_others(tmp_path: Path) -> None:
    words = broken(tmp_path)
    done = command.run("models", "verify", *(tmp_path / name for name in words), "default")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == len(words), done.stderr
    for line, (name, said) in zip(lines, words.items(), strict=True):
        assert line.startswith("kinochrome: ") and name in line and said in line, line
    assert done.stdout.startswith("default: whole")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "nope"], "no colorizer 'nope': choose from default, quality or an .onnx file"),
        (["show", "none.onnx"], "none.onnx cannot be read"),
        (["--server", "127.0.0.1:9", "show", "default"], "--server lists a server's colorizers"),
    ],
)
def test_what_cannot_be_shown_is_one_line(arguments: list[str], words: str) -> None:
    done = command.run("models", *arguments)
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1
