"""Where a run's weights come from: versions, machine, and the commit of the code."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("kinochrome", "torch", "numpy", "lightning-fabric", "safetensors", "pillow")
GIT_SECONDS = 5  # for each question; a checkout on a slow disk is left out rather than waited for


def versions() -> dict[str, str]:
    """What took part, for people to read: Python, the packages that shape the weights, system, processor, GPUs."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["platform"] = platform.platform()
    found["cpu"] = f"{_cpu_model()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["gpu"] = f"{', '.join(names)} (CUDA {torch.version.cuda})"
    return found


def git_state(folder: Path) -> dict[str, str | bool] | None:
    """The commit and branch checked out around `folder`, and whether tracked files differ from that commit ("dirty").

    None when the folder's files are not in git's hands, as in an installed package, or git is missing or slow.
    """
    # The first question keeps a package in some project's ignored .venv from being taken for that project.
    if not _git(folder, "ls-files", "--error-unmatch", "."):
        return None
    state = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    if state is None:
        return None
    lines = state.splitlines()
    told = dict(line.removeprefix("# branch.").split(" ", 1) for line in lines if line.startswith("# branch."))
    changed = any(not line.startswith("#") for line in lines)
    return {"commit": told.get("oid", ""), "branch": told.get("head", ""), "dirty": changed}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers; None when it does not know."""
    # A hook's GIT_DIR would name another checkout; a look must not take the lock that a commit beside it needs.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=GIT_SECONDS,
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()  # ARM names no model
