"""What jobs may take, for how long, and in what turn."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from tests import films
from tests.films import Kind
from tests.server import serving
from tests.server.job_calls import ENDED, calling, coloured_here, pieces, refused

DONE, QUEUED, UPLOADING = wire.JOB_STATE_DONE, wire.JOB_STATE_QUEUED, wire.JOB_STATE_UPLOADING


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films.make(tmp_path_factory.mktemp("film"), Kind("film.mkv", frames=50, gop=25))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films.make(tmp_path_factory.mktemp("long"), Kind("film.mkv", frames=800, gop=25))


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_an_owner_has_so_many_jobs(film: Path, tmp_path: Path) -> None:
    with serving.running(tmp_path, "--owner-jobs", "2") as server, calling(server.address) as calls:
        one, _two = calls.create().id, calls.create().id
        with refused() as why:
            calls.create()
        assert (why[0].code, why[0].reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_REACHED")
        assert why[0].retry_s
        assert len(os.listdir(server.spool / "jobs")) == 2
        calls.cancel(one)  # it holds nothing any more
        calls.create()


def test_an_owner_has_so_many_bytes(film: Path, tmp_path: Path) -> None:
    size = film.stat().st_size
    with serving.running(tmp_path, "--owner-size", str(size + 1000)) as server, calling(server.address) as calls:
        with refused() as why:
            calls.create(film_size=size + 1001)
        assert why[0].reason == "QUOTA_REACHED"
        one = calls.create(film_size=size).id
        with refused() as why:
            calls.create(film_size=2000)  # what the first has yet to bring counts already
        assert why[0].reason == "QUOTA_REACHED"
        two = calls.create().id
        calls.upload(one, film.read_bytes())
        with refused() as why:
            calls.upload(two, bytes(2000))
        assert (why[0].code, why[0].reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_REACHED")
        assert calls.get(two).uploaded == 0


def test_an_owner_has_so_many_pixels_a_day(film: Path, tmp_path: Path) -> None:
    pixels = 160 * 120 * 50
    with serving.running(tmp_path, "--owner-pixels", str(pixels * 3 // 2)) as server, calling(server.address) as calls:
        one, two = calls.sent(film.read_bytes()), ""
        assert calls.ended(one).state == DONE
        calls.delete(one)  # what was coloured was coloured
        two = calls.sent(film.read_bytes())
        job = calls.ended(two)
        assert (job.state, job.failure.reason) == (wire.JOB_STATE_FAILED, "QUOTA_REACHED")
    with serving.running(tmp_path, "--owner-pixels", str(pixels)) as server, calling(server.address) as calls:
        with refused() as why:
            calls.create()
        assert why[0].reason == "QUOTA_REACHED" and "tomorrow" in why[0].text, "known to the next server too"


def test_the_spool_has_a_size(film: Path, tmp_path: Path) -> None:
    data = film.read_bytes()
    with serving.running(tmp_path, "--spool-size", str(len(data) * 2)) as server, calling(server.address) as calls:
        with refused() as why:
            calls.create(film_size=len(data) * 3)
        assert (why[0].reason, why[0].field, why[0].retry_s) == ("SERVER_FULL", "film_size", None)
        one = calls.create(film_size=len(data)).id
        with refused() as why:
            calls.create(film_size=len(data))
        assert why[0].code == grpc.StatusCode.RESOURCE_EXHAUSTED and why[0].retry_s
        two = calls.create().id
        calls.upload(one, data)
        with refused() as why:
            calls.upload(two, data)
        assert why[0].reason == "SERVER_FULL" and why[0].retry_s
        calls.delete(one)
        calls.upload(two, data, offset=calls.get(two).uploaded)


def test_what_nobody_comes_for_is_removed(film: Path, tmp_path: Path) -> None:
    options = ("--keep", "2s", "--keep-abandoned", "3s")
    with serving.running(tmp_path, *options) as server, calling(server.address) as calls:
        done = calls.sent(film.read_bytes())
        assert calls.ended(done).state == DONE
        abandoned = calls.create().id
        calls.upload(abandoned, b"abc")
        expires = calls.get(done).expires_s
        assert 0 < expires - time.time() < 3
        wait_for(lambda: not calls.jobs().jobs, 20)
        wait_for(lambda: server.left() == [], 20)  # it is no job any more before its bytes are gone
        for job_id in (done, abandoned):
            with refused() as why:
                calls.get(job_id)
            assert why[0].reason == "NO_SUCH_JOB"


def test_an_upload_that_stands_still_is_ended_and_can_be_carried_on(film: Path, tmp_path: Path) -> None:
    data = film.read_bytes()
    with serving.running(tmp_path, "--upload-idle", "1s") as server, calling(server.address) as calls:
        job = calls.create()
        over = threading.Event()

        def trickle() -> Iterator[wire.UploadFilmRequest]:
            """A byte now and then: no more than silence."""
            for message in pieces(job.id, data, piece=1):
                yield message
                if over.wait(0.2):
                    return

        started = time.monotonic()
        with refused() as why:
            list(calls.stub.UploadFilm(trickle()))
        assert time.monotonic() - started < 10
        over.set()
        assert why[0].code == grpc.StatusCode.UNAVAILABLE and why[0].retry_s
        with refused() as why:  # one that never says a word
            list(calls.stub.UploadFilm(_silence(over)))
        uploaded = calls.get(job.id).uploaded
        assert 0 < uploaded < 100
        calls.upload(job.id, data, offset=uploaded)
        calls.commit(job.id, data)
        assert calls.ended(job.id).state == DONE


def test_a_download_that_nobody_reads_keeps_nothing(long: Path, tmp_path: Path) -> None:
    options = ("--upload-idle", "1s", "--keep", "4s")
    with serving.running(tmp_path, *options) as server, calling(server.address) as calls:
        done = calls.sent(long.read_bytes(), wire.Settings(codec="ffv1", container="mkv"))
        assert calls.ended(done).finished.size > 4 << 20, "more than lies on the way"
        unread = calls.stub.DownloadFilm(wire.DownloadFilmRequest(job_id=done))
        wait_for(lambda: any("nobody reads it" in line for line in server.said), 20)
        wait_for(lambda: not calls.jobs().jobs, 20)
        wait_for(lambda: server.left() == [], 20)  # it is no job any more before its bytes are gone
        with refused() as why:
            list(unread)
        assert why[0].code == grpc.StatusCode.UNAVAILABLE and why[0].retry_s


def _silence(over: threading.Event) -> Iterator[wire.UploadFilmRequest]:
    over.clear()
    over.wait(20)
    yield from ()


def test_the_queue_is_told_and_priorities_and_owners_count(film: Path, long: Path, tmp_path: Path) -> None:
    data = film.read_bytes()
    with serving.running(tmp_path, "--active", "1") as server, calling(server.address) as calls:
        first = calls.sent(long.read_bytes(), wire.Settings(codec="av1", preset="1"))  # as slow as can be
        for job in calls.watch(first):
            if job.state == wire.JOB_STATE_RUNNING:
                break
        waiting = [calls.sent(data) for _ in range(3)]
        assert [(calls.get(job_id).state, calls.get(job_id).ahead) for job_id in waiting] == [
            (QUEUED, 0),
            (QUEUED, 1),
            (QUEUED, 2),
        ]
        urgent = calls.sent(data, priority=5)
        assert calls.get(urgent).ahead == 0
        assert [calls.get(job_id).ahead for job_id in waiting] == [1, 2, 3]
        told: list[wire.Job] = []
        watched = threading.Thread(target=lambda: told.extend(calls.watch(waiting[2])))
        watched.start()
        calls.cancel(first)
        ended: list[str] = []
        while len(ended) < 4:
            ended += [j for j in (urgent, *waiting) if j not in ended and calls.get(j).state in ENDED]
            time.sleep(0.02)
        assert ended == [urgent, *waiting]
        watched.join(30)
        assert [job.ahead for job in told] == sorted((job.ahead for job in told), reverse=True)
        assert told[0].ahead == 3 and told[-1].state == DONE


def test_uploads_that_stall_keep_no_place_from_films_that_are_here(film: Path, long: Path, tmp_path: Path) -> None:
    data = long.read_bytes()
    hold = threading.Event()
    with serving.running(tmp_path, "--active", "1") as server, calling(server.address) as calls:
        stalled = calls.create(wire.Settings(container="mkv")).id

        def half() -> Iterator[wire.UploadFilmRequest]:
            yield from pieces(stalled, data[: len(data) // 2])
            hold.wait(60)

        upload = calls.stub.UploadFilm(half())
        next(iter(upload))
        wait_for(lambda: calls.get(stalled).coloured > 0)
        started = time.monotonic()
        assert calls.ended(calls.sent(film.read_bytes())).state == DONE
        assert time.monotonic() - started < 15
        upload.cancel()
        hold.set()
        offset = calls.get(stalled).uploaded
        calls.upload(stalled, data, offset=offset)
        calls.commit(stalled, data)
        assert calls.fetched(stalled) == coloured_here(long, "mkv")


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A disk of that size in a folder; skips where none can be had."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_loses_nothing(long: Path, tmp_path: Path) -> None:
    data = long.read_bytes()
    disk = tmp_path / "disk"
    with small_disk(disk, "12m"), serving.running(disk) as server, calling(server.address) as calls:
        job_id = calls.sent(data, wire.Settings(container="mkv"))
        ballast = disk / "ballast"
        for job in calls.watch(job_id):
            if job.progress.frames > 100:
                break
        _fill(ballast)
        wait_for(lambda: any("no room" in line for line in server.said), 60)
        job = calls.get(job_id)
        assert job.state in (QUEUED, wire.JOB_STATE_RUNNING), job.failure.text
        with refused() as why:
            other = calls.create()
            calls.upload(other.id, bytes(1 << 20))
        assert (why[0].code, why[0].reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_FULL")
        assert why[0].retry_s
        ballast.unlink()
        assert calls.ended(job_id).state == DONE
        assert calls.fetched(job_id) == coloured_here(long, "mkv")


@pytest.mark.slow
def test_a_server_that_starts_on_a_full_disk_lets_jobs_be_deleted(long: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "12m"):
        with serving.running(disk) as server, calling(server.address) as calls:
            job_id = calls.sent(long.read_bytes())
            for job in calls.watch(job_id):
                if job.progress.frames:
                    break
            server.kill()
        _fill(disk / "ballast")
        with serving.running(disk) as server, calling(server.address) as calls:
            calls.delete(job_id)
            assert server.left() == []


@pytest.mark.slow
def test_on_a_full_disk_jobs_can_be_deleted(film: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "12m"), serving.running(disk) as server, calling(server.address) as calls:
        job_id = calls.sent(film.read_bytes())
        assert calls.ended(job_id).state == DONE
        _fill(disk / "ballast")
        calls.delete(job_id)
        assert server.left() == []
        assert not calls.jobs().jobs


def _fill(ballast: Path) -> None:
    """Take all that is left of a disk."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--active", "0"], "--active 0 is too small"),
        (["--keep", "soon"], "--keep soon is no length of time"),
        (["--keep", "0s"], "--keep 0 s is out of range"),
        (["--spool-size", "big"], "--spool-size big is no number"),
        (["--drain", "2h"], "--drain 7200 s is out of range"),
        (["--log-format", "xml"], "--log-format takes text or json"),
    ],
)
def test_bad_options_are_refused_in_one_line(arguments: list[str], words: str) -> None:
    done = subprocess.run([serving.KINOCHROME, "serve", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert words in done.stderr
