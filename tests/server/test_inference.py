"""The inference process: batches for all workers, and nobody's loss but one's own."""

import contextlib
import fcntl
import io
import mmap
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinochrome_proto.errors import BadColorizer, KinochromeError, Unusable
from kinochrome_server.inference import host, memory
from kinochrome_server.inference.batches import Batcher, Batching, Picture
from kinochrome_server.inference.host import Gone, Inference, Options, Process
from kinochrome_server.inference.memory import Memory
from kinochrome_server.inference.remote import Counter, InferenceLost, RemoteEngine
from kinochrome_server.inference.sessions import Session, Sessions
from kinochrome_server.inference.tickets import Request
from kinochrome_server.pipeline import Report, Settings, colorize
from kinochrome_server.pool import WorkerPool
from kinochrome_server.sources import FileSource
from kinochrome_server.turns import Turn
from tests import films
from tests.films import Kind

from . import fake_inference as fake

FAKE = "tests.server.fake_inference"
SIZE = (32, 48)


# Which pictures go together


def picture(of: str, number: int, kind: str = "film", weight: int = 1) -> Picture:
    return Picture((kind, 1, 1), Turn(of, weight), None, number, 1.0)


def test_a_full_batch_goes_at_once_and_a_short_one_after_the_delay() -> None:
    batcher = Batcher(Batching(most=4, delay_s=0.5))
    for number in range(6):
        batcher.add(picture("a", number), now=10.0)
    assert [waiting.index for waiting in batcher.take(10.0)] == [0, 1, 2, 3]
    assert batcher.take(10.4) == [] and batcher.due() == 10.5
    assert [waiting.index for waiting in batcher.take(10.5)] == [4, 5]
    assert batcher.due() is None


def test_batches_fill_across_jobs_and_the_least_served_goes_first() -> None:
    batcher = Batcher(Batching(most=4, delay_s=0.0))
    for number in range(40):
        batcher.add(picture("long", number), now=0.0)
    assert len(batcher.take(0.0)) == 4
    for number in range(4):
        batcher.add(picture("short", number), now=1.0)
    mixed = [waiting.turn.of for waiting in batcher.take(1.0)]
    assert mixed.count("short") == 2
    assert [waiting.turn.of for waiting in batcher.take(1.0)].count("short") == 2


def test_a_job_with_twice_the_weight_gets_twice_the_device() -> None:
    batcher = Batcher(Batching(most=3, delay_s=0.0))
    for number in range(60):
        batcher.add(picture("heavy", number, weight=2), now=0.0)
        batcher.add(picture("light", number), now=0.0)
    served = [waiting.turn.of for _ in range(10) for waiting in batcher.take(0.0)]
    assert abs(served.count("heavy") - 20) <= 1


def test_films_of_other_sizes_do_not_wait_for_ever() -> None:
    batcher = Batcher(Batching(most=2, delay_s=1.0))
    batcher.add(picture("rare", 0, kind="rare"), now=0.0)
    for number in range(100):
        batcher.add(picture("usual", number), now=0.0)
    orders = []
    for _ in range(4):
        orders += [waiting.turn.of for waiting in batcher.take(1.0)]
    assert "rare" in orders


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.booleans()), max_size=80),
    st.integers(1, 7),
)
def test_every_picture_goes_into_one_batch_of_its_kind(script: list[tuple[str, str, bool]], most: int) -> None:
    batcher = Batcher(Batching(most=most, delay_s=1.0))
    got: list[Picture] = []
    added: list[Picture] = []

    def take(now: float) -> int:
        batch = batcher.take(now)
        assert len(batch) <= most and len({waiting.kind for waiting in batch}) <= 1
        got.extend(batch)
        return len(batch)

    for number, (of, kind, takes) in enumerate(script):
        added.append(picture(of, number, kind))
        batcher.add(added[-1], float(number))
        if takes:
            take(float(number))
    while take(1e6):
        pass
    assert len(batcher) == 0
    assert sorted(map(id, got)) == sorted(map(id, added))


