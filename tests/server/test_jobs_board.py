"""What becomes of jobs when things go wrong around them: a real board, spool and database, and runs that are played."""

import asyncio
import contextlib
import errno
import hashlib
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_server.jobs import places, runner, taking_up
from kinochrome_server.jobs.board import Board
from kinochrome_server.jobs.folders import Spool
from kinochrome_server.jobs.job import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Job
from kinochrome_server.jobs.limits import Limits
from kinochrome_server.jobs.runner import Coloured, News, Order
from kinochrome_server.jobs.store import Store
from kinochrome_server.sources import GrowingSource

MATROSKA = b"\x1aE\xdf\xa3" + bytes(range(1, 250)) * 40
"""The beginning of what can be coloured while it comes."""
DONE_FILM = Coloured(frames=5, size=0, sha256=bytes(32), patches=[])


class PlayedRun:
    """A run that colours nothing and ends as a test wants."""

    made: "list[PlayedRun]" = []  # noqa: RUF012  # emptied by the fixture

    def __init__(self, order: Order, pool: Any, on_news: Callable[[News], None], sent: int = 0) -> None:
        self.order, self.tell, self.had = order, on_news, sent
        self.charged = 0
        self.future: asyncio.Future[Coloured] = asyncio.get_running_loop().create_future()
        self.made.append(self)

    def start(self, threads: ThreadPoolExecutor) -> None:
        pass

    def stop(self) -> None:
        if not self.future.done():
            self.future.set_exception(errors.Cancelled("cancelled"))

    def sent(self, size: int) -> None:
        pass


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch) -> list[PlayedRun]:
    PlayedRun.made = []
    monkeypatch.setattr(places, "Run", PlayedRun)
    monkeypatch.setattr(places, "WAITS_S", (0.01,))
    return PlayedRun.made


def on_board(folder: Path, do: Callable[[Board, Store], Awaitable[None]], limits: Limits | None = None) -> None:
    """Do something with the board of a spool, as an earlier server left it."""

    async def main() -> None:
        spool = Spool(folder / "spool")
        store = Store(spool.database)
        board = Board(spool, store, cast(Any, None), "cpu", "cpu (1)", limits or Limits())
        try:
            await board.begin()
            await asyncio.wait_for(do(board, store), 60)
        finally:
            await board.close()
            store.close()
            spool.close()

    asyncio.run(main())


