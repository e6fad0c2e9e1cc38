"""The training loop: one for every system. A run is a folder; the same command with --resume carries it on.

    run/recipe.json        the recipe as resolved, the versions, the state of the code, the command's data
    run/log.csv            a line every LOG_EVERY steps: step, seconds since the start or resume, pictures per second,
                           crop size, learning rate, mean losses
    run/events/            the same and the samples, for TensorBoard
    run/checkpoints/       the newest states, each whole
    run/samples/           sheets: gray, ours, truth
    run/report.html        all of it on one page

Everything random in step k follows from (seed, k) and the process's rank, so a resumed run arrives at the weights of
an uninterrupted one, bit for bit in one process on a CPU with the same number of threads. Of several processes, each
has an image pool and running statistics of its own, and checkpoints hold the first one's.
"""

import csv
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from tensorboardX import SummaryWriter
from torch import Tensor

from . import checkpoint, provenance, report, samples, systems
from . import recipe as recipes
from .errors import BadData, BadRecipe, BadRun, Diverged, Stopped
from .recipe import Phase, Recipe
from .stills import Stills, batches, check, shrunk, to_tensor
from .system import Batch, System

LOG_EVERY = 20
SAMPLE_STILLS = 8  # rows of a sample sheet for each of colour and gray
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}  # ours → Fabric's
ACCELERATORS = ("auto", "cpu", "cuda", "mps")
MAY_CHANGE = (
    "about",
    "checkpoint_every",
    "sample_every",
    "data.workers",
    "optimizer.lr",
    "optimizer.discriminator_lr",
    "optimizer.clip",
    "start",
    "teacher.run",
    "classifier.weights",
    "features.weights",
)
"""Settings that a resumed run may have otherwise than it began."""


@dataclass(frozen=True)
class Progress:
    """Where a run is; given to the caller's callback after each step."""

    step: int
    steps: int
    pictures_per_second: float
    losses: dict[str, float]


@dataclass(frozen=True)
class Machine:
    """What a run trains on: not part of its recipe."""

    accelerator: str = "auto"
    """auto takes a GPU where there is one; or cpu, cuda, mps."""
    devices: int = 1
    """Processes, each with a device of its own; on a CPU they share its cores."""

    def fabric(self, recipe: Recipe) -> Fabric:
        """Lightning Fabric for them, its processes started. Raises BadRecipe when the machine has no such devices."""
        if self.accelerator not in ACCELERATORS:
            raise BadRecipe(f"cannot train on {self.accelerator!r}; choose from {', '.join(ACCELERATORS)}")
        devices = int(os.environ.get("LOCAL_WORLD_SIZE", self.devices))  # torchrun has started them already
        try:
            fabric = Fabric(
                accelerator=self.accelerator,
                devices=devices,
                strategy="ddp" if devices > 1 else "auto",
                precision=PRECISIONS[recipe.precision],  # type: ignore[arg-type] # one of its literals
            )
            fabric.launch()
        except (ValueError, RuntimeError) as error:  # Lightning's MisconfigurationException is a ValueError
            raise BadRecipe(f"cannot train on {devices} x {self.accelerator}: {error}".splitlines()[0]) from None
        return fabric


