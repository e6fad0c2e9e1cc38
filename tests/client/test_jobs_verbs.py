"""`kinochrome colorize --server` and `kinochrome jobs`: what they print, what they return, what they leave."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kinochrome_client import unfinished
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from tests.client import command
from tests.client.fake_server import FakeJob, FakeServer, coloured
from tests.proxy import Proxy
from tests.server.serving import KINOCHROME

SIZE = 400_000  # bytes of a film here


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def film(tmp_path: Path) -> Path:
    film = tmp_path / "film.mkv"
    film.write_bytes(random.Random(1).randbytes(SIZE))
    return film


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.mkv"


def is_right(out: Path, film: Path, server: FakeServer) -> bool:
    beside = sorted(entry.name for entry in out.parent.iterdir())
    return out.read_bytes() == coloured(film.read_bytes()) and beside == ["film.mkv", "out.mkv"] and not server.jobs


def start(*arguments: str | Path) -> "subprocess.Popen[str]":
    # A suite that runs in the background ignores Ctrl-C, and so would what it starts. Not mended by `preexec_fn`: with
    # it the fork passes through gRPC's handlers, which may abort.
    hearing = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    return subprocess.Popen(
        [sys.executable, "-S", "-c", hearing, KINOCHROME, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(so: Callable[[], bool]) -> None:
    """Wait for something that is about to be so."""
    deadline = time.monotonic() + 30
    while not so():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def interrupted(server: FakeServer, film: Path, out: Path, number: int = signal.SIGINT) -> tuple[str, str, int]:
    """A run that a signal ends while its job runs: the job's id, what was said, the exit code."""
    server.done = False
    with start("colorize", film, "-o", out, "--server", server.address) as run:
        until(lambda: any(job.state == wire.JOB_STATE_RUNNING for job in server.jobs.values()))
        until(lambda: (record := unfinished.recorded(out)) is not None and record.sent)
        run.send_signal(number)
        _, said = run.communicate()
    server.done = True
    (job_id,) = server.jobs
    return job_id, said, run.returncode