async def until(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


async def created(board: Board, owner: str = "me", *, passing: bool = False, **fields: Any) -> Job:
    return await board.create(owner, wire.CreateJobRequest(request_id=str(uuid.uuid4()), **fields), passing=passing)


async def upload(board: Board, job: Job, data: bytes, open_until: asyncio.Event | None = None) -> None:
    """Bytes of a film, from where it stands."""

    async def messages() -> AsyncIterator[bytes]:
        yield data
        if open_until:
            await open_until.wait()

    async for _ in board.upload(job, messages(), lambda message, offset: message):
        pass


async def sent(board: Board, owner: str = "me", data: bytes = b"a film" * 100, **fields: Any) -> Job:
    job = await created(board, owner, **fields)
    await upload(board, job, data)
    await board.commit(job, len(data), hashlib.sha256(data).digest())
    return job


def _has_moved_on(job: Job, run: Any) -> bool:
    """Whether it has ended, or is coloured by another run."""
    return job.has_ended or (job.run is not None and job.run is not run)


async def run_of(job: Job) -> PlayedRun:
    """What colours it, once something does."""
    await until(lambda: job.run)
    return cast(PlayedRun, job.run)


def full() -> sqlite3.Error:
    fault = sqlite3.OperationalError("database or disk is full")
    fault.sqlite_errorcode = sqlite3.SQLITE_FULL
    return fault


@contextlib.contextmanager
def failing(store: Store, name: str, fault: BaseException, when: Callable[..., bool] = lambda *a, **v: True) -> Any:
    """Meanwhile the database fails at something."""
    real = getattr(store, name)

    async def fail(*arguments: Any, **values: Any) -> Any:
        if when(*arguments, **values):
            raise fault
        return await real(*arguments, **values)

    setattr(store, name, fail)
    try:
        yield
    finally:
        delattr(store, name)


def test_bytes_that_could_not_be_noted_are_not_there_twice(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20

    async def do(board: Board, store: Store) -> None:
        job = await created(board)
        await upload(board, job, data[:1000])
        with failing(store, "update", full()), pytest.raises(sqlite3.Error):
            await upload(board, job, data[1000:2000])
        assert job.uploaded == 1000
        await upload(board, job, data[1000:])
        assert job.folder.source(1).path.read_bytes() == data
        await board.commit(job, len(data), hashlib.sha256(data).digest())

    on_board(tmp_path, do)


def test_what_has_grown_most_makes_room_in_a_full_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MOST_OVERFLOWS", 2)

    async def do(board: Board, store: Store) -> None:
        large, small = await sent(board), await sent(board, "you")  # the small one is the newer
        for left in (1, 0):
            coloured = large.folder.coloured
            coloured.write_bytes(bytes(7000))
            (await run_of(large)).tell(News(coloured=7000))
            (await run_of(small)).tell(News(coloured=3000))
            first = large.run
            await board._measure()
            await until(partial(_has_moved_on, large, first))
            assert small.state == RUNNING
            assert not coloured.exists() and large.coloured == 0
            assert large.has_ended is not bool(left)
        assert (large.state, large.reason) == (FAILED, "SERVER_FULL")
        assert large.fault().retry_s, "by then there may be room"

    on_board(tmp_path, do, Limits(spool_bytes=10_000))


def test_a_film_that_cannot_fit_is_not_tried_for_ever(tmp_path: Path) -> None:
    async def do(board: Board, store: Store) -> None:
        job = await sent(board)
        (await run_of(job)).tell(News(coloured=20_000))
        await board._measure()
        await until(lambda: job.has_ended)
        assert (job.state, job.reason, job.fault().retry_s) == (FAILED, "SERVER_FULL", None)
        assert board._quota.spool_bytes == 0

    on_board(tmp_path, do, Limits(spool_bytes=10_000))


def test_coloured_bytes_count_among_an_owners(tmp_path: Path) -> None:
    async def do(board: Board, store: Store) -> None:
        mine, yours = await sent(board), await sent(board, "you")
        (await run_of(mine)).tell(News(coloured=6000))
        (await run_of(yours)).tell(News(coloured=3000))
        await board._measure()
        await until(lambda: mine.has_ended)
        assert (mine.state, mine.reason) == (FAILED, "QUOTA_REACHED")
        assert yours.state == RUNNING

    on_board(tmp_path, do, Limits(owner_bytes=5000))


def test_a_client_that_reads_nothing_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SLOW_S", 0.3)
    monkeypatch.setattr(runner, "AHEAD_BYTES", 10)

    def seconds(run: runner.Run, size: int) -> float:
        started = time.monotonic()
        run._room(size)
        return time.monotonic() - started

    async def do() -> None:
        order = cast(Order, SimpleNamespace(durable=False))
        run = runner.Run(order, cast(Any, None), lambda news: None)
        assert seconds(run, 100) >= 0.3
        assert seconds(run, 200) < 0.2, "not at every write"
        run.sent(50)
        assert seconds(run, 300) >= 0.3, "it had moved"
        assert seconds(runner.Run(order, cast(Any, None), lambda news: None, 300), 305) < 0.2, "it has those already"

    asyncio.run(do())


def test_a_second_run_knows_what_the_client_has(tmp_path: Path) -> None:
    async def do(board: Board, store: Store) -> None:
        job = await created(board, passing=True)
        await upload(board, job, b"film")
        await board.commit(job, 4, None)
        first = await run_of(job)
        job.sent(1234)
        board._places.stop(job, "starved")
        await until(partial(_has_moved_on, job, first))
        assert (await run_of(job)).had == 1234

    on_board(tmp_path, do)


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_what_is_being_ended_is_not_begun_again(tmp_path: Path, played: list[PlayedRun], how: str) -> None:
    async def do(board: Board, store: Store) -> None:
        job = await sent(board)
        await run_of(job)
        real = store.update

        async def slow(*arguments: Any, **values: Any) -> None:
            await asyncio.sleep(0.2)
            await real(*arguments, **values)

        store.update = slow  # type: ignore[method-assign]
        await getattr(board, how)(job)
        assert len(played) == 1 and not board._places.has(job)
        assert job.gone or job.state == CANCELLED
        assert not job.folder.path.exists()

    on_board(tmp_path, do)


def test_a_clip_that_is_done_at_the_commit_stays_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = GrowingSource.finish

    def slow(source: GrowingSource) -> None:
        time.sleep(0.3)
        finish(source)

    monkeypatch.setattr(GrowingSource, "finish", slow)

    async def do(board: Board, store: Store) -> None:
        job, over = await created(board), asyncio.Event()
        uploading = asyncio.create_task(upload(board, job, MATROSKA, over))
        (await run_of(job)).future.set_result(DONE_FILM)
        over.set()
        await uploading
        commit = asyncio.create_task(board.commit(job, len(MATROSKA), hashlib.sha256(MATROSKA).digest()))
        while not commit.done():
            job.touch()  # whatever wakes what waits for the commit
            await asyncio.sleep(0.01)
        await commit
        await until(lambda: not board._places.has(job))
        assert job.state == DONE

    on_board(tmp_path, do)


def test_a_film_whose_end_cannot_be_marked_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(source: GrowingSource) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def do(board: Board, store: Store) -> None:
        job = await created(board)
        await upload(board, job, b"film")
        source, digest = job.folder.source(1), hashlib.sha256(b"film").digest()
        with monkeypatch.context() as meanwhile, pytest.raises(OSError, match="No space"):
            meanwhile.setattr(GrowingSource, "finish", no_room)
            await board.commit(job, 4, digest)
        assert not job.committed
        with failing(store, "update", full()), pytest.raises(sqlite3.Error):
            await board.commit(job, 4, digest)
        assert not job.committed and source.size() is None, "more may come"
        await board.commit(job, 4, digest)
        assert source.size() == 4
        await run_of(job)

    on_board(tmp_path, do)


def test_films_that_may_kill_servers_are_coloured_alone_and_last(tmp_path: Path, played: list[PlayedRun]) -> None:
    async def do(board: Board, store: Store) -> None:
        board._places._count = 0
        suspects = [await sent(board), await sent(board)]
        innocent = await sent(board)
        for job in suspects:
            job.deaths = taking_up.WARY_DEATHS
        board._places._count = 8
        board._places.schedule()
        (await run_of(innocent)).future.set_result(DONE_FILM)
        await until(lambda: innocent.state == DONE)
        first = await run_of(suspects[0])
        later = await sent(board, "you")
        assert suspects[1].state == later.state == QUEUED, "the server may die again"
        assert len(played) == 2
        first.tell(News(segments=1))  # it came further: it was not this film
        await run_of(later)
        assert suspects[1].state == QUEUED, "the other one has to be alone yet"

    on_board(tmp_path, do)


def test_a_spool_whose_disk_is_full_can_be_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def leave(board: Board, store: Store) -> None:
        await sent(board)
        await sent(board, passing=True)

    on_board(tmp_path, leave)
    updated: list[str] = []

    async def fail(store: Store, job_id: str, **values: Any) -> None:
        updated.append(job_id)
        raise full()

    async def look(board: Board, store: Store) -> None:
        (job,) = board.of_owner("me")
        assert updated == [job.id], "what runs is tried, nothing else was changed"
        monkeypatch.undo()
        await board.delete(job)
        assert not board.of_owner("me")

    monkeypatch.setattr(Store, "update", fail)
    with contextlib.suppress(AssertionError):
        on_board(tmp_path, look)
    assert updated


def test_a_server_that_is_stopped_hashes_no_whole_film(tmp_path: Path) -> None:
    async def do(board: Board, store: Store) -> None:
        job = await created(board)
        await upload(board, job, b"film")
        job.close_film()  # as after a restart: it has to be read again
        board._stop_hashing.set()
        with pytest.raises(errors.ServerUnreachable, match="being stopped") as caught:
            await board.commit(job, 4, hashlib.sha256(b"film").digest())
        assert caught.value.retry_s and not job.committed

    on_board(tmp_path, do)


def test_a_deletion_that_cannot_be_noted_is_noted_later(tmp_path: Path) -> None:
    async def do(board: Board, store: Store) -> None:
        job, other = await sent(board), await sent(board)
        with failing(store, "delete", full()), failing(store, "update", full()):
            await board.delete(job)
            await board.cancel(other)
            assert board.of_owner("me") == [other] and other.state == CANCELLED
            assert board._quota.spool_bytes == 0
            assert not job.folder.path.exists() and not other.folder.path.exists()
            left = taking_up.take_up(Store(board._spool.database), board._spool)
            assert not left.jobs and len(left.forgotten) == 2, "a server that comes before that forgets them, too"
        await board._note_ends()
        settings = [await _settings(store, each) for each in (job, other)]
        assert settings == [None, b""]

    on_board(tmp_path, do)

    async def look(board: Board, store: Store) -> None:
        assert [job.state for job in board.of_owner("me")] == [CANCELLED]

    on_board(tmp_path, look)


async def _settings(store: Store, job: Job) -> bytes | None:
    with contextlib.suppress(KeyError):
        return await store.settings(job.id)
    return None


def test_an_outcome_that_can_never_be_noted_ends_the_job(tmp_path: Path, played: list[PlayedRun]) -> None:
    async def do(board: Board, store: Store) -> None:
        with failing(store, "update", ValueError("no"), lambda job_id, **values: values.get("state") == DONE):
            job = await sent(board)
            while not job.has_ended:
                if job.run and not job.run.future.done():
                    job.run.future.set_result(DONE_FILM)
                await asyncio.sleep(0.01)
        assert (job.state, job.reason) == (FAILED, "SERVER_FAILED")
        assert len(played) == places.MOST_FAULTS

    on_board(tmp_path, do)


def test_what_workers_say_can_be_noted_and_told(tmp_path: Path) -> None:
    async def do(board: Board, store: Store) -> None:
        job, bad = await sent(board), await sent(board)
        run = await run_of(job)
        run.tell(News(warnings=("a stream \udcff",)))
        run.future.set_result(DONE_FILM)
        (await run_of(bad)).future.set_exception(errors.BadFilm("no film \udcff"))
        await until(lambda: job.has_ended and bad.has_ended)
        assert (job.state, bad.reason) == (DONE, "BAD_FILM")
        assert board.message(job).warnings[0].text == "a stream ?"
        assert board.message(bad).failure.text == "no film ?"

    on_board(tmp_path, do)


def test_a_journal_of_another_run_is_begun_anew(tmp_path: Path, played: list[PlayedRun]) -> None:
    async def do(board: Board, store: Store) -> None:
        job = await sent(board)
        first = await run_of(job)
        first.future.set_exception(errors.OutputInTheWay("of another film"))
        await until(lambda: len(played) == 2)
        assert (first.order.restart, played[1].order.restart) == (False, True)
        board._places.stop(job, "stalled")
        await until(lambda: len(played) == 3)
        assert not played[2].order.restart, "what the second has finished is good"
        for run in played[2:]:
            run.stop()

    on_board(tmp_path, do)