def test_what_is_dropped_is_not_painted() -> None:
    batcher = Batcher(Batching(most=4, delay_s=0.0))
    for number in range(4):
        batcher.add(picture("ab"[number % 2], number), now=0.0)
    batcher.drop(lambda waiting: waiting.turn.of == "a")
    assert [waiting.turn.of for waiting in batcher.take(0.0)] == ["b", "b"]
    assert batcher.take(0.0) == []


# Colorizers held ready


def test_the_least_recently_used_colorizer_makes_room() -> None:
    loaded: list[int] = []

    def load(session: Session) -> object:
        loaded.append(session.seed)
        return object()

    sessions = Sessions(load, kept=2)  # type: ignore[arg-type]
    for seed in (1, 2, 1, 3, 1, 2):
        sessions.engine(Session("cpu", "", "", seed))
    assert loaded == [1, 2, 3, 2] and len(sessions) == 2


def test_too_little_memory_for_one_more_means_that_all_others_go() -> None:
    loads: list[int] = []

    def load(session: Session) -> object:
        loads.append(session.seed)
        if session.seed == 2 and loads.count(2) == 1:
            raise MemoryError
        return object()

    sessions = Sessions(load, kept=4)  # type: ignore[arg-type]
    sessions.engine(Session("cpu", "", "", 1))
    sessions.engine(Session("cpu", "", "", 2))
    assert loads == [1, 2, 2] and len(sessions) == 1


# Memory


def test_memory_cannot_be_taken_away_under_who_reads_it() -> None:
    descriptor = memory.create()
    with pytest.raises(PermissionError):
        os.truncate(descriptor, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0)
    Memory(descriptor)


def test_memory_of_another_kind_is_refused(tmp_path: Path) -> None:
    unsealed = os.memfd_create("mine", os.MFD_ALLOW_SEALING)
    os.truncate(unsealed, memory.SIZE)
    with pytest.raises(ValueError):
        Memory(unsealed)
    with pytest.raises((ValueError, OSError)):
        Memory(os.open(tmp_path, os.O_RDONLY))


