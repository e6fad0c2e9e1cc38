"""Training runs: they learn, resume exactly, keep their log, stop well."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image

import tests.trainer
from kinochrome_trainer import checkpoint, evaluation, loop, recipe, systems
from kinochrome_trainer.cyclegan import CycleGAN
from kinochrome_trainer.errors import BadData, BadRecipe, BadRun, Diverged
from kinochrome_trainer.recipe import Recipe
from kinochrome_trainer.stills import Stills
from kinochrome_trainer.system import Batch
from tests.trainer import pictures


def small(*overrides: str) -> Recipe:
    settings = [
        "generator.width=8",
        "generator.depth=2",
        "generator.dropout=0.2",
        "discriminator.width=8",
        "discriminator.layers=1",
        "data.workers=0",
        "phases.0.size=32",
        "phases.0.batch=4",
        "phases.0.steps=8",
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


@pytest.mark.parametrize("name", recipe.names())
def test_a_resumed_run_ends_at_the_weights_of_an_uninterrupted_one(
    name: str, vgg: Path, teacher: Path, tmp_path: Path
) -> None:
    """Bit for bit, image pools, running histograms and optimizers included; the second phase begins after the kill."""
    stills = pictures.make(tmp_path / "stills")
    gray = [pictures.make(tmp_path / "gray", 5)] if name in ("translate", "semi-supervised", "distilled") else []
    phases = "phases=[{size=32, batch=2, steps=6}, {size=64, batch=2, steps=2}]"
    files = f"features.weights={vgg}", f"teacher.run={teacher}"
    chosen = tests.trainer.small(name, phases, *files, "loss.adversarial_from=0", "seed=4")
    loop.train(chosen, tmp_path / "straight", colour=[stills], gray=gray)

    class Killed(Exception):
        pass

    def kill_after_five(progress: loop.Progress) -> None:
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):  # the checkpoint of step 3 is what is left
        loop.train(chosen, tmp_path / "broken", colour=[stills], gray=gray, on_progress=kill_after_five)
    assert loop.train(chosen, tmp_path / "broken", colour=[stills], gray=gray, resume=True) == 8
    straight, resumed = weights(tmp_path / "straight"), weights(tmp_path / "broken")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())


def test_stills_that_turn_out_to_be_broken_are_counted_at_the_end(tmp_path: Path) -> None:
    folder = pictures.make(tmp_path / "stills", 600, (32, 32))
    sampled = {int(index) for index in np.linspace(0, 599, 512)}
    unseen = min(set(range(600)) - sampled)  # the look before training passes it over
    files = sorted(folder.rglob("*.jpg"), key=lambda file: str(file.relative_to(folder)))
    files[unseen].write_bytes(b"broken")
    told: list[str] = []
    stills = Stills([folder])
    assert [name for _, name in stills.entries][unseen] == str(files[unseen].relative_to(folder))
    loop.train(
        small("phases.0.batch=64", "phases.0.steps=60", "sample_every=1000", "loss.adversarial=0"),
        tmp_path / "run",
        colour=[folder],
        on_warning=told.append,
    )
    assert told == ["1 stills turned out to be broken in the course of this run; others stood in for them"]


def test_progressive_resizing_carries_weights_and_optimizers_from_phase_to_phase(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills", 12, (160, 140))
    chosen = small(
        "phases=[{size=32, batch=6, epochs=2}, {size=64, batch=2, epochs=1, lr=0.1}]", "optimizer.decay_from=1.0"
    )
    seen: list[int] = []
    loop.train(chosen, tmp_path / "run", colour=[stills], on_progress=lambda progress: seen.append(progress.steps))
    assert seen == [10] * 10  # 2 epochs of 12 by 6, 1 epoch by 2
    system, trained, _ = checkpoint.restore(checkpoint.latest(tmp_path / "run"))
    assert [(phase.size, phase.steps) for phase in trained.phases] == [(32, 4), (64, 6)]
    assert system.optimizers["generator"].state_dict()["state"][0]["step"] == 10  # never begun anew
    with (tmp_path / "run" / "log.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    assert row["size"] == "64" and float(row["lr"]) == pytest.approx(1e-4)


def test_unpaired_training_draws_gray_and_colour_from_different_stills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stills"
    folder.mkdir()
    for index in range(16):  # each still one gray value of its own
        Image.new("RGB", (40, 40), (index * 16,) * 3).save(folder / f"{index:02}.png")
    met: dict[str, set[int]] = {"gray": set(), "colour": set()}
    original = CycleGAN.step

    def watch(self: CycleGAN, batch: Batch, step: int, chance: torch.Generator) -> dict[str, float]:
        assert batch.gray is not None and not batch.gray_is_real
        met["gray"] |= {round(value.item() * 255 / 16) for value in batch.gray.mean((1, 2, 3))}
        met["colour"] |= {round(value.item() * 255 / 16) for value in batch.colour.mean((1, 2, 3))}
        return original(self, batch, step, chance)

    monkeypatch.setattr(CycleGAN, "step", watch)
    loop.train(tests.trainer.small("cyclegan", "phases.0.steps=40"), tmp_path / "run", colour=[folder])
    assert not met["gray"] & met["colour"]
    assert len(met["gray"]) >= 7 and len(met["colour"]) >= 7


def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: set[torch.dtype] = set()
    original = torch.nn.Conv2d.forward

    def watch(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        out = original(self, x)
        if self.training:
            kinds.add(out.dtype)
        return out

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watch)
    loop.train(
        small("precision=bf16", "phases.0.steps=3"), tmp_path / "run", colour=[pictures.make(tmp_path / "stills")]
    )
    assert kinds == {torch.bfloat16}
    assert all(value.dtype != torch.bfloat16 for value in weights(tmp_path / "run").values())


def test_training_leaves_the_process_its_small_numbers(tmp_path: Path) -> None:
    """Denormal numbers are flushed while training, for speed; whoever calls the trainer as a library keeps theirs."""
    loop.train(small("phases.0.steps=1"), tmp_path / "run", colour=[pictures.make(tmp_path / "stills")])
    assert sys.float_info.min / 2 > 0


def test_a_machine_without_such_devices_is_one_line(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    with pytest.raises(BadRecipe, match="cannot train on 'nonsense'; choose from auto, cpu, cuda, mps"):
        loop.train(small(), tmp_path / "run", colour=[stills], machine=loop.Machine("nonsense"))
    if not torch.cuda.is_available():
        with pytest.raises(BadRecipe, match="cannot train on 1 x cuda"):
            loop.train(small(), tmp_path / "run", colour=[stills], machine=loop.Machine("cuda"))
    assert not (tmp_path / "run").exists()


def test_translation_needs_both_sets(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="name them with --gray and --color"):
        loop.train(tests.trainer.small("translate"), tmp_path / "run", colour=[pictures.make(tmp_path / "stills")])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ours", "torchrun"])
def test_two_processes_learn_what_one_learns(launcher: str, tmp_path: Path) -> None:
    """Without batch norm, dropout and chance, half batches averaged over two processes are the whole batch."""
    stills = pictures.make(tmp_path / "stills")
    settings = [
        *tests.trainer.SMALL,
        *("generator.blocks=1", "discriminator.pool=0", "phases=[{size=32, batch=4, steps=6}]"),
    ]
    command = ["train", "cyclegan", "--color", str(stills), "--accelerator", "cpu"]
    command += [word for setting in settings for word in ("--set", setting)]
    kinochrome = str(Path(sys.executable).with_name("kinochrome"))
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2"]
    start, devices = ([kinochrome], ["--devices", "2"]) if launcher == "ours" else ([*torchrun, kinochrome], [])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for out, words, more in (("one", [kinochrome], []), ("two", start, devices)):
        done = subprocess.run(
            [*words, *command, "--out", str(tmp_path / out), *more],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("6 steps, see") == 1  # the first process speaks for both
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    start_at = systems.build(recipe.load("cyclegan", settings)).modules["generator"].state_dict()
    moved = torch.cat([(one[f"generator.{key}"] - value).flatten() for key, value in start_at.items()])
    apart = torch.cat([(one[f"generator.{key}"] - two[f"generator.{key}"]).flatten() for key in start_at])
    # Adam makes steps of gradients near zero, whose sign rounding decides; half batches alone are 50 % apart.
    assert apart.abs().mean() < 0.1 * moved.abs().mean()


def test_the_run_folder_holds_what_the_docstring_says(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    gray = pictures.make(tmp_path / "gray", 3)
    seen: list[loop.Progress] = []
    loop.train(small("phases.0.steps=45"), tmp_path / "run", colour=[stills], gray=[gray], on_progress=seen.append)
    run = tmp_path / "run"
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [20, 40, 45]
    assert all(float(row["l1"]) > 0 and float(row["d"]) > 0 and float(row["pictures_per_second"]) > 0 for row in rows)
    assert float(rows[-1]["lr"]) < float(rows[0]["lr"])
    assert len(checkpoint.checkpoints(run / "checkpoints")) == checkpoint.KEPT
    described = json.loads((run / "recipe.json").read_text())
    assert described["versions"]["torch"] == torch.__version__ and "git" in described
    assert any(file.name.startswith("events.out") for file in (run / "events").iterdir())
    assert "data:image/" in (run / "report.html").read_text()
    assert (run / "samples" / "step-00000045.jpg").exists()
    assert [progress.step for progress in seen] == list(range(1, 46))


def test_it_learns(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills", 16)
    chosen = small(
        "phases.0.steps=150",
        "phases.0.batch=8",
        "optimizer.ema=0.9",
        "film_stock.probability=0",
        "generator.dropout=0.0",
    )
    loop.train(chosen, tmp_path / "run", colour=[stills])
    system, _, step = checkpoint.restore(checkpoint.latest(tmp_path / "run"))
    assert step == 150
    found = evaluation.evaluate(system.average, Stills([stills]), 32).versions
    assert found["ours"]["ab_error"].mean < 0.6 * found["gray"]["ab_error"].mean
    assert found["ours"]["colourfulness"].mean > 0.5 * found["truth"]["colourfulness"].mean


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    loop.train(small("phases.0.steps=1"), tmp_path / "run", colour=[stills])
    with pytest.raises(BadRun, match="is not empty: add --resume"):
        loop.train(small("phases.0.steps=1"), tmp_path / "run", colour=[stills])


def test_resume_goes_on_past_the_old_end_when_asked_for_more(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    loop.train(small("phases.0.steps=3"), tmp_path / "run", colour=[stills])
    assert loop.train(small("phases.0.steps=5"), tmp_path / "run", colour=[stills], resume=True) == 5
    _, trained, step = checkpoint.restore(checkpoint.latest(tmp_path / "run"))
    assert step == trained.steps == 5


def test_a_run_is_not_resumed_as_another(tmp_path: Path) -> None:
    stills, others = pictures.make(tmp_path / "stills"), pictures.make(tmp_path / "others", 5)
    loop.train(small("phases.0.steps=2"), tmp_path / "run", colour=[stills])
    with pytest.raises(BadRun, match=r"was started with loss\.l1=100\.0, not 3\.0"):
        loop.train(small("phases.0.steps=3", "loss.l1=3"), tmp_path / "run", colour=[stills], resume=True)
    with pytest.raises(BadRun, match="was started with other stills"):
        loop.train(small("phases.0.steps=3"), tmp_path / "run", colour=[others], resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(BadRun, match="is a file"):
        loop.train(small("phases.0.steps=1"), tmp_path / "file", colour=[stills])


def test_divergence_stops_the_run_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    wild = small()
    wild = replace(wild, optimizer=replace(wild.optimizer, lr=float("inf"), warmup_steps=0), checkpoint_every=1)
    with pytest.raises(
        Diverged, match=r"step-00000001\.safetensors is still good: --resume it with a smaller|start again"
    ):
        loop.train(wild, tmp_path / "run", colour=[stills])


def test_a_signal_saves_and_stops(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")

    def interrupt(progress: loop.Progress) -> None:
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        loop.train(small(), tmp_path / "run", colour=[stills], on_progress=interrupt)
    assert checkpoint.restore(checkpoint.latest(tmp_path / "run"))[2] in (2, 3)


def test_a_run_that_diverged_is_resumed_with_another_learning_rate(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    chosen = small("checkpoint_every=1", "optimizer.warmup_steps=0")

    def spoil(progress: loop.Progress) -> None:
        if progress.step == 2:
            raise Diverged("as if")

    with pytest.raises(Diverged):
        loop.train(chosen, tmp_path / "run", colour=[stills], on_progress=spoil)
    calmer = replace(chosen, optimizer=replace(chosen.optimizer, lr=1e-5, clip=1.0))
    assert loop.train(calmer, tmp_path / "run", colour=[stills], resume=True) == 8
    assert checkpoint.described(checkpoint.latest(tmp_path / "run"))[0].optimizer.lr == 1e-5
    with (tmp_path / "run" / "log.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["lr"]) < 1e-5


def test_a_run_without_a_checkpoint_yet_is_begun_by_resume(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")

    def kill(progress: loop.Progress) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        loop.train(small(), tmp_path / "run", colour=[stills], on_progress=kill)
    assert loop.train(small(), tmp_path / "run", colour=[stills], resume=True) == 8
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(BadRun, match="is no run to resume"):
        loop.train(small(), tmp_path / "other", colour=[stills], resume=True)


def test_what_cannot_be_trained_leaves_no_folder(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    one = pictures.make(tmp_path / "one", 1)
    with pytest.raises(BadRecipe):
        loop.train(small("generator.name=big"), tmp_path / "run", colour=[stills])
    with pytest.raises(BadData, match="there is only one"):
        loop.train(tests.trainer.small("cyclegan"), tmp_path / "run", colour=[one])
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_shortened_below_what_it_has_done(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    loop.train(small(), tmp_path / "run", colour=[stills])
    with pytest.raises(BadRun, match="has done 8 steps already: --steps 3 would take some back"):
        loop.train(small(), tmp_path / "run", colour=[stills], steps=3, resume=True)


def test_a_late_discriminator_is_warned_of(tmp_path: Path) -> None:
    said: list[str] = []
    stills = pictures.make(tmp_path / "stills")
    loop.train(small(), tmp_path / "run", colour=[stills], steps=2, on_warning=said.append)
    assert said == ["the discriminator joins at step 2, after the end of this run"]


def test_a_run_needs_no_feature_weights_to_be_measured_or_exported(vgg: Path, tmp_path: Path) -> None:
    mine = tmp_path / "vgg.pth"
    mine.write_bytes(vgg.read_bytes())
    chosen = tests.trainer.small("cyclegan", "loss.perceptual=1", f"features.weights={mine}", "phases.0.steps=1")
    loop.train(chosen, tmp_path / "run", colour=[pictures.make(tmp_path / "stills")])
    mine.unlink()
    painter, trained, step = checkpoint.painter(checkpoint.latest(tmp_path / "run"))
    assert (trained, step) == (chosen, 1)
    whole = weights_of_average(tmp_path / "run")
    assert all(torch.equal(value, whole[key]) for key, value in painter.state_dict().items())


def weights_of_average(run: Path) -> dict[str, torch.Tensor]:
    with safetensors.safe_open(checkpoint.latest(run), "pt") as archive:
        return {key[8:]: archive.get_tensor(key) for key in archive.keys() if key.startswith("average.")}  # noqa: SIM118


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    stills = pictures.make(tmp_path / "stills")
    loop.train(small("phases.0.steps=1"), tmp_path / "run", colour=[stills])
    latest = checkpoint.latest(tmp_path / "run")
    latest.write_bytes(latest.read_bytes()[:100])
    with pytest.raises(BadRun, match="cannot be read"):
        checkpoint.restore(latest)
