"""Worker processes: what kills one costs one try, and nothing outlives its parent."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kinochrome_proto.errors import BadFilm, BadSettings, Cancelled
from kinochrome_server import pool as pools
from kinochrome_server.pool import WorkerPool


@dataclass(frozen=True)
class Misbehave:
    """A task that does what decoders of strangers' bytes do."""

    how: str
    note: Path
    """A line is added for every try."""

    @property
    def subject(self) -> str:
        return "film.mp4, at 1.0 s"

    def run(self, bench: Any, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        with self.note.open("a") as note:
            note.write(f"{os.getpid()} {sparing}\n")
        tries = len(self.note.read_text().splitlines())
        tell(3)
        match self.how:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "crash once":
                if tries == 1:
                    os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(60)
            case "refuse":
                raise BadSettings("no such thing")
            case "full disk":
                raise OSError(28, "No space left on device", "/full/disk")
            case "memory":
                raise MemoryError
            case "memory once":
                if not sparing:
                    raise MemoryError
            case "bug":
                raise ZeroDivisionError("oops")
        return {"pid": os.getpid()}


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2) as pool:
        yield pool


def attempt(pool: WorkerPool, how: str, tmp_path: Path) -> tuple[dict[str, Any], list[str], list[int]]:
    told: list[int] = []
    task = Misbehave(how, tmp_path / "note")
    result = pool.submit(task, on_frames=told.append).result(30)
    return result, task.note.read_text().splitlines(), told


def test_a_worker_that_dies_costs_one_retry(pool: WorkerPool, tmp_path: Path) -> None:
    _, tries, told = attempt(pool, "crash once", tmp_path)
    assert len(tries) == 2
    assert tries[0].split()[0] != tries[1].split()[0]
    assert told == [3, -3, 3]  # what the dead one had done is not counted


def test_then_a_clear_failure(pool: WorkerPool, tmp_path: Path) -> None:
    with pytest.raises(BadFilm, match=r"^film\.mp4, at 1\.0 s: it crashed its worker 2 times \(signal 11\)$"):
        attempt(pool, "crash", tmp_path)
    assert len((tmp_path / "note").read_text().splitlines()) == 2
    assert attempt(pool, "nothing", tmp_path)[0]  # of that film alone


def test_too_little_memory_means_a_sparing_try_and_then_an_error(pool: WorkerPool, tmp_path: Path) -> None:
    _, tries, _ = attempt(pool, "memory once", tmp_path)
    assert [line.split()[1] for line in tries] == ["False", "True"]
    with pytest.raises(BadFilm, match="there is not enough memory"):
        attempt(pool, "memory", tmp_path)


def test_a_worker_that_hangs_is_ended(pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "SILENCE_S", 1.0)
    with pytest.raises(BadFilm, match="said nothing for 1 s"):
        attempt(pool, "hang", tmp_path)


def test_errors_arrive_as_what_they_were(pool: WorkerPool, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"^no such thing$"):
        attempt(pool, "refuse", tmp_path)
    with pytest.raises(OSError, match="No space left on device") as fault:
        attempt(pool, "full disk", tmp_path)
    assert (fault.value.errno, fault.value.filename) == (28, "/full/disk")
    with pytest.raises(RuntimeError, match="ZeroDivisionError: oops"):
        attempt(pool, "bug", tmp_path)


def test_cancelling_ends_the_worker_at_once(pool: WorkerPool, tmp_path: Path) -> None:
    cancelled = threading.Event()
    note = tmp_path / "note"
    future = pool.submit(Misbehave("hang", note), cancelled)
    while not note.exists() or not note.read_text():
        time.sleep(0.01)
    begun = time.monotonic()
    cancelled.set()
    with pytest.raises(Cancelled):
        future.result(10)
    assert time.monotonic() - begun < 5
    assert not is_running(int(note.read_text().split()[0]))


def test_a_listener_that_raises_does_not_mix_up_the_next_task(tmp_path: Path) -> None:
    def complain(count: int) -> None:
        raise ValueError("not now")

    with WorkerPool(1) as pool:
        with pytest.raises(ValueError, match="not now"):
            pool.submit(Misbehave("full disk", tmp_path / "note"), on_frames=complain).result(30)
        assert attempt(pool, "nothing", tmp_path)[0]["pid"]


def test_a_closed_pool_takes_no_task(tmp_path: Path) -> None:
    with WorkerPool(1) as pool:
        attempt(pool, "nothing", tmp_path)
    with pytest.raises(Cancelled):
        pool.submit(Misbehave("nothing", tmp_path / "note")).result(5)


def test_workers_are_kept_for_the_next_task(tmp_path: Path) -> None:
    with WorkerPool(1) as pool:
        assert attempt(pool, "nothing", tmp_path)[0] == attempt(pool, "nothing", tmp_path)[0]


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    program = f"""
        from pathlib import Path
        from kinochrome_server.pool import WorkerPool
        from tests.server.test_pool import Misbehave
        with WorkerPool(1) as pool:
            pool.submit(Misbehave("hang", Path({str(tmp_path / "note")!r}))).result()
    """
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=root) as parent:
        note = tmp_path / "note"
        while not note.exists() or not note.read_text():
            assert parent.poll() is None
            time.sleep(0.01)
        worker = int(note.read_text().split()[0])
        parent.kill()
    for _ in range(100):
        if not is_running(worker):
            break
        time.sleep(0.05)
    assert not is_running(worker)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
