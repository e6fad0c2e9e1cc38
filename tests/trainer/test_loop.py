"""Training runs: they learn, resume exactly, keep their log, stop well."""

import csv
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kinochrome_trainer import checkpoint, loop, metrics, recipe
from kinochrome_trainer.errors import BadRun, Diverged
from kinochrome_trainer.recipe import Recipe
from kinochrome_trainer.stills import Stills
from tests.trainer import pictures


def small(*overrides: str) -> Recipe:
    settings = [
        "generator.width=8",
        "generator.depth=2",
        "generator.dropout=0.2",
        "discriminator.width=8",
        "discriminator.layers=1",
        "data.size=32",
        "data.workers=0",
        "batch=4",
        "steps=8",
        "checkpoint_every=3",
        "sample_every=4",
        "loss.adversarial_from=2",
        "optimizer.warmup_steps=2",
    ]
    return recipe.load("default", [*settings, *overrides])


def weights(run: Path) -> dict[str, torch.Tensor]:
    system, _, _ = checkpoint.restore(checkpoint.latest(run))
    return {
        f"{name}.{key}": value for name, module in system.modules.items() for key, value in module.state_dict().items()
    }


@pytest.mark.parametrize("generator", ["light-unet", "unet"])
def test_a_resumed_run_ends_at_the_weights_of_an_uninterrupted_one(generator: str, tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    chosen = small(f"generator.name={generator}")
    loop.train(chosen, tmp_path / "straight", colour=[stills])

    class Killed(Exception):
        pass

    def kill_after_five(progress: loop.Progress) -> None:
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):  # the checkpoint of step 3 is what is left
        loop.train(chosen, tmp_path / "broken", colour=[stills], on_progress=kill_after_five)
    assert loop.train(chosen, tmp_path / "broken", colour=[stills], resume=True) == 8
    straight, resumed = weights(tmp_path / "straight"), weights(tmp_path / "broken")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())


def test_the_run_folder_holds_what_the_docstring_says(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    gray = pictures.make(tmp_path / "gray", 3)
    seen: list[loop.Progress] = []
    loop.train(small("steps=45"), tmp_path / "run", colour=[stills], gray=[gray], on_progress=seen.append)
    run = tmp_path / "run"
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [20, 40, 45]
    assert all(float(row["l1"]) > 0 and float(row["d"]) > 0 and float(row["pictures_per_second"]) > 0 for row in rows)
    assert float(rows[-1]["lr"]) < float(rows[0]["lr"])
    assert len(checkpoint.checkpoints(run / "checkpoints")) == checkpoint.KEPT
    assert (run / "recipe.json").exists()
    assert (run / "samples" / "step-00000045.jpg").exists()
    assert [progress.step for progress in seen] == list(range(1, 46))


def test_it_learns(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills", 16)
    chosen = small("steps=150", "batch=8", "optimizer.ema=0.9", "film_stock.probability=0", "generator.dropout=0.0")
    loop.train(chosen, tmp_path / "run", colour=[stills])
    system, _, step = checkpoint.restore(checkpoint.latest(tmp_path / "run"))
    assert step == 150
    result = metrics.evaluate(system.average, Stills([stills]), 32)
    assert result.ours.ab_error < 0.6 * result.gray.ab_error
    assert result.ours.colourfulness > 0.5 * result.truth_colourfulness


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    loop.train(small("steps=1"), tmp_path / "run", colour=[stills])
    with pytest.raises(BadRun, match="is not empty: add --resume"):
        loop.train(small("steps=1"), tmp_path / "run", colour=[stills])


def test_resume_goes_on_past_the_old_end_when_asked_for_more(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    loop.train(small("steps=3"), tmp_path / "run", colour=[stills])
    assert loop.train(small("steps=5"), tmp_path / "run", colour=[stills], resume=True) == 5
    _, trained, step = checkpoint.restore(checkpoint.latest(tmp_path / "run"))
    assert step == trained.steps == 5


def test_a_run_is_not_resumed_as_another(tmp_path: Path) -> None:
    stills, others = pictures.make(tmp_path / "stills"), pictures.make(tmp_path / "others", 5)
    loop.train(small("steps=2"), tmp_path / "run", colour=[stills])
    with pytest.raises(BadRun, match=r"was started with loss\.l1=100\.0, not 3\.0"):
        loop.train(small("steps=3", "loss.l1=3"), tmp_path / "run", colour=[stills], resume=True)
    with pytest.raises(BadRun, match="was started with other stills"):
        loop.train(small("steps=3"), tmp_path / "run", colour=[others], resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(BadRun, match="is a file"):
        loop.train(small("steps=1"), tmp_path / "file", colour=[stills])


def test_divergence_stops_the_run_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    wild = small()
    wild = replace(wild, optimizer=replace(wild.optimizer, lr=float("inf"), warmup_steps=0), checkpoint_every=1)
    with pytest.raises(Diverged, match="the last good checkpoint is in"):
        loop.train(wild, tmp_path / "run", colour=[stills])


def test_a_signal_saves_and_stops(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")

    def interrupt(progress: loop.Progress) -> None:
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        loop.train(small(), tmp_path / "run", colour=[stills], on_progress=interrupt)
    assert checkpoint.restore(checkpoint.latest(tmp_path / "run"))[2] in (2, 3)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    loop.train(small("steps=1"), tmp_path / "run", colour=[stills])
    latest = checkpoint.latest(tmp_path / "run")
    latest.write_bytes(latest.read_bytes()[:100])
    with pytest.raises(BadRun, match="cannot be read"):
        checkpoint.restore(latest)
