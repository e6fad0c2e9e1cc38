"""The training loop: one for every system. A run is a folder; the same command with --resume carries it on.

    run/recipe.json        the recipe as resolved, the versions, the command's data
    run/log.csv            a line every LOG_EVERY steps: step, seconds since the start or resume, pictures per second,
                           learning rate, mean losses
    run/checkpoints/       the newest states, each whole
    run/samples/           sheets: gray, ours, truth

Everything random in step k follows from (seed, k), so a resumed run arrives at the weights of an
uninterrupted one, bit for bit on a CPU with the same number of threads.
"""

import csv
import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from . import checkpoint, samples, systems
from . import recipe as recipes
from .errors import BadRun, Diverged
from .recipe import Recipe
from .stills import Stills, batches, check, to_tensor

LOG_EVERY = 20
SAMPLE_STILLS = 8  # rows of a sample sheet for each of colour and gray


@dataclass(frozen=True)
class Progress:
    """Where a run is; given to the caller's callback after each step."""

    step: int
    steps: int
    pictures_per_second: float
    losses: dict[str, float]


def train(
    recipe: Recipe,
    run: Path,
    *,
    colour: Sequence[Path],
    gray: Sequence[Path] = (),
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> int:
    """Train until `recipe.steps`; return the number of steps done.

    Args:
        recipe: what to train.
        run: the run's folder.
        colour: folders or zip archives of colour stills.
        gray: folders or zips of real black-and-white stills; pix2pix shows them in the sample sheets.
        resume: carry on from the newest checkpoint. Recipe and stills must be those of the run, save for `steps`.
        on_progress: called after each step.

    Ctrl-C ends the run after the step in hand, with a checkpoint, and then raises KeyboardInterrupt.
    Raises BadRun when the folder holds a run and `resume` is off, BadData, BadRecipe, Diverged.
    """
    stills, gray_stills = Stills(colour), Stills(gray)
    check(stills)
    described = {
        "recipe": recipes.to_table(recipe),
        "data": {"colour": [source.name for source in colour], "stills": len(stills), "gray": [g.name for g in gray]},
        "versions": {"torch": torch.__version__},
    }
    if resume:
        system, trained, first = checkpoint.restore(checkpoint.latest(run))
        _check_same(run, trained, recipe, described)
        _trim_log(run / "log.csv", first)
    else:
        if run.is_file():
            raise BadRun(f"{run} is a file: name a folder with --out")
        if run.exists() and any(run.iterdir()):
            raise BadRun(f"{run} is not empty: add --resume to carry it on, or choose another --out")
        system, first = systems.build(recipe), 0
        run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.json").write_text(json.dumps(described, indent=2) + "\n")
    shown = _shown(stills, recipe), _shown(gray_stills, recipe)
    stop = _StopRequest()
    with stop, (run / "log.csv").open("a", newline="") as file:
        log = _Log(file)
        feed = batches(stills, recipe.data, batch=recipe.batch, seed=recipe.seed, first_step=first, steps=recipe.steps)
        step = first
        for rgb in feed:
            _schedule(system, recipe, step)
            chance = torch.Generator().manual_seed(_step_seed(recipe.seed, step))
            torch.manual_seed(_step_seed(recipe.seed, step))  # for dropout
            report = system.step(rgb.float() / 255, step, chance)
            step += 1
            if not all(map(math.isfinite, report.values())):
                raise Diverged(f"loss is {report} at step {step}; the last good checkpoint is in {run / 'checkpoints'}")
            speed = log.add(step, recipe, report, system)
            on_progress(Progress(step, recipe.steps, speed, report))
            last = step == recipe.steps or stop.requested
            if last or step % recipe.sample_every == 0:
                page = samples.sheet(system.average, *shown, lines=recipe.data.size)
                samples.save(page, run / "samples" / f"step-{step:08d}.jpg")
            if last or step % recipe.checkpoint_every == 0:
                file.flush()
                checkpoint.save(run / "checkpoints", system, recipe, step)
            if stop.requested:
                raise KeyboardInterrupt
    return step


def _check_same(run: Path, trained: Recipe, asked: Recipe, described: dict[str, Any]) -> None:
    """Raises BadRun when a run would be carried on with another recipe or other stills."""
    before, now = (_flat(recipes.to_table(recipe)) for recipe in (trained, asked))
    for key, value in before.items():
        if key != "steps" and now[key] != value:
            raise BadRun(f"{run} was started with {key}={value}, not {now[key]}: resume it with that, or start another")
    file = run / "recipe.json"
    if file.exists() and (data := json.loads(file.read_text())["data"]) != described["data"]:
        raise BadRun(f"{run} was started with other stills ({data['stills']} in {', '.join(data['colour'])})")


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)


def _schedule(system: systems.System, recipe: Recipe, step: int) -> None:
    """Linear warm-up, flat, then straight to zero from `decay_from` of the run on."""
    settings = recipe.optimizer
    done = step / recipe.steps
    factor = min(1.0, (1 - done) / max(1 - settings.decay_from, 1e-9))
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
    return [to_tensor(stills.open(int(index))).unsqueeze(0).float() / 255 for index in indices]


class _Log:
    """log.csv, a line every LOG_EVERY steps, with means over them."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.writer = csv.writer(file)
        self.since, self.started, self.pictures, self.speed = time.monotonic(), time.monotonic(), 0, 0.0
        self.rows: list[dict[str, float]] = []

    def add(self, step: int, recipe: Recipe, report: dict[str, float], system: systems.System) -> float:
        """Take one step's losses; return pictures per second over the last lines."""
        self.rows.append(report)
        self.pictures += recipe.batch
        if step % LOG_EVERY and step != recipe.steps:
            return self.speed or self.pictures / max(time.monotonic() - self.since, 1e-9)
        now = time.monotonic()
        self.speed = self.pictures / max(now - self.since, 1e-9)
        columns = {name: [row[name] for row in self.rows if name in row] for name in system.losses}
        if self.file.tell() == 0:
            self.writer.writerow(["step", "seconds", "pictures_per_second", "lr", *columns])
        rate = system.optimizers["generator"].param_groups[0]["lr"]
        values = [f"{sum(column) / len(column):.5f}" if column else "" for column in columns.values()]
        self.writer.writerow([step, f"{now - self.started:.1f}", f"{self.speed:.1f}", f"{rate:.2e}", *values])
        self.since, self.pictures, self.rows = now, 0, []
        return self.speed


def _trim_log(file: Path, step: int) -> None:
    """Drop lines past the checkpoint that a run resumes from: those steps will be logged again."""
    if not file.exists():
        return
    lines = file.read_text().splitlines()
    kept = [line for line in lines if not line[:1].isdigit() or int(line.split(",")[0]) <= step]
    file.write_text("".join(line + "\n" for line in kept))


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
