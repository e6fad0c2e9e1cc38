"""What an exported file loses: PyTorch against ONNX Runtime in fp32, fp16 and int8 against fp32.

    python -m benchmarks.precision --data STILLS.zip --json precision.json

The shipped colorizer in fp32, `quality`, which is trained, is measured on stills; PyTorch against ONNX Runtime was
measured when it was exported. Of each recipe of the family a small untrained network is measured too: it shows that the
operators are computed alike, not how much a trained one would lose. --calibration adds how ranges are best chosen for
int8.

The table is printed as Markdown. Speed is ONNX Runtime's on one thread of the CPU, fp32 and int8 in turns: take it on
an idle machine.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationMethod

from kinochrome_export import int8, loss, pictures, precision, to_onnx
from kinochrome_export.cpu import session
from kinochrome_proto import colorizer_file
from kinochrome_proto.colorizer_file import Colorizer
from kinochrome_proto.errors import BadColorizer
from kinochrome_proto.manifest import Manifest
from kinochrome_server import colorizers
from kinochrome_trainer import colour, networks, provenance, recipe

LINES = 128  # at which the untrained networks paint
SMALL: dict[str, list[str]] = {"light-unet": [], "unet": ["generator.width=16"], "resnet": ["generator.width=16"]}
STEPS = "trained_steps"
METHODS: dict[str, tuple[CalibrationMethod, dict[str, Any]]] = {
    "MinMax": (CalibrationMethod.MinMax, {}),
    "Percentile 99.9": (CalibrationMethod.Percentile, {"CalibPercentile": 99.9}),
    "Percentile 99.99": (CalibrationMethod.Percentile, {"CalibPercentile": 99.99}),
    "Percentile 99.999": (CalibrationMethod.Percentile, {"CalibPercentile": 99.999}),
    "Entropy": (CalibrationMethod.Entropy, {}),
}


def untrained(name: str, folder: Path) -> Colorizer:
    """A small network of a recipe, with weights of chance, exported."""
    chosen = recipe.load(name)
    chosen = recipe.load(name, SMALL[chosen.generator.name])
    torch.manual_seed(0)
    network = networks.generator(chosen.generator).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.reset_parameters()  # the light U-Net begins with an output layer of next to nothing
    manifest = Manifest(
        family=chosen.system,
        working_size=LINES,
        size_multiple=network.size_multiple,
        chroma_stride=network.chroma_stride,
        chroma_encoding=colour.CHROMA_ENCODING,
        licence=to_onnx.LICENCE,
        noise_length=network.noise_length,
        recipe={STEPS: 0},
    )
    file = folder / f"{name}.onnx"
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter tells of its steps
        to_onnx.write_network(network, manifest, file)
    return colorizer_file.read(file)


def figures(colorizer: Colorizer, data: Sequence[Path], count: int) -> dict[str, Any]:
    """All that is known of one file."""
    manifest = colorizer.manifest
    found: dict[str, Any] = {
        STEPS: manifest.recipe.get(STEPS),
        "working_size": manifest.working_size,
        "parity": {name: manifest.parity[name] for name in ("largest", "mean")},
    }
    for name in ("fp16", "int8"):
        try:
            found[name] = precision.measured(colorizer, name, data, count).loss
        except BadColorizer as error:
            found[name] = {"refused": str(error)}
    return found


def calibration(colorizer: Colorizer, data: Sequence[Path], count: int) -> Iterator[dict[str, Any]]:
    """int8 by each method and number of last layers kept in fp32: a row each."""
    learnt, shown = pictures.from_stills(data, colorizer.manifest, 2 * count).in_colour().halves()
    feeds = [picture.feed for picture in learnt.items]
    model, fp32 = onnx.load_model_from_string(colorizer.content), session(colorizer.content)
    for name, (method, options) in METHODS.items():
        for kept, quantized in enumerate(int8.quantized(model, feeds, method, **options)):
            lost = loss.measure(fp32, session(quantized.SerializeToString()), shown)
            yield {"method": name, "last_layers_in_fp32": kept, **dataclasses.asdict(lost)}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Figures by name, in Markdown."""
    lines = [
        "| network | steps | ONNX Runtime, max | mean | fp16, max | mean | PSNR | int8, max | mean | PSNR "
        "| kept in fp32 | ms, fp32 | ms, int8 | times |",
        "|---|--:|" + "--:|" * 12,
    ]
    for name, row in rows.items():
        cells = [name, str(row[STEPS]), f"{row['parity']['largest']:.1g}", f"{row['parity']['mean']:.1g}"]
        for kind in ("fp16", "int8"):
            lost = row[kind]
            if "refused" in lost:
                cells += ["refused", "", ""]
            else:
                cells += [f"{lost['largest']:.3f}", f"{lost['mean']:.4f}", _decibels(lost["psnr_change"])]
        if speed := row["int8"].get("speed"):
            before, after = speed["fp32_ms"], speed["int8_ms"]
            kept = f"{row['int8']['last_layers_in_fp32']} layers"
            cells += [kept, f"{before:.2f}", f"{after:.2f}", f"{before / after:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def calibration_table(rows: Sequence[dict[str, Any]]) -> str:
    """What `calibration` gives, in Markdown: max, mean and PSNR by method across numbers of layers."""
    counts = sorted({row["last_layers_in_fp32"] for row in rows})
    lines = [f"| method | {' | '.join(f'{count} kept' for count in counts)} |", "|---|" + "--:|" * len(counts)]
    for name in METHODS:
        cells = [
            f"{row['largest']:.1f}, {row['mean']:.2f}, {_decibels(row['psnr_change'])}"
            for row in rows
            if row["method"] == name
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _decibels(change: float | None) -> str:
    return "" if change is None else f"{change:+.3f} dB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True, help="folder or zip of colour stills")
    parser.add_argument("--stills", type=int, default=precision.STILLS, help="of the shipped colorizer, at most")
    parser.add_argument("--few", type=int, default=8, help="stills for each untrained network")
    parser.add_argument("--calibration", action="store_true", help="compare methods of calibration too")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shipped = colorizers.load("quality")
    rows = {"shipped": figures(shipped, args.data, args.stills)}
    with tempfile.TemporaryDirectory() as folder:
        for name in recipe.names():
            rows[name] = figures(untrained(name, Path(folder)), args.data, args.few)
            print(name, flush=True)
    found: dict[str, Any] = {
        "machine": {**provenance.versions(), "cores": os.cpu_count(), "onnxruntime": onnxruntime.__version__},
        "networks": rows,
    }
    print(table(rows))
    if args.calibration:
        found["calibration"] = list(calibration(shipped, args.data, args.stills))
        print(calibration_table(found["calibration"]))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
