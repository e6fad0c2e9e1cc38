"""The database of jobs: what must be known of them after a crash.

SQLite with a write-ahead log, in one thread of its own. What is asked for while it writes is written together in the
next transaction: fifty uploads that all want their offset noted wait for one flush of the disk, not for fifty.
"""

import asyncio
import json
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kinochrome_proto.errors import BadSettings

SCHEMA_VERSION = 1
_SCHEMA = """
create table jobs (
    seq integer primary key autoincrement,
    id text not null unique,
    owner text not null,
    request_id text not null,
    settings blob not null,
    priority integer not null,
    film_size integer not null,
    passing integer not null,         -- of a Colorize call, with which it goes
    state integer not null,           -- kinochrome.v1.JobState
    film integer not null default 1,  -- which try of the upload: names the file
    uploaded integer not null default 0,
    committed integer not null default 0,
    sha256 blob,                      -- of the film, once committed
    created_s real not null,
    queued_s real not null,
    touched_s real not null,          -- when something last happened
    running integer not null default 0,
    segments integer not null default 0,  -- finished ones, when it was last begun
    deaths integer not null default 0,    -- of servers in mid-job, with no segment more
    coloured integer not null default 0,
    frames integer not null default 0,
    expected integer not null default 0,
    engine text not null default '',
    warnings text not null default '[]',
    patches text not null default '[]',
    finished blob,                    -- kinochrome.v1.Finished
    reason text not null default '',
    failure text not null default '',
    unique (owner, request_id)
);
create table usage (
    owner text not null,
    hour integer not null,            -- since 1970
    pixels integer not null,
    primary key (owner, hour)
);
"""
_MOST = 256  # requests in one transaction

Row = Mapping[str, Any]
ResultT = TypeVar("ResultT")


@dataclass
class _Request:
    do: Callable[[sqlite3.Connection], Any]
    done: "Future[Any]"


class Store:
    """Open it once a spool; its lock is the spool's. Close it at the end."""

    def __init__(self, path: Path) -> None:
        """Open the database, or make it. Raises BadSettings when it cannot be used, OSError."""
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._open(path)
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True)
        self._thread.start()

    def _open(self, path: Path) -> None:
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.row_factory = sqlite3.Row
            self._database.execute("pragma journal_mode = wal")
            self._database.execute("pragma synchronous = full")
            self._database.execute("pragma journal_size_limit = 4194304")
            found = self._database.execute("pragma user_version").fetchone()[0]
            if not found:
                self._database.executescript(
                    f"begin exclusive; {_SCHEMA} pragma user_version = {SCHEMA_VERSION}; commit;"
                )
            elif found != SCHEMA_VERSION:
                raise BadSettings(f"{path} is of another version of kinochrome: choose another --spool")
            broken = self._database.execute("pragma quick_check(1)").fetchone()[0]
            if broken != "ok":
                raise BadSettings(f"{path} is damaged ({broken}): move the spool away and begin with an empty one")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
                raise BadSettings(f"{path} cannot be opened: the disk is full") from None
            raise BadSettings(f"{path} cannot be used as a spool's database: {error}") from None

    def close(self) -> None:
        """Finish what was asked for, then close."""
        self._requests.put(None)
        self._thread.join()
        self._database.close()

    def jobs(self) -> list[Row]:
        """All of them, oldest first, without their settings; before any other use."""
        cursor = self._database.execute("select * from jobs order by seq")
        return [{key: row[key] for key in row.keys() if key != "settings"} for row in cursor]  # noqa: SIM118

    async def insert(self, row: Row) -> int:
        """Add a job; gives its number. Raises sqlite3.Error."""
        return await self._ask(lambda database: _insert(database, row))

    async def update(self, job_id: str, **values: Any) -> None:
        """Change what is known of a job; it is on the disk when this returns. Raises sqlite3.Error."""
        await self._ask(lambda database: _update(database, job_id, values))

    async def delete(self, job_ids: Iterable[str]) -> None:
        """Forget jobs. Raises sqlite3.Error."""
        ids = [(job_id,) for job_id in job_ids]
        await self._ask(lambda database: database.executemany("delete from jobs where id = ?", ids))

    async def settings(self, job_id: str) -> bytes:
        """The job's settings, as they were given. Raises KeyError when it is gone."""
        found = await self._ask(
            lambda database: database.execute("select settings from jobs where id = ?", (job_id,)).fetchone()
        )
        if found is None:
            raise KeyError(job_id)
        return bytes(found[0])

    async def add_usage(self, owner: str, hour: int, pixels: int) -> None:
        """Note pixels coloured for an owner; forgets those of more than two days ago. Raises sqlite3.Error."""

        def add(database: sqlite3.Connection) -> None:
            database.execute("delete from usage where hour < ?", (hour - 48,))
            database.execute(
                "insert into usage values (?, ?, ?) on conflict do update set pixels = pixels + excluded.pixels",
                (owner, hour, pixels),
            )

        await self._ask(add)

    def usage(self) -> list[tuple[str, int, int]]:
        """Owner, hour since 1970, pixels coloured; before any other use."""
        return [tuple(row) for row in self._database.execute("select owner, hour, pixels from usage")]

    async def _ask(self, do: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        request = _Request(do, Future())
        self._requests.put(request)
        # Shielded: what was asked for is done, though who asked may be gone.
        return await asyncio.shield(asyncio.wrap_future(request.done))

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            batch = [request]
            last = False
            while len(batch) < _MOST:
                try:
                    another = self._requests.get_nowait()
                except queue.Empty:
                    break
                if another is None:
                    last = True
                    break
                batch.append(another)
            self._transact(batch)
            if last:
                return

    def _transact(self, batch: list[_Request]) -> None:
        """All of them in one transaction; if that fails, each in its own, so that none pays for another."""
        try:
            self._database.execute("begin immediate")
            results = [request.do(self._database) for request in batch]
            self._database.execute("commit")
        except Exception as fault:
            if self._database.in_transaction:
                self._database.execute("rollback")
            if len(batch) == 1:
                batch[0].done.set_exception(fault)
                return
            for request in batch:
                self._transact([request])
        else:
            for request, result in zip(batch, results, strict=True):
                request.done.set_result(result)


def _insert(database: sqlite3.Connection, row: Row) -> int:
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    cursor = database.execute(f"insert into jobs ({names}) values ({marks})", list(map(_plain, row.values())))
    return int(cursor.lastrowid or 0)


def _update(database: sqlite3.Connection, job_id: str, values: Row) -> None:
    changes = ", ".join(f"{name} = ?" for name in values)
    database.execute(f"update jobs set {changes} where id = ?", [*map(_plain, values.values()), job_id])


def _plain(value: Any) -> Any:
    """Lists go in as JSON."""
    return json.dumps(value) if isinstance(value, list | tuple) else value
