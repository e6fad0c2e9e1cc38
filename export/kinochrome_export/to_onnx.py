"""Generator → colorizer file."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch

from kinochrome_proto.manifest import CHROMA, LUMA, NOISE, Manifest
from kinochrome_trainer import checkpoint, colour, recipe
from kinochrome_trainer.errors import BadRun
from kinochrome_trainer.networks import Generator

from . import parity, sealing
from .graph import LumaToChroma

OPSET = 20
LICENCE = "Apache-2.0"  # of the weights of this project's own training; --licence states another


def export(run: Path, target: Path, *, working_size: int | None = None, licence: str = LICENCE) -> Manifest:
    """Write the newest checkpoint's averaged generator of `run` as a colorizer file; return its manifest.

    Args:
        run: a training run's folder.
        target: the .onnx file to write; replaced only by a file that passed the parity check.
        working_size: lines at which films are to be painted; by default those of the run's evaluation, or
            else the size it was trained at.
        licence: SPDX identifier of the weights' licence.

    Raises BadRun (no usable checkpoint), ParityError (the file does not compute what the network does).
    """
    generator, trained, step = checkpoint.painter(checkpoint.latest(run))
    evaluation = _evaluation(run / "evaluation.json")
    if evaluation and evaluation.get("step") != step:
        raise BadRun(
            f"{run}: its evaluation is of step {evaluation.get('step')}, its newest checkpoint of step {step}: "
            "run `kinochrome evaluate` again"
        )
    described = run / "recipe.json"
    data = recipe.described(described)["data"] if described.exists() else {}
    manifest = Manifest(
        family=trained.system,
        working_size=working_size or evaluation.get("working_size", trained.size),
        size_multiple=generator.size_multiple,
        chroma_stride=generator.chroma_stride,
        chroma_encoding=colour.CHROMA_ENCODING,
        licence=licence,
        noise_length=generator.noise_length,
        recipe={**recipe.to_table(trained), "trained_steps": step, "trained_on": data},
        evaluation=evaluation,
    )
    return write_network(generator, manifest, target)


def write_network(generator: Generator, manifest: Manifest, target: Path) -> Manifest:
    """Write a network as a colorizer file; return its manifest with the parity measured. Raises ParityError."""
    graph = LumaToChroma(generator).eval()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        file = Path(folder) / target.name
        _write(graph, file, generator.size_multiple)
        measured = parity.measure(graph, file, generator.size_multiple)
        manifest = dataclasses.replace(manifest, parity=measured.plain())
        sealing.write(onnx.load(file), manifest, target)
    return manifest


def _evaluation(file: Path) -> dict[str, Any]:
    """A run's figures, or nothing where none were taken."""
    try:
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    except ValueError:
        raise BadRun(f"{file} is damaged: run `kinochrome evaluate` again") from None
    return found


def _write(graph: LumaToChroma, file: Path, multiple: int) -> None:
    rows, columns = (torch.export.Dim(name, min=1, max=4096) for name in ("rows", "columns"))
    batch = torch.export.Dim("batch", min=1, max=4096)
    names = [LUMA]
    examples = [torch.zeros(2, 1, 4 * multiple, 6 * multiple, dtype=torch.uint8)]
    shapes = {LUMA: {0: batch, 2: multiple * rows, 3: multiple * columns}}
    if length := graph.generator.noise_length:
        names.append(NOISE)
        examples.append(torch.zeros(2, length))
        shapes[NOISE] = {0: torch.export.Dim.AUTO}  # it is found to be the batch too
    program = torch.onnx.export(
        graph,
        tuple(examples),
        dynamo=True,
        opset_version=OPSET,
        input_names=names,
        output_names=[CHROMA],
        dynamic_shapes=shapes,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    program.save(file, external_data=False)