@given(st.integers(1, 8), st.integers(1, 64), st.integers(1, 64), st.sampled_from([1, 2, 4]))
def test_luma_and_chroma_of_all_slots_lie_apart(count: int, height: int, width: int, stride: int) -> None:
    if not memory.fits(count, height, width):
        return
    shared = Memory(memory.create())
    grid = (height // stride, width // stride)
    if not all(grid):
        return
    for slot in range(memory.SLOTS):
        shared.luma(slot, count, height, width)[...] = 1 + slot
        shared.chroma(slot, (count, height, width), grid)[...] = slot
        shared.set_state(slot, memory.RUNS)
    for slot in range(memory.SLOTS):
        assert (shared.luma(slot, count, height, width) == 1 + slot).all()
        assert (shared.chroma(slot, (count, height, width), grid) == slot).all()
        assert shared.state(slot) == memory.RUNS


def test_what_fits_lies_within_its_slot() -> None:
    for count, height, width in ((1, 2048, 3600), (4, 1024, 1800), (64, 256, 440)):
        assert memory.fits(count, height, width)
        shared = Memory(memory.create())
        shared.chroma(1, (count, height, width), (height, width))[...] = 1  # as large as chroma can be
        assert not memory.fits(count, 2 * height, width)
    assert mmap.PAGESIZE <= memory.SLOT_BYTES


# The process


class Workshop:
    """An inference process with a fake engine, and workers that the test plays."""

    def __init__(self, folder: Path, most: int = 4, delay_s: float = 0.05, **options: int) -> None:
        self.batches: list[tuple[int, int]] = []
        self.note = folder / "batches"
        self.note.touch()
        batching = Batching(most, delay_s)
        self.inference = Inference(
            Options(batching=batching, module=FAKE, **options),
            lambda frames, room: self.batches.append((frames, room)),
        )
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Workshop":
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()
        self.inference.close()

    @property
    def process(self) -> Process:
        return self.inference.process()

    def line(self, of: str = "", engine: str = "fake", weight: int = 1, works: bool = True) -> "PlayedWorker":
        worker = PlayedWorker(self.process)
        if works:
            self.process.work(worker.number, Turn(of, weight), Session(engine, str(self.note), "", 0))
        self._open.callback(worker.close)
        return worker

    def seen(self) -> list[list[int]]:
        """First samples of the pictures of each batch."""
        return [[int(word) for word in line.split()] for line in self.note.read_text().splitlines()]


class PlayedWorker:
    def __init__(self, process: Process) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        shared = memory.create()
        with theirs:
            self.number = process.attach(theirs, shared)
        self.signs_of_life = 0
        self.engine = RemoteEngine(Counter(self.socket, shared, self._count), fake.MANIFEST, "made.onnx")

    def _count(self) -> None:
        self.signs_of_life += 1

    def close(self) -> None:
        self.socket.close()


def luma(*firsts: int, size: tuple[int, int] = SIZE) -> npt.NDArray[np.uint8]:
    """Pictures with these first samples, and their numbers for second ones."""
    pictures = np.zeros((len(firsts), *size), np.uint8)
    pictures[:, 0, 0] = firsts
    pictures[:, 0, 1] = range(len(firsts))
    return pictures


def check(chroma: npt.NDArray[np.float32], *firsts: int) -> None:
    assert chroma.shape == (len(firsts), 2, SIZE[0] // 4, SIZE[1] // 4)
    assert (chroma[:, 0].T * 255).round().astype(int).T.reshape(len(firsts), -1).tolist() == [
        [first] * (SIZE[0] * SIZE[1] // 16) for first in firsts
    ]
    assert (chroma[:, 1, 0, 0] * 255).round().astype(int).tolist() == list(range(len(firsts)))


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    with Workshop(tmp_path) as workshop:
        yield workshop


def test_pictures_of_two_workers_share_a_batch_and_each_gets_its_own_colours(tmp_path: Path) -> None:
    with Workshop(tmp_path, most=4, delay_s=5.0) as workshop:
        one, other = workshop.line("a"), workshop.line("b")
        pending = [one.engine.begin(luma(1, 2)), other.engine.begin(luma(3, 4))]
        check(pending[0](), 1, 2)
        check(pending[1](), 3, 4)
        assert [sorted(batch) for batch in workshop.seen()] == [[1, 2, 3, 4]]
        wait_until(lambda: workshop.batches == [(4, 4)])


def test_every_batch_has_the_same_size(workshop: Workshop) -> None:
    worker = workshop.line()
    check(worker.engine.begin(luma(7))(), 7)
    check(worker.engine.begin(luma(*range(10, 16)))(), *range(10, 16))
    assert [len(batch) for batch in workshop.seen()] == [4, 4, 4]
    assert workshop.seen()[0] == [7, 0, 0, 0]


def test_groups_on_their_way_are_told_apart(workshop: Workshop) -> None:
    worker = workshop.line()
    first, second = worker.engine.begin(luma(1, 2, 3)), worker.engine.begin(luma(4, 5, 6))
    check(second(), 4, 5, 6)
    check(first(), 1, 2, 3)
    for number in range(20):  # those nobody asks for are in nobody's way
        worker.engine.begin(luma(number))
    check(worker.engine.begin(luma(9, 8))(), 9, 8)


def test_films_of_another_size_or_colorizer_do_not_share_batches(workshop: Workshop) -> None:
    one, other = workshop.line(), workshop.line(engine="another")
    large = one.engine.begin(luma(1, size=(64, 64)))
    small = one.engine.begin(luma(2))
    another = other.engine.begin(luma(3))
    assert large().shape == (1, 2, 16, 16)
    check(small(), 2)
    check(another(), 3)
    assert sorted(workshop.seen()) == [[1, 0, 0, 0], [2, 0, 0, 0], [3, 0, 0, 0]]


def test_a_worker_that_dies_in_mid_request_costs_others_nothing(workshop: Workshop) -> None:
    slow, patient = workshop.line("a"), workshop.line("b")
    slow.engine.begin(luma(fake.SLOW, 1, 2, 3))
    wait_until(lambda: len(workshop.seen()) == 1)
    slow.engine.begin(luma(4))
    pending = patient.engine.begin(luma(5, 6))
    slow.close()
    check(pending(), 5, 6)
    assert workshop.seen()[1:] == [[5, 6, 0, 0]]  # nobody waits for what the dead one still wanted


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"x",
        b"x" * 1000,
        Request(memory.SLOTS, 1, 32, 32).packed(),
        Request(255, 1, 32, 32).packed(),
        Request(0, 0, 32, 32).packed(),
        Request(0, 65, 32, 32).packed(),
        Request(0, 1, 0, 32).packed(),
        Request(0, 64, 16384, 16384).packed(),
        Request(0, 65535, 65535, 65535).packed(),
    ],
)
def test_one_that_sends_nonsense_is_hung_up_on(workshop: Workshop, packet: bytes) -> None:
    liar, honest = workshop.line(), workshop.line()
    liar.socket.send(packet)
    liar.socket.settimeout(10)
    assert liar.socket.recv(100) == b""
    check(honest.engine.begin(luma(1))(), 1)


def test_one_that_uses_a_slot_twice_or_has_no_work_is_hung_up_on(workshop: Workshop) -> None:
    twice, idle = workshop.line(), workshop.line(works=False)
    for worker, times in ((twice, 2), (idle, 1)):
        for _ in range(times):
            worker.socket.send(Request(0, 1, *SIZE).packed())
        worker.socket.settimeout(10)
        with contextlib.suppress(ConnectionError):
            assert worker.socket.recv(100) == b""
    check(workshop.line().engine.begin(luma(1))(), 1)


def test_one_that_does_not_hear_its_answers_holds_nobody_up(workshop: Workshop) -> None:
    deaf, other = workshop.line(), workshop.line()
    deaf.engine.begin(luma(fake.SLOW))
    check(other.engine.begin(luma(1))(), 1)


@pytest.mark.parametrize(("first", "error"), [(fake.REFUSE, BadColorizer), (fake.NO_MEMORY, MemoryError)])
def test_errors_arrive_as_what_they_were(workshop: Workshop, first: int, error: type[Exception]) -> None:
    worker = workshop.line()
    with pytest.raises(error):
        worker.engine.begin(luma(first))()
    check(worker.engine.begin(luma(1))(), 1)


def test_sizes_that_the_colorizer_does_not_take_are_its_error(workshop: Workshop) -> None:
    worker = workshop.line()
    with pytest.raises(BadColorizer, match="takes multiples of 16"):
        worker.engine.begin(luma(1, size=(32, 40)))()
    with pytest.raises(BadColorizer, match="too large for batches"):
        worker.engine.begin(luma(1, size=(8192, 8192)))


def test_an_engine_that_does_not_load_is_an_error_of_who_wants_it(workshop: Workshop) -> None:
    bad, good = workshop.line(engine="unloadable"), workshop.line()
    with pytest.raises(Unusable, match="it does not load"):
        bad.engine.begin(luma(1))()
    check(good.engine.begin(luma(1))(), 1)


@pytest.mark.parametrize(("first", "words"), [(fake.DIE, "exit code 9"), (fake.BREAK, "broken"), (fake.BUG, "oops")])
def test_a_process_that_dies_tells_who_may_have_killed_it(workshop: Workshop, first: int, words: str) -> None:
    guilty, innocent = workshop.line("a"), workshop.line("b")
    process = workshop.process
    slow = guilty.engine.begin(luma(fake.SLOW))
    wait_until(lambda: len(workshop.seen()) == 1)
    dying, waiting = guilty.engine.begin(luma(first)), innocent.engine.begin(luma(1, size=(64, 64)))
    check(slow(), fake.SLOW)
    with pytest.raises(InferenceLost) as lost:
        dying()
    with pytest.raises(InferenceLost) as spared:
        waiting()
    assert lost.value.was_running and not spared.value.was_running
    assert words in process.how_it_ended()
    with pytest.raises(InferenceLost):
        guilty.engine.begin(luma(1))()
    assert workshop.process is not process
    check(workshop.line().engine.begin(luma(1))(), 1)


def test_a_process_that_hangs_is_ended(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "PATIENCE_S", 0.5)
    process = workshop.process
    check(workshop.line().engine.begin(luma(1))(), 1)
    process.check()
    assert process.is_alive
    os.kill(process.pid, 19)  # SIGSTOP
    process.check()
    assert "signal 9" in process.how_it_ended()


def test_it_is_heard_of_while_a_batch_is_slow(workshop: Workshop) -> None:
    process = workshop.process
    pending = workshop.line().engine.begin(luma(fake.SLOW))
    wait_until(lambda: len(workshop.seen()) == 1)
    process.check()
    check(pending(), fake.SLOW)


def test_it_does_not_outlive_who_started_it(workshop: Workshop) -> None:
    process = workshop.process
    check(workshop.line().engine.begin(luma(1))(), 1)
    process._control.shutdown(socket.SHUT_RDWR)
    assert process.how_it_ended() == "exit code 0"


def test_a_closed_one_starts_nothing(tmp_path: Path) -> None:
    with Workshop(tmp_path) as workshop:
        assert workshop.inference.pid is None
        workshop.process  # noqa: B018
        assert workshop.inference.pid is not None
    with pytest.raises(Gone):
        workshop.inference.process()


# Films


def coloured(film: Path, pool: WorkerPool, of: str = "") -> bytes:
    sink = io.BytesIO()
    report: Report = colorize(FileSource(film), sink, Settings(engine="cpu"), pool=pool, turn=Turn(of))
    assert report.frames
    return sink.getvalue()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Films of two sizes of thumbnails."""
    folder = tmp_path_factory.mktemp("films")
    kinds = [
        Kind("one.mp4", frames=100, gop=25, options={"sc_threshold": "0"}),
        Kind("two.mp4", frames=130, gop=25, options={"sc_threshold": "0"}),
        Kind("wide.mp4", frames=60, size=(320, 120)),
    ]
    return [films.make(folder, kind) for kind in kinds]


@pytest.fixture(scope="module")
def alone(mixed: list[Path]) -> list[bytes]:
    """Each coloured with nothing else going on."""
    with gathering() as pool:
        return [coloured(film, pool) for film in mixed]


def gathering(workers: int = 2, batches: list[tuple[int, int]] | None = None, **options: object) -> WorkerPool:
    """Workers whose pictures the inference process paints, on the CPU."""
    told = [] if batches is None else batches
    inference = Inference(
        Options(batching=Batching(most=8), **options),  # type: ignore[arg-type]
        on_batch=lambda frames, room: told.append((frames, room)),
    )
    return WorkerPool(workers, gathers={"cpu"}, inference=inference)


def test_how_films_are_mixed_changes_no_byte(mixed: list[Path], alone: list[bytes]) -> None:
    batches: list[tuple[int, int]] = []
    results: dict[int, bytes] = {}
    with gathering(3, batches) as pool:

        def run(number: int) -> None:
            results[number] = coloured(mixed[number], pool, of=str(number))

        threads = [threading.Thread(target=run, args=[number]) for number in range(len(mixed))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert pool.inference_pid is not None
    assert [results[number] for number in range(len(mixed))] == alone
    assert all(room == 8 for _, room in batches)
    assert any(frames > 4 for frames, _ in batches)  # more than one worker asks for at once


def test_a_killed_inference_process_costs_time_and_nothing_else(mixed: list[Path], alone: list[bytes]) -> None:
    killed: list[int] = []
    sink = io.BytesIO()
    with gathering() as pool:

        def kill(frames: int, expected: int) -> None:
            pid = pool.inference_pid
            if frames > 10 and not killed and pid is not None:
                killed.append(pid)
                os.kill(pid, 9)

        colorize(FileSource(mixed[1]), sink, Settings(engine="cpu"), pool=pool, on_progress=kill)
        assert killed and pool.inference_pid not in (None, killed[0])
    assert sink.getvalue() == alone[1]


def test_one_that_always_dies_is_a_clear_error(mixed: list[Path]) -> None:
    with gathering(module="tests.server.no_inference") as pool, pytest.raises(KinochromeError) as fault:
        coloured(mixed[0], pool)
    assert isinstance(fault.value, Unusable)
    assert str(fault.value).startswith("--engine cpu: the process that runs it died 2 times over ")
    assert "exit code 7" in str(fault.value)


def test_workers_on_a_cpu_paint_for_themselves(mixed: list[Path]) -> None:
    with WorkerPool(1) as pool:
        coloured(mixed[0], pool)
        assert pool.inference_pid is None


def wait_until(holds: object, timeout_s: float = 15.0) -> None:
    assert callable(holds)
    patience_ends = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < patience_ends, "it did not come about in time"
        time.sleep(0.01)
