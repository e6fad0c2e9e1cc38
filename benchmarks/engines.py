"""Engines beside each other, and beside PyTorch, in one run: milliseconds a frame, and how near the machine's best.

    python -m benchmarks.engines --json engines.json --plot engines.png

For each size and batch, rounds in which every engine paints the batch once, PyTorch does (the same network with the
same weights: eager, eager with its norms folded as in the file, and compiled for that very shape), and a square matrix
product is timed; a model in int8 runs beside the fp32 file that it was made from. Of each the median counts, since
other work on the machine comes and goes. Before anything is timed each is held against the engine "cpu". The machine's
peak is the fastest matrix product of the whole run, of the engines' own number of threads.

Each engine's start is timed apart: a fresh process, from its start to the first picture painted.
"""

import argparse
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kinochrome_proto.errors import KinochromeError
from kinochrome_server import colorizers
from kinochrome_server.engines import choice
from kinochrome_server.engines.interface import EngineSettings

from .graph_cost import multiply_adds
from .torch_twin import Twin, twin

LINES = (160, 256, 384)
BATCHES = (1, 2, 4, 8, 16, 32)
TWIN_TOLERANCE = 0.01 / 255
"""The network in PyTorch must give the file's numbers within a hundredth of a code value."""
ENGINE_TOLERANCE = 1 / 255
PRODUCT = 1536
"""Side of the matrices whose product is the machine's peak: large enough for it, small beside a batch."""
STARTS = 9
"""Fresh processes, of which the median counts."""
TORCH = ("torch eager", "torch eager, folded", "torch compile")
"""The network as it was trained; with its batch norms folded into its convolutions, as in the file; that, compiled."""

