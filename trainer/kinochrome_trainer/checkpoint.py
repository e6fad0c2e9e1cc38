"""Checkpoints: one safetensors file that holds a run whole, its recipe inside.

Tensors are named `<module>.<parameter>` and `optimizer.<name>.<parameter>.<state>`; the metadata holds the
recipe, the step and the versions. A checkpoint rebuilds its system by itself: see `restore`.
"""

import json
import os
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from . import recipe as recipes
from . import systems
from .errors import BadRun
from .recipe import Recipe

KEPT = 2  # newest checkpoints of a run that stay on disk
_SUFFIX = ".safetensors"


def save(folder: Path, system: systems.System, recipe: Recipe, step: int) -> Path:
    """Write the state after `step` steps, atomically; older checkpoints beyond KEPT are removed."""
    tensors = {
        f"{name}.{key}": value.contiguous()
        for name, module in system.modules.items()
        for key, value in module.state_dict().items()
    }
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


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(folder.glob(f"step-*{_SUFFIX}"))


def latest(run: Path) -> Path:
    """The newest checkpoint of a run folder. Raises BadRun when there is none."""
    found = checkpoints(run / "checkpoints")
    if not found:
        raise BadRun(f"{run} holds no checkpoint: name the --out folder of a training run")
    return found[-1]


def restore(file: Path) -> tuple[systems.System, Recipe, int]:
    """Rebuild (system, recipe, step) from a checkpoint. Raises BadRun when it is damaged."""
    try:
        with safetensors.safe_open(file, "pt") as archive:
            metadata = archive.metadata() or {}
            tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise BadRun(f"checkpoint {file} cannot be read: {error}") from None
    if "recipe" not in metadata or "step" not in metadata:
        raise BadRun(f"{file} is not a checkpoint of a training run: it holds no recipe")
    recipe = recipes.from_table(json.loads(metadata["recipe"]))
    system = systems.build(recipe)
    for name, module in system.modules.items():
        module.load_state_dict(_under(tensors, f"{name}."))
    for name, optimizer in system.optimizers.items():
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in _under(tensors, f"optimizer.{name}.").items():
            index, _, what = key.partition(".")
            state.setdefault(int(index), {})[what] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return system, recipe, int(metadata["step"])


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
