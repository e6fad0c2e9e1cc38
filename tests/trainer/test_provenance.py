"""What is written down of the versions and the commit that a run was made with."""

import subprocess
import time
from pathlib import Path

import pytest
import torch

from kinochrome_trainer import provenance


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.invalid")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit, on the branch `feature`."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "feature")
    (folder / "package").mkdir()
    (folder / "package" / "code.py").write_text("1\n")
    (folder / ".gitignore").write_text("venv\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_versions_name_what_shapes_the_weights() -> None:
    found = provenance.versions()
    assert found["torch"] == torch.__version__
    assert found["python"].startswith("3.")
    for name in ("kinochrome", "numpy", "lightning-fabric", "safetensors", "pillow"):
        assert found[name][0].isdigit(), name
    assert found["cpu"].endswith(f", {torch.get_num_threads()} threads")
    assert found["platform"].startswith("Linux")
    assert ("gpu" in found) == torch.cuda.is_available()


def test_a_package_that_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package-anywhere"))
    assert provenance.versions()["no-such-package-anywhere"] == "not installed"


def test_a_checkout_is_known_by_commit_branch_and_changes(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    clean = {"commit": commit, "branch": "feature", "dirty": False}
    assert provenance.git_state(checkout / "package") == clean
    (checkout / "run.log").touch()  # a run's own files, say
    assert provenance.git_state(checkout / "package") == clean
    (checkout / "package" / "code.py").write_text("2\n")
    assert provenance.git_state(checkout / "package") == clean | {"dirty": True}
    git(checkout, "commit", "-q", "-a", "-m", "second")
    git(checkout, "checkout", "-q", "--detach")
    assert provenance.git_state(checkout) == {
        "commit": git(checkout, "rev-parse", "HEAD"),
        "branch": "(detached)",
        "dirty": False,
    }


def test_the_checkout_of_a_hook_is_not_taken_for_ours(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    state = provenance.git_state(checkout)
    assert state and state["branch"] == "feature"


def test_what_git_does_not_keep_has_no_state(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout / "venv" / "package"
    installed.mkdir(parents=True)
    (installed / "code.py").touch()
    assert provenance.git_state(installed) is None
    assert provenance.git_state(tmp_path) is None
    assert provenance.git_state(tmp_path / "gone") is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert provenance.git_state(checkout) is None


def test_a_git_that_hangs_is_not_waited_for(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:/usr/bin:/bin")
    monkeypatch.setattr(provenance, "GIT_SECONDS", 0.2)
    started = time.monotonic()
    assert provenance.git_state(checkout) is None
    assert time.monotonic() - started < 5