Luma = npt.NDArray[np.uint8]
Paint = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One engine at one size and batch."""

    engine: str
    lines: int
    columns: int
    batch: int
    ms: float
    """Milliseconds a frame, the median."""
    gflops: float
    """Two for each multiply-add that the graph states, whatever the engine really does."""
    share: float = math.nan
    """Of the machine's peak."""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=colorizers.DEFAULT, help="a shipped colorizer or an .onnx file")
    parser.add_argument(
        "--network", default="quality", help="of a model in int8, the fp32 file that it was made from, timed beside it"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lines", type=int, nargs="+", default=list(LINES))
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = colorizers.load(arguments.model)
    network = _network(model, arguments.network)
    expected = _expected(network)
    trained, folded = (twin(network, expected, TWIN_TOLERANCE, folded=folded) for folded in (False, True))
    usable = {word: (word, network) for word in _usable(network, arguments.threads)}
    if model is not network:
        usable |= {f"{word}, int8": (word, model) for word in _usable(model, arguments.threads)}
    rows: list[Row] = []
    peak = 0.0
    for lines in arguments.lines:
        shape = _picture(lines, network.manifest.size_multiple)
        operations = 2 * multiply_adds(network.content, *shape)
        for batch in arguments.batches:
            luma = np.random.default_rng(0).integers(0, 256, (batch, *shape), np.uint8)
            paints = {name: _painting(*which, luma, arguments.threads) for name, which in usable.items()}
            paints |= _torch(trained, folded, luma)
            seconds, product = _rounds(paints, arguments.rounds)
            peak = max(peak, 2 * PRODUCT**3 / product / 1e9)
            for name, took in seconds.items():
                rows.append(Row(name, *shape, batch, 1000 * took / batch, operations * batch / took / 1e9))
                print(f"{name:15} {shape[1]}x{shape[0]} batch {batch:2}: {rows[-1].ms:8.2f} ms a frame", flush=True)
    rows = [Row(**{**asdict(row), "share": row.gflops / peak}) for row in rows]
    report = {
        "colorizer": {"sha256": model.sha256, "precision": model.manifest.precision},
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {word: choice.described(word) for word, _ in usable.values()} | {"torch": version("torch")},
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "peak_gflops": peak,
        "start_s": {name: _start(word, str(which.path)) for name, (word, which) in usable.items()},
        "rows": [asdict(row) for row in rows],
    }
    print(table(rows, peak))
    print("start to first picture: " + ", ".join(f"{word} {took:.2f} s" for word, took in report["start_s"].items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.plot:
        plot(rows, peak, arguments.plot)


def table(rows: list[Row], peak: float) -> str:
    """Markdown: a line for each engine, size and batch."""
    lines = [
        f"Peak, by matrix product: {peak:.0f} GFLOP/s.",
        "",
        "| engine | picture | batch | ms a frame | GFLOP/s | of the peak |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row.lines, row.batch)):
        lines.append(
            f"| {row.engine} | {row.columns}x{row.lines} | {row.batch} | {row.ms:.2f} | {row.gflops:.1f} | "
            f"{row.share:.0%} |"
        )
    return "\n".join(lines)


def plot(rows: list[Row], peak: float, file: Path) -> None:
    """Milliseconds a frame over the batch, a panel for each size."""
    from matplotlib.figure import Figure

    sizes = sorted({(row.lines, row.columns) for row in rows})
    figure = Figure(figsize=(4 * len(sizes), 4), layout="constrained")
    for axes, (lines, columns) in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        here = [row for row in rows if row.lines == lines]
        for name in dict.fromkeys(row.engine for row in here):
            line = sorted((row.batch, row.ms) for row in here if row.engine == name)
            axes.plot(*zip(*line, strict=True), marker="o", label=name)
        best = 1000 * next(row.gflops * row.ms / 1000 for row in here) / peak
        axes.axhline(best, color="gray", linestyle=":", label="at the machine's fp32 peak")
        axes.set(title=f"{columns}x{lines}", xlabel="batch", xscale="log", ylim=(0, None))
        axes.set_xticks(sorted({row.batch for row in here}), [str(n) for n in sorted({row.batch for row in here})])
        axes.minorticks_off()
    figure.axes[0].set_ylabel("milliseconds a frame")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize="small")
    figure.savefig(file, dpi=120)


def _picture(lines: int, multiple: int) -> tuple[int, int]:
    """Height and width of a 4:3 picture for the colorizer."""
    return round(lines / multiple) * multiple, round(lines * 4 / 3 / multiple) * multiple


def _network(model: colorizers.Colorizer, name: str) -> colorizers.Colorizer:
    """The model's network in fp32: itself, or the one of that name, which it must have been made from."""
    if model.manifest.precision != "int8":
        return model
    network = colorizers.load(name)
    if model.manifest.precision_loss.get("fp32_sha256") != network.sha256:
        raise SystemExit(f"--network {network.path} is not what {model.path} was made from")
    return network


def _expected(colorizer: colorizers.Colorizer) -> Callable[[Tensor], Tensor]:
    engine = choice.choose("cpu", colorizer, EngineSettings())
    return lambda luma: torch.from_numpy(engine.run(luma[:, 0].numpy()))


def _usable(colorizer: colorizers.Colorizer, threads: int) -> list[str]:
    """Engines that load and give what the CPU gives; why not the others is printed."""
    words = []
    luma = np.random.default_rng(1).integers(0, 256, (2, *_picture(160, colorizer.manifest.size_multiple)), np.uint8)
    expected = choice.choose("cpu", colorizer, EngineSettings()).run(luma)
    for word in choice.ENGINES:
        try:
            engine = choice.choose(word, colorizer, EngineSettings(threads=threads, batch=len(luma)))
        except KinochromeError as error:
            print(f"without {word}: {error}")
            continue
        if (apart := float(np.abs(engine.run(luma) - expected).max())) > ENGINE_TOLERANCE:
            raise SystemExit(f"engine {word} differs from cpu by {255 * apart:.2f} code values")
        words.append(word)
    return words


def _painting(word: str, colorizer: colorizers.Colorizer, luma: Luma, threads: int) -> Paint:
    engine = choice.engine_class(word)(colorizer, EngineSettings(threads=threads, batch=len(luma)))
    return lambda: engine.run(luma)


def _torch(trained: Twin, folded: Twin, luma: Luma) -> dict[str, Paint]:
    torch.compiler.reset()  # compiled for each shape by itself: torch's best
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained, folded = trained.to(device), folded.to(device)
    compiled = torch.compile(folded, dynamic=False)
    given = torch.from_numpy(luma[:, np.newaxis])

    def painting(run: Callable[[Tensor], Tensor]) -> Paint:
        def paint() -> object:
            with torch.inference_mode():
                return run(given.to(device)).cpu().numpy()

        return paint

    return dict(zip(TORCH, (painting(trained), painting(folded), painting(compiled)), strict=True))


def _rounds(paints: dict[str, Paint], rounds: int) -> tuple[dict[str, float], float]:
    """Median seconds of each, and the least of the matrix product; each has run once before."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.rand(PRODUCT, PRODUCT, device=device) for _ in range(2))

    def product() -> object:
        return (left @ right)[0, 0].item()

    seconds: dict[str, list[float]] = {name: [] for name in (*paints, "product")}
    gc.collect()
    for count in range(rounds + 1):
        for name, paint in {**paints, "product": product}.items():
            started = time.perf_counter()
            paint()
            if count:
                seconds[name].append(time.perf_counter() - started)
    fastest = min(seconds.pop("product"))
    return {name: statistics.median(took) for name, took in seconds.items()}, fastest


def _start(word: str, model: str) -> float:
    """Median seconds from the start of a fresh process until its first picture is painted."""
    program = (
        "import sys\n"
        "from kinochrome_server import colorizers\n"
        "from kinochrome_server.engines import choice\n"
        "from kinochrome_server.engines.interface import EngineSettings\n"
        "choice.choose(sys.argv[1], colorizers.load(sys.argv[2]), EngineSettings())\n"
        "print(flush=True)"
    )
    took = []
    for _ in range(STARTS):
        started = time.perf_counter()
        with subprocess.Popen([sys.executable, "-c", program, word, model], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            took.append(time.perf_counter() - started)
        if process.returncode:
            raise SystemExit(f"engine {word} did not start in a process of its own")
    return statistics.median(took)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named: dict[str, Any] = dict(line.partition("\t: ")[::2] for line in lines)
    return str(named.get("model name", platform.machine()))


if __name__ == "__main__":
    main()
