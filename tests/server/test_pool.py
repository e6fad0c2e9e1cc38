"""Worker processes: what kills one costs one try, and nothing outlives its parent."""

import io
import os
import signal
import struct
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

from kinochrome_proto.errors import BadFilm, BadSettings, Cancelled, ServerFailed
from kinochrome_server import worker_process
from kinochrome_server.pipeline import Settings, colorize
from kinochrome_server.pool import KILLINGS, Turn, Watching, WorkerPool
from kinochrome_server.sources import FileSource, GrowingSource, Source
from tests import films
from tests.films import Kind


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
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "killed twice":
                if tries <= 2:
                    os.kill(os.getpid(), signal.SIGKILL)
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


@dataclass(frozen=True)
class Large:
    """A task of many bytes."""

    text: str
    subject: str = "film.mp4"

    def run(self, bench: Any, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        return {"size": len(self.text)}


@dataclass(frozen=True)
class Sign:
    """A task that signs and takes a while."""

    note: Path
    name: str
    subject: str = "film.mp4"

    def run(self, bench: Any, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        with self.note.open("a") as note:
            note.write(self.name + "\n")
        time.sleep(0.05)
        return {}


@dataclass(frozen=True)
class Babble:
    """A task whose worker talks nonsense, as one could that a film has taken over."""

    what: str
    subject: str = "film.mp4"

    def run(self, bench: Any, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        said = {
            "length": b"\xff\xff\xff\xff",
            "no json": framed(b"\x80\x04cos\nsystem\n"),  # a pickle, for one who reads them
            "a list": framed(b"[1, 2]"),
            "a bomb": framed(b"[" * 100_000),
            "odd figures": framed(b'{"result": {}, "stages": {"decode": "long"}, "batches": 3}'),
            "no frames": framed(b'{"frames": 1e999}'),
        }[self.what]
        os.write(int(sys.argv[1]), said)
        time.sleep(60)
        return {}


def framed(message: bytes) -> bytes:
    return struct.pack("!I", len(message)) + message


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


def test_a_worker_that_somebody_kills_says_nothing_about_the_film(pool: WorkerPool, tmp_path: Path) -> None:
    _, tries, told = attempt(pool, "killed twice", tmp_path)
    assert [line.split()[1] for line in tries] == ["False", "True", "True"]  # the system may have been short of memory
    assert sum(told) == 3


def test_but_not_for_ever(pool: WorkerPool, tmp_path: Path) -> None:
    with pytest.raises(
        ServerFailed, match=r"^film\.mp4, at 1\.0 s: its worker was killed 6 times: is there too little"
    ):
        attempt(pool, "killed", tmp_path)
    assert len((tmp_path / "note").read_text().splitlines()) == KILLINGS


def test_too_little_memory_means_a_sparing_try_and_then_an_error(pool: WorkerPool, tmp_path: Path) -> None:
    _, tries, _ = attempt(pool, "memory once", tmp_path)
    assert [line.split()[1] for line in tries] == ["False", "True"]
    with pytest.raises(BadFilm, match="there is not enough memory"):
        attempt(pool, "memory", tmp_path)


def test_a_worker_that_hangs_is_ended(pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "SILENCE_S", 1.0)
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


def test_what_waits_behind_others_is_given_up_at_once(tmp_path: Path) -> None:
    with WorkerPool(1) as pool:
        stop, cancelled = threading.Event(), threading.Event()
        note = tmp_path / "note"
        busy = pool.submit(Misbehave("hang", note), stop)
        behind = [pool.submit(Misbehave("nothing", tmp_path / "never"), cancelled) for _ in range(5)]
        wait_for(note)
        assert (pool.busy, pool.waiting) == (1, 5)
        begun = time.monotonic()
        cancelled.set()
        for future in behind:
            with pytest.raises(Cancelled):
                future.result(5)
        assert time.monotonic() - begun < 1
        assert (pool.busy, pool.waiting) == (1, 0)
        stop.set()
        with pytest.raises(Cancelled):
            busy.result(5)
        assert pool.busy == 0
    assert not (tmp_path / "never").exists()


def test_a_worker_that_is_stopped_holds_up_nobody_but_its_own_task(tmp_path: Path) -> None:
    with WorkerPool(2) as pool:
        pids = {attempt(pool, "nothing", tmp_path)[0]["pid"]}
        (pid,) = pids
        os.kill(pid, signal.SIGSTOP)
        cancelled = threading.Event()
        # More than the line holds: it cannot even be told what to do.
        stuck = pool.submit(Large("x" * (8 << 20)), cancelled)
        assert attempt(pool, "nothing", tmp_path)[0]["pid"] != pid
        begun = time.monotonic()
        cancelled.set()
        with pytest.raises(Cancelled):
            stuck.result(5)
        assert time.monotonic() - begun < 1
        assert not is_running(pid)
        assert pool.submit(Large("x" * (8 << 20))).result(30) == {"size": 8 << 20}


@pytest.mark.parametrize("message", ["length", "no json", "a list", "a bomb", "odd figures", "no frames"])
def test_what_a_worker_says_is_not_trusted(message: str, pool: WorkerPool, tmp_path: Path) -> None:
    with pytest.raises(BadFilm, match=r"^film\.mp4: (a worker said what makes no sense over it|it crashed)"):
        pool.submit(Babble(message)).result(30)
    assert attempt(pool, "nothing", tmp_path)[0]["pid"]


def test_figures_that_a_worker_tells_are_passed_on(tmp_path: Path) -> None:
    stages: list[tuple[str, float]] = []
    batches: list[tuple[int, int]] = []
    deaths: list[None] = []
    watching = Watching(
        lambda frames, room: batches.append((frames, room)),
        lambda name, seconds: stages.append((name, seconds)),
        lambda: deaths.append(None),
    )
    film = films.make(tmp_path, Kind(frames=30))
    with WorkerPool(1, watching=watching) as pool:
        colorize(FileSource(film), io.BytesIO(), Settings(engine="cpu"), pool=pool)
        attempt(pool, "crash once", tmp_path)
    assert {name for name, _ in stages} == set(worker_process.STAGES)
    assert all(0 < seconds < 60 for _, seconds in stages)
    assert sum(frames for frames, _ in batches) >= 30 and all(room == 4 for _, room in batches)
    assert len(deaths) == 1


def test_jobs_share_the_workers(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with WorkerPool(1) as pool:
        long = [pool.submit(Sign(note, "long"), turn=Turn("long")) for _ in range(12)]
        long[2].result(30)
        short = [pool.submit(Sign(note, "short"), turn=Turn("short", weight=2)) for _ in range(4)]
        for future in (*long, *short):
            future.result(30)
    order = note.read_text().split()
    assert order.index("short") <= 5
    assert order[order.index("short") :].index("long") <= 3
    assert max(place for place, of in enumerate(order) if of == "short") <= 10


# Cancelling a film, whatever it is at

STAGES = ["probing", "waiting for bytes", "first frames", "in the middle", "behind another job", "a stopped worker"]


@pytest.fixture(scope="module")
def hd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film that takes its while: one second of 720p takes a second."""
    kind = Kind("hd.mp4", frames=200, size=(1280, 720), gop=50, options={"sc_threshold": "0"})
    return films.make(tmp_path_factory.mktemp("hd"), kind)


@pytest.mark.parametrize("stage", STAGES)
def test_a_cancelled_film_frees_its_workers_within_a_second(stage: str, hd: Path, tmp_path: Path) -> None:
    cancelled, reached, over = threading.Event(), threading.Event(), threading.Event()
    frames_at = {"first frames": 1, "in the middle": 40, "a stopped worker": 1}.get(stage, 0)
    source: Source = FileSource(hd)
    if stage == "waiting for bytes":
        (tmp_path / "growing").write_bytes(hd.read_bytes()[:1000])
        source = GrowingSource(tmp_path / "growing")
    fault: list[BaseException] = []

    def progress(frames: int, expected: int) -> None:
        if frames_at and frames >= frames_at:
            reached.set()

    def run() -> None:
        try:
            colorize(source, io.BytesIO(), Settings(), pool=workers, cancelled=cancelled, on_progress=progress)
        except BaseException as error:
            fault.append(error)
        over.set()

    strangers = set(children())
    with WorkerPool(2) as workers:
        stop = threading.Event()
        others = []
        if stage == "behind another job":
            others = [workers.submit(Misbehave("hang", tmp_path / str(n)), stop, turn=Turn("other")) for n in range(2)]
        thread = threading.Thread(target=run)
        thread.start()
        if stage == "probing":
            until(lambda: workers.busy > 0)
        elif stage == "behind another job":
            until(lambda: workers.waiting > 0)
        elif frames_at:
            assert reached.wait(60)
        if stage == "a stopped worker":
            for pid in set(children()) - strangers:
                os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
        cancelled.set()
        until(lambda: workers.busy == len(others) and not workers.waiting)
        freed = time.monotonic() - begun
        assert over.wait(10)
        ended = time.monotonic() - begun
        print(f"{stage}: workers free after {freed:.3f} s, over after {ended:.3f} s")
        thread.join(5)
        stop.set()
    assert [type(error) for error in fault] == [Cancelled]
    assert freed < 1 and ended < 2


def until(holds: Callable[[], bool]) -> None:
    patience_ends = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < patience_ends
        time.sleep(0.002)


def children() -> list[int]:
    """Workers of this process."""
    own = str(os.getpid())
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if fields[1] == own and b"worker_main" in (stat.parent / "cmdline").read_bytes():
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


def wait_for(note: Path) -> None:
    until(lambda: note.exists() and note.read_text() != "")


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
