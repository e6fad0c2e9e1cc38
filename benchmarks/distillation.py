"""What a teacher is worth: one light student trained with it and without, measured beside it.

    python -m benchmarks.distillation --budget 20 --out runs/distillation --color STILLS.zip --data HELD_OUT.zip

The teacher is the `default` recipe without its discriminator, 64 pixels; the student the same network with a quarter
of its channels. Half of the budget, in minutes of one thread's processor time, goes to the teacher. The other half is
shared by three students:

    distilled       the `distilled` recipe
    alone           the same steps on the truth alone, which take less time
    alone-longer    the truth alone for the time that `distilled` takes

Each step of the command is kept: given again it carries on, and what is done is not done again, save for the timing.
The folder then holds each run with its report, its .onnx file, `distillation.json`, and `distillation.md`, the table.

Milliseconds: one frame of 160 x 224 through ONNX Runtime on one thread, the models taking turns; the fastest of many
turns, since what else runs on the machine can only slow them down.
"""

import argparse
import json
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from kinochrome_export import to_onnx
from kinochrome_proto.manifest import LUMA
from kinochrome_trainer import checkpoint, cost, evaluation, loop, recipe, systems
from kinochrome_trainer.colour import rgb_to_ycbcr
from kinochrome_trainer.distillation import on_grid
from kinochrome_trainer.metrics import paint, picture
from kinochrome_trainer.networks import Generator
from kinochrome_trainer.recipe import Recipe
from kinochrome_trainer.stills import Stills
from kinochrome_trainer.system import Batch

SIZE = 64
BATCH = 16
FRAME = (160, 224)  # a 4:3 frame at the lines that the shipped colorizer works at, in its multiples
ANCHOR = (256, 256)  # the size that MACs are published for
TURNS = 200
COMMON = (
    "data.workers=0",
    "checkpoint_every=100",
    "sample_every=2000",
    f"phases=[{{size={SIZE}, batch={BATCH}, steps=1}}]",
)
TRUTH_ALONE = ("loss.adversarial=0", "loss.adversarial_from=0")
STUDENT = ("generator.width=12", "generator.dropout=0")
RUNS = {
    "teacher": ("default", TRUTH_ALONE),
    "alone": ("default", (*TRUTH_ALONE, *STUDENT)),
    "alone-longer": ("default", (*TRUTH_ALONE, *STUDENT)),
    "distilled": ("distilled", STUDENT),
}
"""Recipe and overrides."""


@dataclass(frozen=True)
class Study:
    """Where everything lies."""

    out: Path
    colour: Path
    held_out: Path
    more: tuple[str, ...]
    """Overrides of all recipes."""

    def recipe(self, name: str) -> Recipe:
        """Of a run, one step long."""
        base, overrides = RUNS[name]
        teacher = (f"teacher.run={self.out / 'teacher'}",)
        return recipe.load(base, [*COMMON, *teacher, *overrides, *self.more])


def seconds_per_step(chosen: Recipe) -> float:
    """Processor time of one step of training, on this thread."""
    system, size = systems.build(chosen), chosen.size
    batch = Batch(torch.rand(chosen.phases[0].batch, 3, size, size), None, gray_is_real=False)
    taken = []
    for step in range(8):
        started = time.process_time()
        system.step(batch, step, torch.Generator().manual_seed(step))
        taken.append(time.process_time() - started)
    return statistics.median(taken[2:])


def plan(study: Study, budget: float) -> None:
    """Train everything within `budget` seconds of processor time, as far as that is foreseen."""
    file = study.out / "plan.json"
    steps: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}

    def keep(more: dict[str, int]) -> None:
        steps.update(more)
        file.write_text(json.dumps(steps, indent=2) + "\n")

    if "teacher" not in steps:
        keep({"teacher": max(1, int(budget / 2 / seconds_per_step(study.recipe("teacher"))))})
    train(study, "teacher", steps["teacher"])
    if "distilled" not in steps:
        with_teacher, without = (seconds_per_step(study.recipe(name)) for name in ("distilled", "alone"))
        common = max(1, int(budget / 2 / (2 * with_teacher + without)))
        keep({"alone": common, "distilled": common, "alone-longer": max(1, round(common * with_teacher / without))})
    for name in ("alone", "distilled", "alone-longer"):
        train(study, name, steps[name])