def train(
    recipe: Recipe,
    run: Path,
    *,
    colour: Sequence[Path],
    gray: Sequence[Path] = (),
    steps: int | None = None,
    resume: bool = False,
    machine: Machine = Machine(),
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> int | None:
    """Train to the end of the recipe's last phase; return the number of steps done, or None beside the first process.

    Args:
        recipe: what to train.
        run: the run's folder.
        colour: folders or zip archives of colour stills.
        gray: folders or zips of real black-and-white stills: the domain X of unpaired systems, which otherwise make
            it from half of the colour stills; distillation learns from them too; pix2pix shows them in its samples.
        steps: length of the run, instead of the recipe's.
        resume: carry on from the newest checkpoint, or begin where there is none yet. Recipe and stills must be those
            of the run, save for its length and what MAY_CHANGE names.
        machine: devices to train on. With several, each process runs this function; only the first writes and calls
            back, and a step's batch is shared out among them.
        on_progress: called after each step.
        on_warning: called with a line for people: broken stills, a cache that could not be written.

    Ctrl-C ends the run after the step in hand, with a checkpoint, and then raises Stopped.
    Raises BadRun when the folder holds a run and `resume` is off, BadData, BadRecipe, Diverged.
    """
    recipe = systems.named(recipe.system).settled(recipe)
    colour_stills, gray_stills = Stills(colour), Stills(gray)
    fabric = machine.fabric(recipe)
    warn = on_warning if fabric.is_global_zero else lambda text: None
    y, x = _domains(recipe, colour_stills, gray_stills, fabric, warn)
    known = _broken(y, x)
    recipe = recipe.resolved(len(y), steps)
    for index, phase in enumerate(recipe.phases):
        if phase.batch % fabric.world_size:
            raise BadRecipe(
                f"phases.{index}.batch {phase.batch} cannot be shared out evenly to {fabric.world_size} devices"
            )
    if recipe.loss.adversarial and recipe.loss.adversarial_from >= recipe.steps:
        warn(f"the discriminator joins at step {recipe.loss.adversarial_from}, after the end of this run")
    described = {
        "recipe": recipes.to_table(recipe),
        "data": {
            "colour": [source.name for source in colour],
            "stills": len(colour_stills),
            "gray": [source.name for source in gray],
            "gray_stills": len(gray_stills),
        },
        "versions": provenance.versions(),
        "git": provenance.git_state(Path(__file__).parent),
    }
    # Only the first process looks at the folder: by the time that another one does, the first may be writing in it.
    fault, newest = _look(run, recipe, described, resume) if fabric.is_global_zero else ("", None)
    fault, newest = fabric.broadcast((fault, newest))
    if fault:
        raise BadRun(fault)
    system, first = systems.build(recipe, fabric), 0
    if newest:
        system, _, first = checkpoint.restore(newest, fabric, recipe)
    elif recipe.start and (anew := checkpoint.start(system, Path(recipe.start))):
        warn(f"{anew} of the generator's tensors are not in {recipe.start}, or of another shape: they start anew")
    if fabric.is_global_zero:
        _claim(run, described, first)
    stop = _StopRequest()
    with stop, _denormals_flushed(), _Record(run, recipe, system, fabric, first) as record:
        record.shown = _shown(colour_stills, recipe), _shown(gray_stills, recipe)
        step = first
        for phase, start, end in recipe.stretches():
            if end <= first:
                continue
            feed = _feed(y, x, recipe, phase, max(start, first), end, fabric)
            for colour_batch, gray_batch in feed:
                _schedule(system, recipe, phase, step)
                seed, for_dropout = _step_seeds(recipe.seed, step, fabric.global_rank)
                torch.manual_seed(for_dropout)
                batch = Batch(
                    _on(fabric, colour_batch), None if gray_batch is None else _on(fabric, gray_batch), len(gray) > 0
                )
                losses = system.step(batch, step, torch.Generator(fabric.device).manual_seed(seed))
                step += 1
                losses, stopping = _agreed(losses, stop.requested, fabric)
                if not all(map(math.isfinite, losses.values())):
                    raise Diverged(f"loss is {losses} at step {step}; {checkpoint.last_good(run / 'checkpoints')}")
                last = step == recipe.steps or stopping
                speed = record.add(step, phase, losses, last=last)
                if fabric.is_global_zero:
                    on_progress(Progress(step, recipe.steps, speed, losses))
                if stopping:
                    raise Stopped if fabric.is_global_zero else SystemExit(130)
    if (broken := _broken(y, x)) > known:
        warn(f"{broken} stills turned out to be broken in the course of this run; others stood in for them")
    return step if fabric.is_global_zero else None


def _domains(
    recipe: Recipe, colour: Stills, gray: Stills, fabric: Fabric, warn: Callable[[str], None]
) -> tuple[Stills, Stills | None]:
    """The stills to learn from: colour, and gray for systems that need or take it."""
    largest = math.ceil(max(phase.size for phase in recipe.phases) / recipe.data.zoom)
    system = systems.named(recipe.system)
    with fabric.rank_zero_first():  # which makes the copies that the others then find
        y = shrunk(colour, largest, on_warning=warn)
        x = shrunk(gray, largest, on_warning=warn) if (system.UNPAIRED or system.TAKES_GRAY) and len(gray) else None
    for stills in (y, x):
        if stills is not None and (broken := check(stills)):
            warn(f"{broken} stills are broken; others stand in for them")
    if system.UNPAIRED and x is None:
        if recipe.data.keep_color:
            raise BadData("this recipe translates between two sets of pictures: name them with --gray and --color")
        if len(y) < 2:
            raise BadData("gray is made from half of the colour stills, but there is only one: add more, or --gray")
        y, x = y.halves(recipe.seed)
    return y, x


def _broken(y: Stills, x: Stills | None) -> int:
    return len(y.faults) + (len(x.faults) if x else 0)


def _feed(
    y: Stills, x: Stills | None, recipe: Recipe, phase: Phase, first: int, end: int, fabric: Fabric
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches of colour, and of gray where there is that domain, of a phase's steps from `first` on."""

    def drawn(stills: Stills, stream: int) -> Iterator[Tensor]:
        return batches(
            stills,
            recipe.data,
            size=phase.size,
            batch=phase.batch,
            seed=recipe.seed,
            first_step=first,
            steps=end,
            stream=stream,
            share=(fabric.global_rank, fabric.world_size),
        )

    if x is None:
        return ((batch, None) for batch in drawn(y, 0))
    return zip(drawn(y, 0), drawn(x, 1), strict=True)


def _on(fabric: Fabric, batch: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) -> 0..1, on the device."""
    return fabric.to_device(batch).float() / 255


def _agreed(losses: dict[str, float], stopping: bool, fabric: Fabric) -> tuple[dict[str, float], bool]:
    """Mean losses over the processes, and whether any of them was asked to stop: all stop after the same step."""
    if fabric.world_size == 1:
        return losses, stopping
    row = torch.tensor([float(stopping), *losses.values()], device=fabric.device)
    row = cast(Tensor, fabric.all_reduce(row, reduce_op="mean"))
    asked, *means = row.tolist()
    return dict(zip(losses, means, strict=True)), asked > 0


def _look(run: Path, recipe: Recipe, described: dict[str, Any], resume: bool) -> tuple[str, Path | None]:
    """What is wrong with the run's folder, if anything, and the checkpoint to carry on from, if there is one."""
    found = checkpoint.checkpoints(run / "checkpoints")
    try:
        if run.is_file():
            return f"{run} is a file: name a folder with --out", None
        if not resume:
            filled = run.exists() and any(run.iterdir())
            return (f"{run} is not empty: add --resume to carry it on, or choose another --out" if filled else ""), None
        if not found:
            if run.exists() and any(run.iterdir()) and not (run / "recipe.json").exists():
                return f"{run} is no run to resume: it holds neither a checkpoint nor a recipe", None
            return "", None
        trained, step = checkpoint.described(found[-1])
        _check_same(run, trained, recipe, described)
        if recipe.steps < step:
            return f"{run} has done {step} steps already: --steps {recipe.steps} would take some back", None
    except (BadRun, OSError) as error:
        return str(error), None
    return "", found[-1]


def _claim(run: Path, described: dict[str, Any], first: int) -> None:
    """Make the run's folder ready for step `first`."""
    run.mkdir(parents=True, exist_ok=True)
    _trim_log(run / "log.csv", first)
    partial = run / "recipe.json.partial"
    partial.write_text(json.dumps(described, indent=2) + "\n")
    partial.rename(run / "recipe.json")


def _check_same(run: Path, trained: Recipe, asked: Recipe, described: dict[str, Any]) -> None:
    """Raises BadRun when a run would be carried on with another recipe or other stills."""
    before, now = (_flat(recipes.to_table(recipe)) for recipe in (trained, asked))
    for key in sorted(before.keys() | now.keys()):
        if not key.endswith(".steps") and key not in MAY_CHANGE and now.get(key) != before.get(key):
            raise BadRun(
                f"{run} was started with {key}={before.get(key)}, not {now.get(key)}: "
                "resume it with that, or start another"
            )
    file = run / "recipe.json"
    if file.exists() and (data := recipes.described(file)["data"]) != described["data"]:
        raise BadRun(f"{run} was started with other stills ({data['stills']} in {', '.join(data['colour'])})")


def _flat(table: object, prefix: str = "") -> dict[str, object]:
    if isinstance(table, dict | list | tuple):
        entries = table.items() if isinstance(table, dict) else enumerate(table)
        flat: dict[str, object] = {}
        for key, value in entries:
            flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: table}


def _step_seeds(seed: int, step: int, rank: int) -> tuple[int, int]:
    """Two seeds for one step of one process: of the system's own chances, and of dropout."""
    first, second = np.random.SeedSequence((seed, step, rank)).generate_state(2, np.uint64)
    return int(first >> 1), int(second >> 1)


def _schedule(system: System, recipe: Recipe, phase: Phase, step: int) -> None:
    """Linear warm-up, flat, then straight to zero from `decay_from` of the run on; times the phase's own factor."""
    settings = recipe.optimizer
    done = step / recipe.steps
    factor = phase.lr * min(1.0, (1 - done) / max(1 - settings.decay_from, 1e-9))
    if step < settings.warmup_steps:
        factor *= (step + 1) / settings.warmup_steps
    for optimizer in system.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


def _shown(stills: Stills, recipe: Recipe) -> list[Tensor]:
    """Stills spread over the set, the same in every sheet of a run."""
    if not len(stills):
        return []
    indices = np.linspace(0, len(stills) - 1, min(SAMPLE_STILLS, len(stills))).astype(int)
    shown = []
    for index in indices:
        try:
            picture = stills.open(int(index))
        except BadData:
            continue  # `check` tells of broken stills
        picture.thumbnail((4 * recipe.size, 4 * recipe.size), Image.Resampling.BICUBIC)
        shown.append(to_tensor(picture).unsqueeze(0))
    return shown


class _Record:
    """What a run writes down, in its first process: log.csv, events, samples, checkpoints, report."""

    shown: tuple[list[Tensor], list[Tensor]] = ([], [])

    def __init__(self, run: Path, recipe: Recipe, system: System, fabric: Fabric, first: int) -> None:
        self.run, self.recipe, self.system, self.fabric, self.first = run, recipe, system, fabric, first
        self.since, self.started, self.pictures, self.speed = time.monotonic(), time.monotonic(), 0, 0.0
        self.rows: list[dict[str, float]] = []

    def __enter__(self) -> "_Record":
        self.file: TextIO | None = None
        if self.fabric.is_global_zero:
            self.file = (self.run / "log.csv").open("a", newline="")
            self.events = SummaryWriter(str(self.run / "events"), purge_step=self.first + 1)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.file:
            self.file.close()
            self.events.close()

    def add(self, step: int, phase: Phase, losses: dict[str, float], *, last: bool) -> float:
        """Take one step's losses; return pictures per second over the last lines."""
        self.rows.append(losses)
        self.pictures += phase.batch
        if last or step % LOG_EVERY == 0:
            self._line(step, phase)
        if last or step % self.recipe.checkpoint_every == 0:
            if self.file:
                self.file.flush()
                checkpoint.save(self.run / "checkpoints", self.system, self.recipe, step)
            self.fabric.barrier()
        if self.file and (last or step % self.recipe.sample_every == 0):
            self._sample(step, phase)
            report.write(self.run)
        return self.speed or self.pictures / max(time.monotonic() - self.since, 1e-9)

    def _line(self, step: int, phase: Phase) -> None:
        now = time.monotonic()
        self.speed = self.pictures / max(now - self.since, 1e-9)
        columns = {name: [row[name] for row in self.rows if name in row] for name in self.system.losses}
        means = {name: sum(column) / len(column) for name, column in columns.items() if column}
        rate = self.system.optimizers["generator"].param_groups[0]["lr"]
        if self.file:
            writer = csv.writer(self.file)
            if self.file.tell() == 0:
                writer.writerow(["step", "seconds", "pictures_per_second", "size", "lr", *columns])
            values = [f"{means[name]:.5f}" if name in means else "" for name in columns]
            seconds = f"{now - self.started:.1f}"
            writer.writerow([step, seconds, f"{self.speed:.1f}", phase.size, f"{rate:.2e}", *values])
            self.file.flush()
            for name, value in {"lr": rate, "pictures_per_second": self.speed, **means}.items():
                self.events.add_scalar(name, value, step)
        self.since, self.pictures, self.rows = now, 0, []

    def _sample(self, step: int, phase: Phase) -> None:
        if self.file and any(self.shown):
            colour, gray = ([still.float() / 255 for still in stills] for stills in self.shown)
            page = samples.sheet(
                self.system.average,
                colour,
                gray,
                lines=phase.size,
                device=self.fabric.device,
                translate=self.recipe.data.keep_color,
            )
            samples.save(page, self.run / "samples" / f"step-{step:08d}.jpg")
            self.events.add_image("samples", np.asarray(page), step, dataformats="HWC")


def _trim_log(file: Path, step: int) -> None:
    """Drop lines past the checkpoint that a run resumes from: those steps will be logged again."""
    if not file.exists():
        return
    lines = file.read_text().splitlines()
    kept = [line for line in lines if not line[:1].isdigit() or int(line.split(",")[0]) <= step]
    file.write_text("".join(line + "\n" for line in kept))


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """While entered, numbers too small to matter are 0 in this thread: they are slow to compute with on a CPU."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # of the whole process's Python too: others may count on them


class _StopRequest:
    """While entered, the first SIGINT or SIGTERM asks the loop to save and stop; a second one is the usual one."""

    def __enter__(self) -> "_StopRequest":
        self.requested = False
        self.previous = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self.previous[signal.Signals(number)])

    def __exit__(self, *exc: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
