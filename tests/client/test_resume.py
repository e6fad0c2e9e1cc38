"""Nothing is lost: runs that are killed, stopped or out of room carry on to the very film of an undisturbed one."""

import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import films, reading
from tests.films import Kind
from tests.server.serving import KINOCHROME

FILM = Kind("film.mkv", size=(320, 240), frames=720, gop=48, audio="aac", options={"sc_threshold": "0", "bf": "2"})


def _hear_signals() -> None:
    """A suite that runs in the background ignores Ctrl-C, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*arguments: str | Path, mark: str = "") -> "subprocess.Popen[str]":
    environment = {**os.environ, "KINOCHROME_TEST": mark}
    return subprocess.Popen(
        [KINOCHROME, "colorize", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=_hear_signals,
    )


def processes(mark: str) -> list[int]:
    """Running processes that a marked run has started, itself included."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and f"KINOCHROME_TEST={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films.make(tmp_path_factory.mktemp("film"), FILM)


@pytest.fixture(scope="module")
def undisturbed(film: Path) -> Path:
    out = film.with_name("undisturbed.mkv")
    with start(film, "-o", out) as run:
        run.communicate()
    assert run.returncode == 0
    return out


@pytest.mark.slow
def test_twenty_kills_and_a_finish_give_the_undisturbed_film(film: Path, undisturbed: Path, tmp_path: Path) -> None:
    out, mark, chance = tmp_path / "out.mkv", uuid.uuid4().hex, random.Random(5)
    journal = out.with_name("out.mkv.kinochrome")
    kills = kept = 0
    longest = 4.0  # seconds until a kill; more where the machine is too busy to finish a segment in that time
    while kills < 20:
        with start(film, "-o", out, mark=mark) as run:
            try:
                run.wait(chance.uniform(0.2, longest))
            except subprocess.TimeoutExpired:
                run.kill()
                kills += 1
        for _ in range(100):
            if not processes(mark):
                break
            time.sleep(0.05)
        assert not processes(mark), "workers outlive a killed run"
        # Never a partial film under the final name; a kill may come between the whole film's renaming and the end.
        assert out.exists() or run.returncode != 0
        assert not out.exists() or out.read_bytes() == undisturbed.read_bytes()
        finished = bool(list(journal.glob("*.chunk")))
        kept += finished
        longest *= 1 if finished or out.exists() else 1.3
        out.unlink(missing_ok=True)  # finished before it could be killed: once more, from nothing
    assert kept >= 5
    with start(film, "-o", out) as run:
        run.communicate()
    assert run.returncode == 0
    assert reading.video_packets(out) == reading.video_packets(undisturbed)
    assert out.read_bytes() == undisturbed.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mkv"]


def interrupted(film: Path, out: Path, number: int, *arguments: str) -> tuple[int, str]:
    """Start, wait for some finished segments, send a signal; return the exit code and what was said."""
    journal = out.with_name(f"{out.name}.kinochrome")
    with start(film, "-o", out, *arguments) as run:
        while len(list(journal.glob("*.chunk")) if journal.exists() else []) < 2:
            assert run.poll() is None, "it finished before it could be interrupted"
            time.sleep(0.02)
        run.send_signal(number)
        _, said = run.communicate()
    return run.returncode, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_says_how_to_go_on(number: int, film: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    code, said = interrupted(film, out, number)
    assert code == 130
    assert said.splitlines()[-1].endswith(f"finished parts are kept in {out}.kinochrome: the same command carries on")
    assert "Traceback" not in said
    with start(film, "-o", out) as run:
        run.communicate()
    assert run.returncode == 0
    assert out.read_bytes() == undisturbed.read_bytes()
    assert not out.with_name("out.mkv.kinochrome").exists()


def test_an_unfinished_run_is_neither_mixed_nor_thrown_away(film: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    interrupted(film, out, signal.SIGINT)
    journal = out.with_name("out.mkv.kinochrome")
    kept = {file.name for file in journal.glob("*.chunk")}
    with start(film, "-o", out, "--saturation", "0.5") as run:
        _, said = run.communicate()
    assert run.returncode == 1
    assert "out.mkv.kinochrome holds an unfinished run of other settings" in said
    assert "saturation was 1.0, is 0.5" in said and "--restart" in said
    assert {file.name for file in journal.glob("*.chunk")} == kept
    out.write_bytes(b"an older film")
    with start(film, "-o", out, "--overwrite") as run:
        _, said = run.communicate()
    assert run.returncode == 0  # --overwrite replaced the film, and the journal was carried on
    assert out.read_bytes() == undisturbed.read_bytes()


def test_restart_begins_anew(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    interrupted(film, out, signal.SIGINT)
    with start(film, "-o", out, "--saturation", "0.5", "--restart") as run:
        run.communicate()
    assert run.returncode == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mkv"]


def test_a_worker_that_is_killed_costs_one_retry(film: Path, undisturbed: Path, tmp_path: Path) -> None:
    out, mark = tmp_path / "out.mkv", uuid.uuid4().hex
    with start(film, "-o", out, mark=mark) as run:
        journal = out.with_name("out.mkv.kinochrome")
        while not list(journal.glob("*.chunk")):
            assert run.poll() is None
            time.sleep(0.02)
        for pid in processes(mark):
            if pid != run.pid:
                os.kill(pid, signal.SIGKILL)
        run.communicate()
    assert run.returncode == 0
    assert out.read_bytes() == undisturbed.read_bytes()


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of so many bytes; skips where none can be mounted."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "kinochrome-test", folder], capture_output=True
    )
    if done.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_loses_nothing_and_a_larger_one_finishes(film: Path, undisturbed: Path, tmp_path: Path) -> None:
    room = undisturbed.stat().st_size
    with small_disk(tmp_path / "disk", room) as disk:  # half of what is needed: chunks and the film itself
        out = disk / "out.mkv"
        with start(film, "-o", out) as run:
            _, said = run.communicate()
        assert run.returncode == 1
        assert "No space left on device" in said.splitlines()[-1]
        assert f"finished parts are kept in {out}.kinochrome" in said.splitlines()[-1]
        assert not out.exists()
        assert list((disk / "out.mkv.kinochrome").glob("*.chunk"))
        subprocess.run(["mount", "-o", f"remount,size={10 * room}", disk], check=True)
        with start(film, "-o", out) as run:
            run.communicate()
        assert run.returncode == 0
        assert out.read_bytes() == undisturbed.read_bytes()
        assert [entry.name for entry in disk.iterdir()] == ["out.mkv"]


def test_a_folder_that_cannot_be_written_is_named_before_work_starts(film: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        shutil.copy(film, disk / "film.mkv")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with start(disk / "film.mkv") as run:
            _, said = run.communicate()
        assert run.returncode == 1
        assert said.count("\n") == 1
        assert "film.color.mkv.kinochrome cannot be written to: Read-only file system" in said