def train(study: Study, name: str, steps: int) -> None:
    """Train one run to its end, or carry it on."""
    run = study.out / name
    if not checkpoint.checkpoints(run / "checkpoints"):
        shutil.rmtree(run, ignore_errors=True)  # stopped before its first checkpoint
    elif checkpoint.described(checkpoint.latest(run))[1] == steps:
        return
    print(f"{time.strftime('%H:%M:%S')} {name}: {steps} steps", flush=True)
    loop.train(study.recipe(name), run, colour=[study.colour], steps=steps, resume=True, machine=loop.Machine("cpu"))


def measure(study: Study, name: str) -> dict[str, Any]:
    """All figures of a run but its milliseconds. What is there already is not measured again."""
    run, file = study.out / name, study.out / f"{name}.json"
    painter, chosen, step = checkpoint.painter(checkpoint.latest(run))
    if file.exists():
        kept: dict[str, Any] = json.loads(file.read_text())
        if kept["steps"] == step:
            return kept
    print(f"{time.strftime('%H:%M:%S')} measuring {name}", flush=True)
    to_onnx.export(run, study.out / f"{name}.onnx")
    stills = Stills([study.held_out])
    teacher, _, _ = checkpoint.painter(checkpoint.latest(study.out / "teacher"))
    figures: dict[str, Any] = {
        "steps": step,
        "macs": cost.macs(painter, *ANCHOR),
        "macs_of_frame": cost.macs(painter, *FRAME),
        "parameters": cost.parameters(painter),
        "from_teacher": distance(painter, teacher, stills, chosen.size),
        **evaluation.evaluate(painter, stills, chosen.size).plain(),
    }
    file.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def distance(painter: Generator, teacher: Generator, stills: Stills, lines: int) -> float:
    """Mean difference of chroma, in 8-bit code values, over stills."""
    found = []
    for index in range(len(stills)):
        luma, _ = rgb_to_ycbcr(picture(stills, index))
        ours, theirs = (paint(network, luma, lines) for network in (painter, teacher))
        found.append(255 * (ours - on_grid(theirs, ours)).abs().mean().item())
    return statistics.mean(found)


def milliseconds(files: dict[str, Path]) -> dict[str, float]:
    """Shortest time of one frame, by model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = {
        name: onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
        for name, file in files.items()
    }
    luma = np.random.default_rng(0).integers(0, 256, (1, 1, *FRAME), dtype=np.uint8)
    taken: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(TURNS):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(None, {LUMA: luma})
            taken[name].append(1000 * (time.perf_counter() - started))
    return {name: min(times) for name, times in taken.items()}


def table(figures: dict[str, dict[str, Any]]) -> str:
    """In Markdown."""
    columns = ("PSNR, dB", "ΔE 2000", "colourfulness", "from the teacher, 8 bits")
    lines = [
        f"| | steps | GMACs at 256×256 | parameters | ms | {' | '.join(columns)} |",
        "|---|" + "--:|" * (4 + len(columns)),
    ]
    first = figures["teacher"]
    for base in ("gray", "mean_chroma"):
        lines.append(f"| *{base.replace('_', ' ')}* | | | | | {_quality(first, base)} | |")
    lines.append(f"| *truth* | | | | | | | {first['truth_colourfulness']:.1f} | |")
    for name, row in figures.items():
        size = f"{row['macs'] / 1e9:.3f} | {row['parameters'] / 1e6:.2f} M | {row['milliseconds']:.2f}"
        lines.append(f"| {name} | {row['steps']} | {size} | {_quality(row, 'ours')} | {row['from_teacher']:.2f} |")
    return "\n".join(lines) + "\n"


def _quality(row: dict[str, Any], version: str) -> str:
    (low, high), mean = row["intervals"][version]["psnr"], row[version]
    psnr = f"{mean['psnr']:.2f} ± {(high - low) / 2:.2f}"
    return f"{psnr} | {mean['delta_e2000']:.2f} | {mean['colourfulness']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the study's folder")
    parser.add_argument("--budget", type=float, required=True, help="minutes that training may take")
    parser.add_argument("--color", type=Path, required=True, help="folder or zip of colour stills to train on")
    parser.add_argument("--data", type=Path, required=True, help="folder or zip of held-out ones, to measure on")
    parser.add_argument("--set", action="append", default=[], metavar="path=value", help="override of all recipes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    study = Study(args.out, args.color, args.data, tuple(args.set))
    plan(study, args.budget * 60)
    figures = {name: measure(study, name) for name in RUNS}
    for name, taken in milliseconds({name: args.out / f"{name}.onnx" for name in RUNS}).items():
        figures[name]["milliseconds"] = round(taken, 3)
    (args.out / "distillation.json").write_text(json.dumps(figures, indent=2) + "\n")
    text = table(figures)
    (args.out / "distillation.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
