"""`kinochrome frames`: what it prints, what it returns, what it leaves."""

import subprocess
from pathlib import Path

from kinochrome_trainer.stills import Stills
from tests.server.serving import KINOCHROME
from tests.server.test_frames import scene, shot, write


def take(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([KINOCHROME, "frames", *arguments], capture_output=True, text=True, timeout=120)


def test_stills_are_taken_counted_and_fit_to_train_with(tmp_path: Path) -> None:
    one = write(tmp_path / "one.mkv", [*shot(scene(1)), *shot(scene(2))])
    other = write(tmp_path / "other.mkv", [*shot(scene(2)), *shot(scene(3))])
    out = tmp_path / "stills"
    done = take(one, other, "-o", out, "--size", "96")
    assert done.returncode == 0, done.stderr
    *films, total = done.stdout.splitlines()
    assert films == [f"{out / 'one'}: 2 stills, shots: 2", f"{out / 'other'}: 1 stills, shots: 2"]
    assert total == ("2 of 2 films, shots: 4, stills kept: 3, dropped: 0 blurred, 1 duplicate, 0 blank, 0 damaged")
    stills = Stills([out])
    assert [Path(name).parent.name for _, name in stills.entries] == ["one", "one", "other"]
    assert {stills.open(index).size for index in range(3)} == {(128, 96)}


def test_a_film_that_cannot_be_read_is_told_of_and_the_others_are_done(tmp_path: Path) -> None:
    text, film, out = tmp_path / "text.mp4", write(tmp_path / "film.mkv", shot(scene(1))), tmp_path / "out"
    text.write_text("no film\n" * 99)
    done = take(text, tmp_path / "missing.mp4", film, "-o", out, "--format", "png")
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("kinochrome: ")]
    assert len(said) == 2 and "text.mp4 is not a film" in said[0] and "missing.mp4 does not exist" in said[1]
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1].startswith("1 of 3 films, shots: 1, stills kept: 1")
    assert [file.relative_to(out).parts[0] for file in out.rglob("*.png")] == ["film"]


def test_a_second_run_says_what_is_in_its_way(tmp_path: Path) -> None:
    film, out = write(tmp_path / "film.mkv", shot(scene(1))), tmp_path / "out"
    assert take(film, "-o", out).returncode == 0
    [still] = out.rglob("*.jpg")
    before = still.stat().st_mtime_ns
    again = take(film, "-o", out)
    assert again.returncode == 1 and "--overwrite" in again.stderr and len(again.stderr.splitlines()) == 1
    assert still.stat().st_mtime_ns == before
    assert take(film, "-o", out, "--overwrite").returncode == 0
    assert still.stat().st_mtime_ns > before


def test_bad_settings_are_one_line(tmp_path: Path) -> None:
    film = write(tmp_path / "film.mkv", shot(scene(1)))
    done = take(film, "-o", tmp_path / "out", "--format", "webp")
    assert done.returncode == 1
    assert done.stderr.strip() == "kinochrome: --format webp is unknown: use jpg or png"
    assert not (tmp_path / "out").exists()


def test_help_leads_on_to_training() -> None:
    done = take("--help")
    assert done.returncode == 0 and "kinochrome train" in done.stdout
