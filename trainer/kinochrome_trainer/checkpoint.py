"""Checkpoints: one safetensors file that holds a run whole, its recipe inside.

Tensors are named `<module>.<parameter>` and `optimizer.<name>.<parameter>.<state>`; the metadata holds the
recipe, the step and the versions. A checkpoint rebuilds its system by itself: see `restore`.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file

from . import networks, systems
from . import recipe as recipes
from .errors import BadRun, Diverged
from .networks import Generator
from .recipe import Recipe
from .system import System

KEPT = 2  # newest checkpoints of a run that stay on disk
_SUFFIX = ".safetensors"


def save(folder: Path, system: System, recipe: Recipe, step: int) -> Path:
    """Write the state after `step` steps, atomically; older checkpoints beyond KEPT are removed.

    Raises Diverged, and writes nothing, when a weight is not finite.
    """
    tensors = {
        f"{name}.{key}": value.contiguous()
        for name, module in system.modules.items()
        for key, value in module.state_dict().items()
    }
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise Diverged(f"{name} is not finite at step {step}; {last_good(folder)}")
    for name, optimizer in system.optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{name}.{index}.{key}": value.contiguous() for key, value in state.items()}
    metadata = {"recipe": json.dumps(recipes.to_table(recipe)), "step": str(step), "torch": torch.__version__}
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:08d}{_SUFFIX}"
    partial = target.with_suffix(".partial")
    save_file(tensors, partial, metadata)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(target)
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink()
    return target


def last_good(folder: Path) -> str:
    """What a person can do after a run diverged."""
    if found := checkpoints(folder):
        return (
            f"{found[-1]} is still good: --resume it with a smaller --set optimizer.lr, or with --set optimizer.clip=1"
        )
    return "no checkpoint had been written: start again with a smaller --set optimizer.lr"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(folder.glob(f"step-*{_SUFFIX}"))


def latest(run: Path) -> Path:
    """The newest checkpoint of a run folder. Raises BadRun when there is none."""
    found = checkpoints(run / "checkpoints")
    if not found:
        raise BadRun(f"{run} holds no checkpoint: name the --out folder of a training run")
    return found[-1]


def described(file: Path) -> tuple[Recipe, int]:
    """The (recipe, step) of a checkpoint. Raises BadRun when it is damaged."""
    with _opened(file) as archive:
        metadata = archive.metadata() or {}
    if "recipe" not in metadata or "step" not in metadata:
        raise BadRun(f"{file} is not a checkpoint of a training run: it holds no recipe")
    return recipes.from_table(json.loads(metadata["recipe"])), int(metadata["step"])


def painter(file: Path) -> tuple[Generator, Recipe, int]:
    """The averaged generator of a checkpoint, in eval mode on the CPU, with its (recipe, step): what is measured and
    exported. Nothing else is built, so nothing else is needed. Raises BadRun when it is damaged."""
    recipe, step = described(file)
    generator = networks.generator(recipe.generator)
    with _opened(file) as archive:
        keys = [key for key in archive.keys() if key.startswith("average.")]  # noqa: SIM118 - not a dict
        generator.load_state_dict(_under({key: archive.get_tensor(key) for key in keys}, "average."))
    return generator.eval().requires_grad_(False), recipe, step


def start(system: System, run: Path) -> int:
    """Give a new system's generator the weights that a run's averaged one has of the same names and shapes; return how
    many of its layers' tensors start anew. Raises BadRun when the run is missing, damaged, or has none in common."""
    if not run.is_dir():
        raise BadRun(f"start {run} is no folder: name the --out folder of a training run")
    try:
        theirs = painter(latest(run))[0].state_dict()
    except BadRun as error:
        raise BadRun(f"start: {error}") from None
    for network in (system.generator, system.average):
        ours = network.state_dict()
        common = {name: tensor for name, tensor in theirs.items() if name in ours and ours[name].shape == tensor.shape}
        if not common:
            raise BadRun(f"start {run} trained another generator: the two have no layer in common")
        network.load_state_dict(common, strict=False)
    return len(ours) - len(common)


def restore(file: Path, fabric: Fabric | None = None, recipe: Recipe | None = None) -> tuple[System, Recipe, int]:
    """Rebuild (system, recipe, step) from a checkpoint, by default on the CPU. Raises BadRun when it is damaged.

    recipe: build by this one instead of the checkpoint's own, from which it may differ in what is no weight.
    """
    own, step = described(file)
    recipe = recipe or own
    with _opened(file) as archive:
        tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118 - not a dict
    system = systems.build(recipe, fabric)
    for name, module in system.modules.items():
        module.load_state_dict(_under(tensors, f"{name}."))
    for name, optimizer in system.optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in _under(tensors, f"optimizer.{name}.").items():
            index, _, what = key.partition(".")
            # Laid out in memory as its parameter is: the fused optimizer goes through both as they lie.
            like = parameters[int(index)]
            laid_out = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            state.setdefault(int(index), {})[what] = laid_out
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return system, recipe, step


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(file, "pt") as archive:
            yield archive
    except (OSError, safetensors.SafetensorError) as error:
        raise BadRun(f"checkpoint {file} cannot be read: {error}") from None


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
