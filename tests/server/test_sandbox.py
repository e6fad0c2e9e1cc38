"""What a worker must not do it cannot do, and what it must do it can."""

import errno
import io
import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kinochrome_server import sandbox
from kinochrome_server.pipeline import Settings, colorize
from kinochrome_server.pool import WorkerPool
from kinochrome_server.sandbox import Held, Terms
from kinochrome_server.sources import FileSource
from tests import films
from tests.films import Kind

from .attempts import Attempt

HELD = sandbox.told()
by_seccomp = pytest.mark.skipif(HELD.network != "seccomp", reason=f"no seccomp here: {HELD.missing}")
by_landlock = pytest.mark.skipif(not HELD.files, reason=f"no Landlock here: {HELD.missing}")


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1) as pool:
        yield pool


def attempt(pool: WorkerPool, what: str, at: object = "") -> dict[str, Any]:
    return pool.submit(Attempt(what, str(at))).result(30)


def refused(pool: WorkerPool, what: str, at: object = "") -> None:
    with pytest.raises(OSError) as fault:
        attempt(pool, what, at)
    assert fault.value.errno in (errno.EPERM, errno.EACCES)
    assert attempt(pool, "threads") == {}  # the pool carries on


@by_seccomp
def test_a_worker_reaches_no_network(pool: WorkerPool, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        refused(pool, "internet", server.getsockname()[1])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "line"))
        server.listen()
        refused(pool, "unix", tmp_path / "line")


@by_seccomp
def test_a_worker_starts_nothing_but_threads(pool: WorkerPool) -> None:
    assert attempt(pool, "fork") == {"children": 0}
    refused(pool, "program")
    assert attempt(pool, "threads") == {}


@by_seccomp
def test_a_worker_does_not_reach_other_processes(pool: WorkerPool) -> None:
    refused(pool, "signal", os.getpid())


@by_landlock
def test_a_worker_does_not_see_into_the_server(tmp_path: Path) -> None:
    with WorkerPool(1, terms=Terms.of_worker(writes=[tmp_path])) as pool:
        refused(pool, "reach into", os.getpid())


def test_a_huge_file_fails_and_the_pool_carries_on(pool: WorkerPool, tmp_path: Path) -> None:
    with pytest.raises(OSError) as fault:
        attempt(pool, "huge", tmp_path / "huge")
    assert fault.value.errno == errno.EFBIG
    assert (tmp_path / "huge").stat().st_size == 0
    assert attempt(pool, "threads") == {}


def test_a_limit_on_files_of_ones_own(tmp_path: Path) -> None:
    with WorkerPool(1, terms=Terms(file_size=3)) as pool, pytest.raises(OSError) as fault:
        attempt(pool, "write", tmp_path / "file")
    assert fault.value.errno == errno.EFBIG


def test_too_much_memory_is_an_error_of_the_film_not_of_the_machine(pool: WorkerPool) -> None:
    with pytest.raises(Exception, match=r"film\.mp4: there is not enough memory"):
        attempt(pool, "memory")
    assert attempt(pool, "threads") == {}


def test_no_core_dumps_and_no_new_privileges(pool: WorkerPool) -> None:
    assert attempt(pool, "core") == {"core": 0}
    assert attempt(pool, "privileges")["NoNewPrivs"] == "1"


@by_landlock
def test_a_worker_writes_and_reads_only_where_it_may(tmp_path: Path) -> None:
    jobs, others = tmp_path / "jobs", tmp_path / "others"
    for folder in (jobs, others):
        folder.mkdir()
        (folder / "secret").write_text("secret")
    with WorkerPool(1, terms=Terms.of_worker(reads=[jobs], writes=[jobs])) as pool:
        attempt(pool, "write", jobs / "new")
        assert attempt(pool, "read", jobs / "secret") == {"text": "secret"}
        refused(pool, "write", others / "new")
        refused(pool, "write", others / "secret")
        refused(pool, "read", others / "secret")
    assert (others / "secret").read_text() == "secret" and not (others / "new").exists()
    with WorkerPool(1, terms=Terms.of_worker(writes=[jobs])) as pool:
        assert attempt(pool, "read", others / "secret") == {"text": "secret"}
        refused(pool, "write", others / "new")


def test_films_come_out_the_same(tmp_path: Path, pool: WorkerPool) -> None:
    film = films.make(tmp_path, Kind("film.mp4", frames=60, audio="aac"))
    (tmp_path / "scratch").mkdir()
    usual, confined = io.BytesIO(), io.BytesIO()
    colorize(FileSource(film), usual, Settings(), pool=pool)
    with WorkerPool(1, terms=Terms.of_worker(reads=[film], writes=[tmp_path / "scratch"])) as held:
        colorize(FileSource(film), confined, Settings(), pool=held, scratch=tmp_path / "scratch")
        assert held.held == HELD
    assert confined.getvalue() == usual.getvalue()


def test_what_holds_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), WorkerPool(1) as pool:
        attempt(pool, "threads")
    assert [record.getMessage() for record in caplog.records if record.getMessage().startswith("workers: ")]


def held_without(module: str, then: str = "") -> tuple[Held, str]:
    """In a process that lacks a module."""
    program = f"""
        import json, sys
        from dataclasses import asdict
        sys.modules[{module!r}] = None
        from kinochrome_server import sandbox
        print(json.dumps(asdict(sandbox.confine(sandbox.Terms()))))
        {then}
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    first, _, rest = ran.stdout.partition("\n")
    return sandbox.held_from(json.loads(first)), rest + ran.stderr


def test_without_libseccomp_a_namespace_keeps_it_off_the_network_and_that_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        held, rest = held_without("pyseccomp", f"import socket; socket.create_connection(('127.0.0.1', {port}))")
    assert not held.processes and held.missing[0].startswith("seccomp (")
    assert "missing: seccomp" in held.words()
    if held.network:
        assert held.network == "namespace" and "Network is unreachable" in rest
    else:
        assert any("namespace" in words for words in held.missing)


def test_what_a_worker_makes_up_of_its_confinement_is_bounded() -> None:
    held = sandbox.held_from({"network": "x" * 1000, "processes": "yes", "missing": ["y" * 1000] * 1000})
    assert len(held.network) <= 20 and not held.processes and len(held.missing) <= 10
    with pytest.raises(ValueError):
        sandbox.held_from({"missing": 3})
