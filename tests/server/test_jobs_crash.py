"""Servers killed in mid-job: what was acknowledged stays, and the film comes out byte for byte as if nothing was."""

import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc
from tests import films
from tests.films import Kind
from tests.server import serving
from tests.server.job_calls import ENDED, calling, coloured_here, pieces, refused

DONE, FAILED = wire.JOB_STATE_DONE, wire.JOB_STATE_FAILED


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of several segments, so that some are finished when the server dies."""
    return films.make(tmp_path_factory.mktemp("film"), Kind("film.mkv", frames=700, gop=25))


@pytest.fixture(scope="module")
def coloured(film: Path) -> bytes:
    return coloured_here(film)


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def workers_of(server: serving.Server) -> list[int]:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    return sorted(
        {*map(int, children), *(int(pid) for task in tasks for pid in (task / "children").read_text().split())}
    )


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_killed_in_mid_upload(film: Path, coloured: bytes, tmp_path: Path) -> None:
    data = film.read_bytes()
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        job_id = calls.create().id
        acknowledged, killed = 0, threading.Event()

        def requests() -> Iterator[wire.UploadFilmRequest]:
            yield from pieces(job_id, data[: len(data) * 2 // 3], piece=20_000)
            killed.wait(60)

        with pytest.raises(grpc.RpcError):
            for response in calls.stub.UploadFilm(requests()):
                acknowledged = response.uploaded
                server.kill()
                killed.set()
        assert 0 < acknowledged < len(data)
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        uploaded = calls.get(job_id).uploaded
        assert acknowledged <= uploaded < len(data)
        assert calls.upload(job_id, data, offset=uploaded) == len(data)
        calls.commit(job_id, data)
        assert calls.fetched(job_id) == coloured
        calls.delete(job_id)
        assert server.left() == []


def test_killed_in_mid_colouring(film: Path, coloured: bytes, tmp_path: Path) -> None:
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        job_id = calls.sent(film.read_bytes())
        for job in calls.watch(job_id):
            if job.progress.frames > 250:
                break
        workers = workers_of(server)
        assert workers
        server.kill()
    wait_for(lambda: not any(map(is_alive, workers)), 10)
    assert (tmp_path / "spool" / "jobs" / job_id / "journal" / "journal").exists()
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        job = calls.ended(job_id)
        assert (job.state, job.finished.frames) == (DONE, 700)
        assert calls.fetched(job_id) == coloured


def test_a_killed_worker_costs_its_segment_one_more_try(film: Path, coloured: bytes, tmp_path: Path) -> None:
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        job_id = calls.sent(film.read_bytes())
        for job in calls.watch(job_id):
            if job.progress.frames > 100:
                break
        os.kill(workers_of(server)[0], signal.SIGKILL)
        assert calls.ended(job_id).state == DONE
        assert calls.fetched(job_id) == coloured


def test_killed_in_mid_download(film: Path, coloured: bytes, tmp_path: Path) -> None:
    """What the client has stays good though the server begins the coloured file anew from its journal."""
    fetched = bytearray()
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        job_id = calls.sent(film.read_bytes())
        calls.download(job_id, fetched, stop_at=10_000)
        assert calls.get(job_id).state not in ENDED
        server.kill()
    begun = len(fetched)
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        finished = calls.download(job_id, fetched)
        assert finished is not None and begun < len(fetched) == finished.size
    assert bytes(fetched) == coloured
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        assert calls.get(job_id).state == DONE, "a film that is done is still there after a third server's start"
        assert calls.fetched(job_id) == coloured


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_again_and_again_at_any_moment(film: Path, coloured: bytes, tmp_path: Path, seed: int) -> None:
    """A client that only retries gets its film, whatever moment each of ten servers dies at."""
    chance, data = random.Random(seed), film.read_bytes()
    fetched, job_id, kills = bytearray(), "", 0
    request = wire.CreateJobRequest(request_id="one-and-only", settings=wire.Settings())
    while True:
        with serving.running(tmp_path) as server, calling(server.address) as calls:
            lives = kills >= 10
            if not lives:
                kills += 1
                killer = subprocess.Popen(["sh", "-c", f"sleep {chance.uniform(0, 2.5)}; kill -9 {server.process.pid}"])
            try:
                job_id = calls.stub.CreateJob(request, timeout=60).job.id
                job = calls.get(job_id)
                if job.state == wire.JOB_STATE_UPLOADING:
                    for _ in calls.stub.UploadFilm(pieces(job_id, data, job.uploaded, 10_000)):
                        pass
                    calls.commit(job_id, data)
                if calls.download(job_id, fetched):
                    calls.delete(job_id)
                    break  # a film is fetched before the last kill at times: then there is nothing more to kill
            except grpc.RpcError as error:
                assert not lives, error
            finally:
                if not lives:
                    killer.wait(10)
    assert bytes(fetched) == coloured
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        assert not calls.jobs().jobs
        assert server.left() == []


def test_nothing_that_belongs_to_no_job_stays_in_the_spool(film: Path, tmp_path: Path) -> None:
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        requests = [
            wire.ColorizeRequest(settings=wire.Settings(container="mkv")),
            wire.ColorizeRequest(film=film.read_bytes()),
        ]
        call = wire_grpc.ColorizerServiceStub(grpc.insecure_channel(server.address)).Colorize(iter(requests))
        next(iter(call))
        kept = calls.create().id
        server.kill()
        with pytest.raises(grpc.RpcError):
            list(call)
    jobs = tmp_path / "spool" / "jobs"
    assert len(list(jobs.iterdir())) == 2
    (jobs / "stray").mkdir()
    (jobs / "stray" / "film-1").write_bytes(b"x")
    (jobs / "loose").write_bytes(b"x")
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        assert [job.id for job in calls.jobs().jobs] == [kept]
        assert server.left() == [f"jobs/{kept}"]


def test_asked_to_stop_it_keeps_what_is_finished_and_ends_well(film: Path, coloured: bytes, tmp_path: Path) -> None:
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        job_id = calls.sent(film.read_bytes())
        for job in calls.watch(job_id):
            if job.progress.frames > 250:
                break
        fetching = calls.stub.DownloadFilm(wire.DownloadFilmRequest(job_id=job_id))
        next(iter(fetching))
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        with refused() as why:
            list(fetching)
        assert why[0].code == grpc.StatusCode.UNAVAILABLE and why[0].retry_s
        assert server.process.wait(20) == 0
        assert time.monotonic() - started < 8
    journal = tmp_path / "spool" / "jobs" / job_id / "journal" / "journal"
    assert len(journal.read_bytes().splitlines()) > 1, "finished segments are kept"
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        assert calls.fetched(job_id) == coloured


def test_while_it_stops_a_server_takes_nothing_and_says_when_to_come_again(film: Path, tmp_path: Path) -> None:
    """A Colorize call under way keeps the server up for a while, so that there is somebody to refuse."""
    data = films.make(tmp_path, Kind("slow.mkv", frames=1500, gop=25)).read_bytes()
    with serving.running(tmp_path, "--drain", "6s") as server, calling(server.address) as calls:
        requests = [wire.ColorizeRequest(settings=wire.Settings(container="mkv")), wire.ColorizeRequest(film=data)]
        call = calls.stub.Colorize(iter(requests))
        next(iter(call))
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: any("asked to stop" in line for line in server.said))
        with refused() as why:
            calls.create()
        assert why[0].code == grpc.StatusCode.UNAVAILABLE and why[0].retry_s
        call.cancel()
        assert server.process.wait(20) == 0


def test_a_job_whose_servers_keep_dying_is_given_up(film: Path, tmp_path: Path) -> None:
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        job_id = calls.create().id
        server.kill()
    with sqlite3.connect(tmp_path / "spool" / "kinochrome.db") as database:
        database.execute("update jobs set running = 1, deaths = 19")
    database.close()
    with serving.running(tmp_path) as server, calling(server.address) as calls:
        job = calls.get(job_id)
        assert (job.state, job.failure.reason) == (FAILED, "SERVER_FAILED")
        assert "servers died" in job.failure.text
        assert server.left() == []


def test_one_spool_is_for_one_server(tmp_path: Path) -> None:
    with serving.running(tmp_path) as server:
        command = [str(serving.KINOCHROME), "serve", "--listen", "127.0.0.1:0", "--spool", str(server.spool)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "in use by another server" in done.stderr and str(server.process.pid) in done.stderr


def test_a_folder_with_other_files_is_no_spool(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    command = [str(serving.KINOCHROME), "serve", "--listen", "127.0.0.1:0", "--spool", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "holds other files (letters.txt)" in done.stderr
    assert (tmp_path / "letters.txt").read_text() == "dear"


def test_the_spool_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o755)
    with serving.running(tmp_path) as server:
        assert os.stat(server.spool).st_mode & 0o777 == 0o700


def test_a_damaged_database_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "kinochrome.db").write_bytes(b"nothing of the kind\n" * 1000)
    command = [str(serving.KINOCHROME), "serve", "--listen", "127.0.0.1:0", "--spool", str(tmp_path / "spool")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "cannot be used as a spool's database" in done.stderr
