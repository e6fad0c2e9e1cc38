"""The database of jobs, and whose turn it is."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinochrome_proto.errors import BadSettings
from kinochrome_server.jobs.queue import in_turn
from kinochrome_server.jobs.store import Store


def row(job_id: str, **values: Any) -> dict[str, Any]:
    plain: dict[str, Any] = dict.fromkeys(("priority", "film_size", "passing", "created_s", "queued_s", "touched_s"), 0)
    return {**plain, "id": job_id, "owner": "me", "request_id": job_id, "settings": b"s", "state": 1, **values}


def with_store(path: Path, do: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    store = Store(path)
    try:
        asyncio.run(do(store))
    finally:
        store.close()


def test_what_was_written_is_there_for_the_next_server(tmp_path: Path) -> None:
    async def write(store: Store) -> None:
        assert await store.insert(row("a")) < await store.insert(row("b"))
        await store.update("a", uploaded=7, warnings=["one", "two"], patches=[(1, 2)])
        await store.delete(["b"])
        await store.add_usage("me", 5, 100)
        await store.add_usage("me", 5, 20)
        assert await store.settings("a") == b"s"
        with pytest.raises(KeyError):
            await store.settings("b")

    with_store(tmp_path / "db", write)
    store = Store(tmp_path / "db")
    (found,) = store.jobs()
    assert (found["id"], found["uploaded"], found["warnings"], found["patches"]) == (
        "a",
        7,
        '["one", "two"]',
        "[[1, 2]]",
    )
    assert "settings" not in found, "they may be megabytes, of every job"
    assert store.usage() == [("me", 5, 120)]
    store.close()


def test_old_usage_is_forgotten(tmp_path: Path) -> None:
    async def write(store: Store) -> None:
        await store.add_usage("me", 5, 100)
        await store.add_usage("me", 60, 1)

    with_store(tmp_path / "db", write)
    store = Store(tmp_path / "db")
    assert store.usage() == [("me", 60, 1)]
    store.close()


def test_one_request_that_fails_costs_the_others_nothing(tmp_path: Path) -> None:
    async def write(store: Store) -> None:
        await store.insert(row("a"))
        results = await asyncio.gather(
            *(store.insert(row(f"j{number}")) for number in range(50)),
            store.insert(row("a")),
            store.insert(row("z", request_id="a")),
            return_exceptions=True,
        )
        assert all(isinstance(result, int) for result in results[:50])
        assert all(isinstance(result, sqlite3.IntegrityError) for result in results[50:])

    with_store(tmp_path / "db", write)
    store = Store(tmp_path / "db")
    assert len(store.jobs()) == 51
    store.close()


def test_what_was_asked_for_is_done_though_nobody_waits(tmp_path: Path) -> None:
    async def write(store: Store) -> None:
        task = asyncio.create_task(store.insert(row("a")))
        await asyncio.sleep(0)
        task.cancel()

    with_store(tmp_path / "db", write)
    store = Store(tmp_path / "db")
    assert [found["id"] for found in store.jobs()] == ["a"]
    store.close()


def test_a_database_of_another_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "db") as database:
        database.execute("pragma user_version = 99")
    database.close()
    with pytest.raises(BadSettings, match="of another version"):
        Store(tmp_path / "db")


@dataclass(frozen=True)
class Asked:
    """A job that waits."""

    owner: str
    priority: int
    queued_s: float


asked = st.lists(
    st.builds(Asked, st.sampled_from("abcd"), st.sampled_from([-1, 0, 0, 0, 3]), st.floats(0, 100)), max_size=30
)


@given(asked, asked)
def test_turns_are_fair(waiting: list[Asked], running: list[Asked]) -> None:
    order = in_turn(waiting, running)
    assert sorted(order, key=id) == sorted(waiting, key=id), "each once"
    for owner in "abcd":
        own = [(-job.priority, job.queued_s) for job in order if job.owner == owner]
        assert own == sorted(own), "an owner's own go by priority, then by age"
    in_work = Counter(job.owner for job in running)
    had = []
    for job in order:
        had.append(in_work[job.owner])
        in_work[job.owner] += 1
    assert had == sorted(had), "whoever has least in work is next, whatever the priorities"


def test_ten_films_of_one_owner_keep_nobody_waiting() -> None:
    many = [Asked("studio", 0, float(number)) for number in range(10)]
    one = Asked("me", 0, 50.0)
    assert in_turn([*many, one])[1] == one
    assert in_turn([*many, one], running=many[:2])[0] == one
    first_two = in_turn([*many, one], running=[one])[:2]
    assert first_two[0] == many[0]
    urgent = [Asked("studio", 10, 100.0 + number) for number in range(10)]
    assert in_turn([*urgent, one])[0] == one, "nor do ten that are urgent"
    assert in_turn([*many, *urgent])[0] == urgent[0], "of one's own they go first"