def test_a_film_is_coloured_there_and_that_is_said(server: FakeServer, film: Path, out: Path) -> None:
    done = command.run("colorize", film, "-o", out, "--server", server.address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 400 frames")
    assert "engine paint" in done.stderr and "warning: something to know" in done.stderr
    assert is_right(out, film, server)


def test_the_environment_names_server_and_token(film: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(token="right") as server:
        monkeypatch.setenv("KINOCHROME_SERVER", server.address)
        done = command.run("colorize", film, "-o", out)
        assert done.returncode == 1 and "token" in done.stderr and done.stderr.count("\n") == 1, done.stderr
        monkeypatch.setenv("KINOCHROME_TOKEN", "right")
        assert command.run("colorize", film, "-o", out, "--priority", "3").returncode == 0
        assert is_right(out, film, server)
        (out.parent / "token").write_text("wrong\n")
        done = command.run("jobs", "list", "--token-file", out.parent / "token")
        assert done.returncode == 1 and "token" in done.stderr
        done = command.run("jobs", "list", "--token-file", out.parent / "none")
        assert done.returncode == 1 and "none cannot be read: No such file" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_says_that_the_job_goes_on(number: int, server: FakeServer, film: Path, out: Path) -> None:
    job_id, said, code = interrupted(server, film, out, number)
    assert code == 130 and "Traceback" not in said
    assert said.splitlines()[-1] == (
        f"kinochrome: interrupted; the job goes on at {server.address}: the same command, or "
        f"`kinochrome jobs resume {job_id}`, carries on; `kinochrome jobs cancel {job_id}` would stop it"
    )
    server.change(server.jobs[job_id], state=wire.JOB_STATE_DONE)
    done = command.run("jobs", "resume", job_id)
    assert done.returncode == 0 and done.stdout == f"{out}: 400 frames\n", done.stderr
    assert is_right(out, film, server)
    done = command.run("jobs", "resume", job_id)
    assert done.returncode == 1 and "was not begun on this machine, or is finished" in done.stderr


def test_a_stop_before_all_is_sent_says_so(server: FakeServer, film: Path, out: Path) -> None:
    with Proxy(server.address) as proxy:
        proxy.slow(100_000)
        with start("colorize", film, "-o", out, "--server", proxy.address) as run:
            until(lambda: any(job.film for job in server.jobs.values()))
            run.send_signal(signal.SIGINT)
            _, said = run.communicate()
    assert run.returncode == 130
    assert "interrupted; the film is not wholly sent yet: the same command, or `kinochrome jobs resume" in said
    assert command.run("colorize", film, "-o", out, "--server", server.address).returncode == 0
    assert is_right(out, film, server)


def test_no_server_after_all_says_how_to_go_on(server: FakeServer, film: Path, out: Path) -> None:
    job_id, _, _ = interrupted(server, film, out)
    server.stop()
    done = command.run("colorize", film, "-o", out, "--server", server.address, "--patience", "0.5")
    server.start()
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "no server answers" in done.stderr and f"`kinochrome jobs resume {job_id}`, carries on" in done.stderr


@pytest.mark.parametrize("kills", [4, pytest.param(25, marks=pytest.mark.slow)])
def test_kills_at_any_point_and_a_finish(kills: int, server: FakeServer, film: Path, out: Path) -> None:
    chance = random.Random(kills)
    killed = 0
    with Proxy(server.address) as proxy:
        proxy.slow(600_000)
        while killed < kills:
            with start("colorize", film, "-o", out, "--server", proxy.address) as run:
                try:
                    run.wait(chance.uniform(0.3, 2.5))
                except subprocess.TimeoutExpired:
                    run.kill()
                    killed += 1
                else:
                    assert run.returncode == 0, run.communicate()[1]
                    assert is_right(out, film, server)
                    out.unlink()
            assert not out.exists() or out.read_bytes() == coloured(film.read_bytes())
            assert len(server.jobs) <= 1
            if not unfinished.folder_of(out).exists():
                out.unlink(missing_ok=True)  # all was done before the kill came
        proxy.slow(None)
        done = command.run("colorize", film, "-o", out, "--server", proxy.address)
    assert done.returncode == 0, done.stderr
    assert is_right(out, film, server)


def test_restart_begins_anew_and_takes_the_old_job_away(server: FakeServer, film: Path, out: Path) -> None:
    job_id, _, _ = interrupted(server, film, out)
    done = command.run("colorize", film, "-o", out, "--server", server.address, "--crf", "20")
    assert done.returncode == 1 and "unfinished run of other settings" in done.stderr and "--restart" in done.stderr
    done = command.run("colorize", film, "-o", out)
    assert done.returncode == 1 and f"an unfinished run on server {server.address}" in done.stderr, done.stderr
    done = command.run("colorize", film, "-o", out, "--server", server.address, "--crf", "20", "--restart")
    assert done.returncode == 0, done.stderr
    assert job_id not in server.jobs
    assert is_right(out, film, server)


def test_a_job_that_is_over_is_begun_anew_and_said(server: FakeServer, film: Path, out: Path) -> None:
    job_id, _, _ = interrupted(server, film, out)
    server.jobs.clear()
    done = command.run("jobs", "resume", job_id)
    assert done.returncode == 1 and done.stderr == f"kinochrome: there is no job {job_id}\n"
    done = command.run("colorize", film, "-o", out, "--server", server.address)
    assert done.returncode == 0
    assert f"has job {job_id} no longer: it is begun anew" in done.stderr
    assert is_right(out, film, server)


def test_the_job_is_known_by_its_film(server: FakeServer, film: Path, out: Path) -> None:
    job_id, _, _ = interrupted(server, film, out)
    server.jobs["other"] = FakeJob("other", priority=5, ahead=3, state=wire.JOB_STATE_QUEUED)
    listed = command.run("jobs", "list", "--server", server.address)
    assert listed.returncode == 0, listed.stderr
    heading, first, second = listed.stdout.splitlines()
    assert heading.split() == ["id", "state", "frames", "film", "begun", "goes"]
    assert "other" in first and "queued, 3 before it" in first
    assert job_id in second and "running" in second and "film.mkv" in second and "400 of 100" in second
    printed = json.loads(command.run("jobs", "list", "--server", server.address, "--json").stdout)
    assert [job["id"] for job in printed] == ["other", job_id]
    assert printed[1]["film"] == str(film) and printed[1]["out"] == str(out) and printed[0]["film"] is None
    shown = command.run("jobs", "show", job_id)  # its server is known
    for words in (job_id, "running", str(film), str(out), "0.4 MB", "paint", "something to know"):
        assert "".join(words.split()) in "".join(shown.stdout.split()), words
    printed = json.loads(command.run("jobs", "show", job_id, "--json").stdout)
    assert (printed["state"], printed["frames"], printed["uploaded"]) == ("running", 400, SIZE)
    assert printed["created"] == "2023-11-14T22:13:20+00:00"


def test_cancel_and_delete_take_several(server: FakeServer) -> None:
    server.jobs = {name: FakeJob(name) for name in ("one", "two")}
    server.jobs["done"] = FakeJob("done", state=wire.JOB_STATE_DONE)
    done = command.run("jobs", "cancel", "one", "none", "done", "--server", server.address)
    assert done.returncode == 1
    assert done.stdout == "one: cancelled\ndone: done already\n"
    assert done.stderr == "kinochrome: there is no job none\n"
    done = command.run("jobs", "delete", "one", "two", "--server", server.address)
    assert done.returncode == 0 and done.stdout == "one: deleted\ntwo: deleted\n"
    assert list(server.jobs) == ["done"]


def test_watch_ends_with_the_job(server: FakeServer, film: Path) -> None:
    server.jobs["job"] = job = FakeJob("job", film=bytearray(film.read_bytes()), state=wire.JOB_STATE_RUNNING)
    with start("jobs", "watch", "job", "--json", "--server", server.address) as run:
        assert run.stdout is not None
        assert json.loads(run.stdout.readline())["state"] == "running"
        server.change(job, state=wire.JOB_STATE_DONE)
        assert json.loads(run.stdout.readline())["state"] == "done"
        run.communicate()
    assert run.returncode == 0
    done = command.run("jobs", "watch", "job", "--server", server.address)
    assert done.returncode == 0 and done.stdout.startswith("job: done, 400 frames; `kinochrome jobs fetch job")
    job.failure = wire.Failure(reason="BAD_FILM", text="film is cut off")
    server.change(job, state=wire.JOB_STATE_FAILED)
    done = command.run("jobs", "watch", "job", "--server", server.address)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "kinochrome: film is cut off"


def test_fetch_brings_the_film_of_any_job(server: FakeServer, film: Path, out: Path) -> None:
    server.jobs["job"] = FakeJob("job", film=bytearray(film.read_bytes()), state=wire.JOB_STATE_DONE)
    out.write_bytes(b"precious")
    done = command.run("jobs", "fetch", "job", "-o", out, "--server", server.address)
    assert done.returncode == 1 and "--overwrite replaces it" in done.stderr
    done = command.run("jobs", "fetch", "job", "-o", out, "--overwrite", "--server", server.address)
    assert done.returncode == 0 and done.stdout == f"{out}: 400 frames\n", done.stderr
    assert out.read_bytes() == coloured(film.read_bytes()) and "job" in server.jobs
    done = command.run("jobs", "fetch", "job", "-o", out, "--overwrite", "--delete", "--server", server.address)
    assert done.returncode == 0
    assert is_right(out, film, server)
    done = command.run("jobs", "fetch", "job", "-o", out.with_name("new.mkv"), "--server", server.address)
    assert done.returncode == 1 and done.stderr == "kinochrome: there is no job job\n"
    assert is_right(out, film, server)


def test_usage_is_told_apart_from_errors(tmp_path: Path) -> None:
    done = command.run("jobs", "list")
    assert done.returncode == 1 and "no server is named: --server HOST:PORT" in done.stderr
    assert command.run("jobs", "show").returncode == 2
    assert command.run("jobs", "fetch", "job").returncode == 2
    done = command.run("jobs", "show", "../../etc/passwd", "--server", "127.0.0.1:9")
    assert done.returncode == 1 and "no server answers" in done.stderr
    for verb in ("list", "show", "watch", "fetch", "cancel", "delete", "resume"):
        assert command.run("jobs", verb, "--help").returncode == 0
        assert verb in command.run("jobs", "--help").stdout
    assert os.environ["XDG_STATE_HOME"]
