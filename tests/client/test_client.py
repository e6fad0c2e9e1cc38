"""The client of a server as a library: what breaks is carried on, what is wrong is said, nothing is left behind."""

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kinochrome_client import AsyncClient, Client, Coloured, Progress, Settings, State, faults, known_jobs, unfinished
from kinochrome_client.access import Access
from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from tests.client.fake_server import FakeJob, FakeServer, coloured
from tests.client.test_resume import small_disk
from tests.proxy import Proxy, lengths

SIZE = 300_000  # bytes of a film here


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def proxy(server: FakeServer) -> Iterator[Proxy]:
    with Proxy(server.address, seed=3) as proxy:
        yield proxy


@pytest.fixture
def film(tmp_path: Path) -> Path:
    film = tmp_path / "film.mkv"
    film.write_bytes(random.Random(1).randbytes(SIZE))
    return film


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.mkv"


def is_right(out: Path, film: Path, server: FakeServer) -> bool:
    """The very film, nothing beside it, nothing on the server."""
    beside = sorted(entry.name for entry in out.parent.iterdir())
    return out.read_bytes() == coloured(film.read_bytes()) and beside == ["film.mkv", "out.mkv"] and not server.jobs


class Stopped(Exception):
    """What a test ends a call with in the middle."""


def interrupted(server: FakeServer, film: Path, out: Path, *, sent: bool = False) -> str:
    """A run that ends in its middle: while it sends or, if `sent`, while it waits. Returns the job's id."""

    def stop(progress: Progress) -> None:
        if not sent or progress.job.state == State.RUNNING:
            raise Stopped

    server.done = False
    with pytest.raises(Stopped), Client(server.address) as client:
        client.colorize(film, out, on_progress=stop)
    server.done = True
    return next(reversed(server.jobs))


# A film there and back


def test_a_film_goes_there_and_back_and_nothing_stays(server: FakeServer, film: Path, out: Path) -> None:
    said: list[str] = []
    seen: list[Progress] = []
    with Client(server.address) as client:
        done = client.colorize(film, out, on_progress=seen.append, on_warning=said.append)
    assert isinstance(done, Coloured) and done.frames == SIZE // 1000 and done.size == out.stat().st_size
    assert is_right(out, film, server)
    assert said == ["something to know"]
    assert seen[-1].uploaded == seen[-1].film_size == SIZE and seen[-1].job.state == State.DONE
    assert known_jobs.find(done.job_id) is None


def test_several_films_at_once_and_asyncio(server: FakeServer, tmp_path: Path) -> None:
    films = [tmp_path / f"{number}.mkv" for number in range(4)]
    for number, film in enumerate(films):
        film.write_bytes(random.Random(number).randbytes(SIZE // (number + 1)))

    async def colour() -> None:
        async with AsyncClient(server.address) as client:
            await asyncio.gather(*(client.colorize(film, film.with_suffix(".mp4")) for film in films))
            assert await client.jobs() == []

    asyncio.run(colour())
    assert all(film.with_suffix(".mp4").read_bytes() == coloured(film.read_bytes()) for film in films)


def test_callbacks_come_in_the_thread_that_called(server: FakeServer, film: Path, out: Path) -> None:
    threads: set[int] = set()
    with Client(server.address) as client:
        client.colorize(film, out, on_progress=lambda progress: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


# Broken lines


@pytest.mark.parametrize(
    "seed", [1, 2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_a_line_that_is_cut_at_any_byte_costs_only_time(
    seed: int, server: FakeServer, proxy: Proxy, film: Path, out: Path
) -> None:
    proxy.cut_after(lengths(seed, 1500, 150_000))
    with Client(proxy.address) as client:
        client.colorize(film, out)
    assert proxy.cuts >= 3
    assert is_right(out, film, server)


def test_a_line_too_short_for_a_piece_lets_smaller_ones_through(
    server: FakeServer, proxy: Proxy, film: Path, out: Path
) -> None:
    film.write_bytes(film.read_bytes()[:60_000])
    proxy.cut_after(iter(lambda: 20_000, None))
    with Client(proxy.address) as client:
        client.colorize(film, out)
    assert proxy.cuts >= 5
    assert is_right(out, film, server)


def test_a_line_that_stalls_goes_on(server: FakeServer, proxy: Proxy, film: Path, out: Path) -> None:
    stalls = 0

    def stall(progress: Progress) -> None:
        nonlocal stalls
        if progress.uploaded and not stalls:
            stalls += 1
            proxy.stall()
            threading.Timer(1.0, proxy.flow).start()

    proxy.slow(300_000)
    with Client(proxy.address) as client:
        client.colorize(film, out, on_progress=stall)
    assert stalls == 1
    assert is_right(out, film, server)


@pytest.mark.slow
def test_a_line_that_is_dead_without_a_word_is_given_up_for_another(
    server: FakeServer, proxy: Proxy, film: Path, out: Path
) -> None:
    frozen = 0

    def freeze(progress: Progress) -> None:
        nonlocal frozen
        if progress.uploaded and not frozen:
            frozen = proxy.freeze()

    proxy.slow(300_000)
    with Client(proxy.address) as client:
        client.colorize(film, out, on_progress=freeze)
    assert frozen == 1 and proxy.connections == 2
    assert is_right(out, film, server)


def test_a_server_that_comes_back_finds_its_clients_patient(server: FakeServer, film: Path, out: Path) -> None:
    troubles: list[str] = []
    restarted = False

    def restart(progress: Progress) -> None:
        nonlocal restarted
        if progress.trouble:
            troubles.append(progress.trouble)
        if not restarted and progress.job.state == State.RUNNING:
            restarted = True
            server.stop()
            server.start()
            server.change(next(iter(server.jobs.values())), state=wire.JOB_STATE_DONE)

    server.done = False
    with Client(server.address) as client:
        client.colorize(film, out, on_progress=restart)
    assert restarted and troubles[0] == f"no answer from {server.address}"
    assert is_right(out, film, server)


@pytest.mark.parametrize("method", ["UploadFilm", "DownloadFilm"])
@pytest.mark.parametrize("after", [1, 100_000, SIZE])
def test_streams_are_carried_on_where_they_broke_off(
    method: str, after: int, server: FakeServer, film: Path, out: Path
) -> None:
    server.after[method] = after
    with Client(server.address) as client:
        client.colorize(film, out)
    assert not server.after
    assert is_right(out, film, server)


@pytest.mark.parametrize("method", ["CreateJob", "CommitFilm"])
def test_an_answer_that_is_lost_is_asked_for_again(method: str, server: FakeServer, film: Path, out: Path) -> None:
    server.lose.add(method)
    with Client(server.address) as client:
        client.colorize(film, out)
    assert server.calls.count(method) == 2 and len(server.requests) == 1
    assert is_right(out, film, server)


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED])
def test_the_odd_words_of_a_torn_stream_are_no_end(
    code: grpc.StatusCode, server: FakeServer, film: Path, out: Path
) -> None:
    server.refusals = {name: [code] for name in ("UploadFilm", "WatchJob", "DownloadFilm", "GetJob")}
    with Client(server.address) as client:
        client.colorize(film, out)
    assert is_right(out, film, server)


def test_but_a_server_that_only_says_them_is_given_up(
    server: FakeServer, film: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "LONGEST_PAUSE_S", 0.1)
    server.refusals = {"WatchJob": [grpc.StatusCode.INTERNAL] * 50}
    with Client(server.address) as client, pytest.raises(errors.ServerFailed, match="broke off: internal"):
        client.colorize(film, out)
    assert server.calls.count("WatchJob") < 20


# Damage


@pytest.mark.parametrize("what", ["piece", "film"])
def test_what_arrives_damaged_is_fetched_again(what: str, server: FakeServer, film: Path, out: Path) -> None:
    server.spoil = [what]
    with Client(server.address) as client:
        client.colorize(film, out)
    assert is_right(out, film, server)


def test_a_film_that_arrives_damaged_each_time_never_gets_its_name(server: FakeServer, film: Path, out: Path) -> None:
    server.spoil = ["film"] * 5
    with Client(server.address) as client, pytest.raises(errors.ServerFailed, match="otherwise than server"):
        client.colorize(film, out)
    assert not out.exists()


def test_a_film_that_was_damaged_on_the_server_is_sent_anew(server: FakeServer, film: Path, out: Path) -> None:
    job = server.jobs[interrupted(server, film, out)]
    job.film = bytearray(len(job.film) or 1000)
    with Client(server.address) as client:
        client.colorize(film, out)
    assert server.calls.count("CommitFilm") == 2
    assert is_right(out, film, server)


def test_a_fetched_part_that_a_power_cut_spoilt_is_fetched_again(server: FakeServer, film: Path, out: Path) -> None:
    interrupted(server, film, out, sent=True)
    part = unfinished.folder_of(out) / "coloured"
    part.write_bytes(bytes(2 * SIZE))
    server.change(next(iter(server.jobs.values())), state=wire.JOB_STATE_DONE)
    with Client(server.address) as client:
        client.colorize(film, out)
    assert is_right(out, film, server)


def test_a_film_that_changes_while_it_is_sent_is_told_of(server: FakeServer, film: Path, out: Path) -> None:
    def change(progress: Progress) -> None:
        film.write_bytes(bytes(SIZE))

    with Client(server.address) as client, pytest.raises(errors.BadFilm, match="changed while it was being sent"):
        client.colorize(film, out, on_progress=change)
    assert not out.exists()


# Carried on by another process


@pytest.mark.parametrize("sent", [False, True], ids=["while sending", "while waiting"])
def test_the_same_call_carries_on(sent: bool, server: FakeServer, film: Path, out: Path) -> None:
    job_id = interrupted(server, film, out, sent=sent)
    server.change(server.jobs[job_id], **({"state": wire.JOB_STATE_DONE} if sent else {}))
    with Client(server.address) as client:
        assert client.colorize(film, out).job_id == job_id
    assert is_right(out, film, server)


@pytest.mark.parametrize("sent", [False, True], ids=["while sending", "while waiting"])
def test_resume_needs_the_id_alone(sent: bool, server: FakeServer, film: Path, out: Path) -> None:
    job_id = interrupted(server, film, out, sent=sent)
    server.change(server.jobs[job_id], **({"state": wire.JOB_STATE_DONE} if sent else {}))
    with Client(server.address) as client:
        assert client.resume(job_id).out == out
        with pytest.raises(errors.NoSuchJob, match="lies on this machine"):
            client.resume(job_id)
    assert is_right(out, film, server)


def test_the_film_may_be_gone_once_it_is_sent(server: FakeServer, film: Path, out: Path) -> None:
    job_id = interrupted(server, film, out, sent=True)
    server.change(server.jobs[job_id], state=wire.JOB_STATE_DONE)
    data = film.read_bytes()
    film.unlink()
    with Client(server.address) as client:
        client.resume(job_id)
    assert out.read_bytes() == coloured(data)


def test_the_film_may_be_gone_though_nobody_heard_that_it_was_sent(server: FakeServer, film: Path, out: Path) -> None:
    job_id = interrupted(server, film, out, sent=True)
    with unfinished.Unfinished(out) as folder:
        folder.note(sent=False)  # killed before the answer to `CommitFilm` came
    server.change(server.jobs[job_id], state=wire.JOB_STATE_DONE)
    data = film.read_bytes()
    film.unlink()
    with Client(server.address) as client:
        client.resume(job_id)
    assert out.read_bytes() == coloured(data)


def test_a_full_disk_here_loses_nothing(server: FakeServer, film: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", SIZE // 2) as disk:
        out = disk / "out.mkv"
        with Client(server.address) as client:
            with pytest.raises(OSError, match="No space left"):
                client.colorize(film, out)
            (job_id,) = server.jobs
            subprocess.run(["mount", "-o", f"remount,size={4 * SIZE}", disk], check=True)
            assert client.colorize(film, out).job_id == job_id
        assert out.read_bytes() == coloured(film.read_bytes())
        assert [entry.name for entry in disk.iterdir()] == ["out.mkv"] and not server.jobs


def test_other_settings_or_another_film_are_refused_not_mixed_in(server: FakeServer, film: Path, out: Path) -> None:
    job_id = interrupted(server, film, out)
    with Client(server.address) as client:
        with pytest.raises(errors.OutputInTheWay, match=r"crf was not given, is 20\): .* or --restart to begin anew"):
            client.colorize(film, out, settings=Settings(crf=20))
        data = film.read_bytes()
        film.write_bytes(data + b"more")
        with pytest.raises(errors.OutputInTheWay, match="size was 300000, is 300004"):
            client.colorize(film, out)
        with pytest.raises(errors.OutputInTheWay, match="another film"):
            client.resume(job_id)
        assert list(server.jobs) == [job_id]
        client.colorize(film, out, settings=Settings(crf=20), restart=True)
    assert is_right(out, film, server)


def test_a_job_that_is_gone_is_begun_anew(server: FakeServer, film: Path, out: Path) -> None:
    said: list[str] = []
    job_id = interrupted(server, film, out)
    server.jobs.clear()
    with Client(server.address) as client:
        with pytest.raises(errors.NoSuchJob):
            client.resume(job_id)
        client.colorize(film, out, on_warning=said.append)
    assert said[0] == f"server {server.address} has job {job_id} no longer: it is begun anew"
    assert is_right(out, film, server)


def test_a_job_of_another_server_is_not_taken_for_gone(server: FakeServer, film: Path, out: Path) -> None:
    interrupted(server, film, out)
    with FakeServer() as other, Client(other.address) as client:
        with pytest.raises(errors.NoSuchJob, match=f"belongs to a job of server {server.address}"):
            client.colorize(film, out)
        assert not other.jobs


def test_a_server_may_move(server: FakeServer, proxy: Proxy, film: Path, out: Path) -> None:
    job_id = interrupted(server, film, out)
    with Client(proxy.address) as client:
        assert client.colorize(film, out).job_id == job_id
    assert is_right(out, film, server)


def test_an_end_between_the_name_and_the_clearing_away(
    server: FakeServer, film: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, Client(server.address) as client, pytest.raises(Stopped):

        async def stop(*arguments: object, **named: object) -> None:
            raise Stopped

        patch.setattr(AsyncClient, "_cleared", stop)
        client.colorize(film, out)
    assert out.exists() and server.jobs
    with Client(server.address) as client:
        assert client.colorize(film, out).frames == SIZE // 1000
        assert is_right(out, film, server)
        with pytest.raises(errors.OutputInTheWay, match="--overwrite replaces it"):
            client.colorize(film, out)


def test_one_output_is_for_one_run(server: FakeServer, film: Path, out: Path) -> None:
    said: list[str] = []

    def once_more(progress: Progress) -> None:
        if not said:
            with Client(server.address) as second, pytest.raises(errors.OutputInTheWay) as refused:
                second.colorize(film, out)
            said.append(str(refused.value))

    with Client(server.address) as client:
        client.colorize(film, out, on_progress=once_more)
    assert "is in use" in said[0]
    assert is_right(out, film, server)


def test_a_run_on_this_machine_and_one_on_a_server_are_not_mixed(server: FakeServer, film: Path, out: Path) -> None:
    folder = unfinished.folder_of(out)
    folder.mkdir()
    (folder / "journal").write_text("local")
    (folder / "000000.chunk").touch()
    with Client(server.address) as client:
        with pytest.raises(errors.OutputInTheWay, match="an unfinished run on this machine"):
            client.colorize(film, out)
        assert len(list(folder.iterdir())) == 2
        client.colorize(film, out, restart=True)
    assert is_right(out, film, server)


# What is wrong is said


def test_a_server_that_is_not_there_is_told_soon_and_nothing_stays(film: Path, out: Path) -> None:
    with Client("127.0.0.1:9") as client, pytest.raises(errors.ServerUnreachable, match="no server answers at"):
        client.colorize(film, out)
    assert [entry.name for entry in out.parent.iterdir()] == ["film.mkv"]


def test_patience_has_an_end_and_the_job_can_be_carried_on(server: FakeServer, film: Path, out: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.job.state == State.RUNNING and not server.stopping:
            server.stop()

    server.done = False
    with Client(server.address, patience_s=1.0) as client, pytest.raises(errors.ServerUnreachable):
        client.colorize(film, out, on_progress=stop)
    server.start()
    (job,) = server.jobs.values()
    server.change(job, state=wire.JOB_STATE_DONE)
    with Client(server.address) as client:
        client.colorize(film, out)
    assert is_right(out, film, server)


@pytest.mark.parametrize("token", [None, "wrong"])
def test_who_may_not_is_told_at_once_and_nothing_stays(token: str | None, film: Path, out: Path) -> None:
    with FakeServer(token="right") as server:
        with Client(server.address, token=token) as client, pytest.raises(errors.NotAllowed, match="token"):
            client.colorize(film, out)
        assert [entry.name for entry in out.parent.iterdir()] == ["film.mkv"]
        assert server.calls == ["CreateJob"]
        with Client(server.address, token="right") as client:
            client.colorize(film, out)
        assert is_right(out, film, server)


@pytest.mark.parametrize("error", [errors.QuotaReached("enough"), errors.ServerFull("full")])
def test_a_full_server_is_waited_for_when_it_says_how_long(
    error: errors.KinochromeError, server: FakeServer, film: Path, out: Path
) -> None:
    server.refusals = {"CreateJob": [error, error]}
    with Client(server.address) as client:
        with pytest.raises(type(error)):
            client.colorize(film, out)
        assert [entry.name for entry in out.parent.iterdir()] == ["film.mkv"]
        server.retry_s = 0.1
        client.colorize(film, out)
    assert server.calls.count("CreateJob") == 3
    assert is_right(out, film, server)


def test_a_job_that_fails_says_why_and_leaves_nothing(server: FakeServer, film: Path, out: Path) -> None:
    interrupted(server, film, out)
    (job,) = server.jobs.values()
    job.failure = wire.Failure(reason="BAD_FILM", text="film is cut off")
    server.change(job, state=wire.JOB_STATE_FAILED)
    with Client(server.address) as client, pytest.raises(errors.BadFilm, match="film is cut off"):
        client.colorize(film, out)
    assert [entry.name for entry in out.parent.iterdir()] == ["film.mkv"] and not server.jobs


def test_a_job_that_is_cancelled_from_elsewhere_ends_the_call(server: FakeServer, film: Path, out: Path) -> None:
    def cancel(progress: Progress) -> None:
        if progress.job.state == State.RUNNING and "CancelJob" not in server.calls:
            with Client(server.address) as other:
                other.cancel(progress.job.id)

    server.done = False
    with Client(server.address) as client, pytest.raises(errors.Cancelled, match="was cancelled on the server"):
        client.colorize(film, out, on_progress=cancel)
    assert [entry.name for entry in out.parent.iterdir()] == ["film.mkv"] and not server.jobs


def test_an_output_in_the_way_stays(server: FakeServer, film: Path, out: Path) -> None:
    out.write_bytes(b"precious")
    with Client(server.address) as client:
        with pytest.raises(errors.OutputInTheWay, match="--overwrite"):
            client.colorize(film, out)
        assert out.read_bytes() == b"precious" and not server.calls
        client.colorize(film, out, overwrite=True)
    assert is_right(out, film, server)


def test_a_film_that_is_none_is_not_sent(server: FakeServer, tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty.mkv").touch()
    with Client(server.address) as client:
        for name, words in (("none.mkv", "does not exist"), ("empty.mkv", "is empty"), (".", "is not a file")):
            with pytest.raises(errors.BadFilm, match=words):
                client.colorize(tmp_path / name, out)
        with pytest.raises(errors.BadSettings, match="ending chooses"):
            client.colorize(tmp_path / "none.mkv", tmp_path / "out.xyz")
    assert not server.calls


@pytest.mark.parametrize(
    ("access", "words"),
    [
        ({"server": "films"}, "HOST:PORT"),
        ({"server": "films:70000"}, "HOST:PORT"),
        ({"server": "http://films:80"}, "HOST:PORT"),
        ({"server": "films:1", "token": "a\nb"}, "one line"),
        ({"server": "films:1", "token": ""}, "one line"),
        ({"server": "films:1", "cert": "x"}, "go together"),
    ],
)
def test_a_server_that_cannot_be_is_refused(access: dict[str, str], words: str) -> None:
    with pytest.raises(errors.BadSettings, match=words):
        Client(**access)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("server", "secure"),
    [("127.0.0.1:1", False), ("localhost:1", False), ("[::1]:1", False), ("films:1", True), ("10.0.0.1:1", True)],
)
def test_a_token_goes_to_other_machines_by_tls_alone(server: str, secure: bool) -> None:
    access = Access(server, token="secret")
    assert access.secure == secure
    assert "secret" not in repr(access)
    assert Access(server, tls_ca=Path("ca.pem")).secure


# Jobs


def test_jobs_are_listed_page_by_page_and_watched_across_restarts(server: FakeServer) -> None:
    for number in range(5):
        server.jobs[str(number)] = FakeJob(str(number), priority=number)
    with Client(server.address) as client:
        assert [job.id for job in client.jobs()] == ["4", "3", "2", "1", "0"]
        assert client.job("3").priority == 3
        seen = []
        for job in client.watch("2"):
            seen.append(job.state)
            if len(seen) == 1:
                server.stop()
                server.start()
                server.change(server.jobs["2"], state=wire.JOB_STATE_RUNNING)
            elif job.state == State.RUNNING:
                server.change(server.jobs["2"], state=wire.JOB_STATE_DONE)
        assert seen[0] == State.UPLOADING and seen[-1] == State.DONE
        assert client.cancel("1").state == State.CANCELLED
        assert client.job("1").error() is not None
        client.delete("1")
        client.delete("1")
        with pytest.raises(errors.NoSuchJob, match="there is no job 1"):
            client.job("1")


def test_a_job_of_another_machine_is_fetched_and_stays(server: FakeServer, film: Path, out: Path) -> None:
    data = film.read_bytes()
    server.jobs["job"] = FakeJob("job", film=bytearray(data), state=wire.JOB_STATE_DONE)
    server.after["DownloadFilm"] = 100_000
    with Client(server.address) as client:
        done = client.fetch("job", out)
        assert (done.frames, done.job_id) == (SIZE // 1000, "job")
        assert out.read_bytes() == coloured(data) and list(server.jobs) == ["job"]
        client.fetch("job", out, overwrite=True, delete=True)
        assert is_right(out, film, server)
        with pytest.raises(errors.NoSuchJob):
            client.fetch("job", out, overwrite=True)
    assert not unfinished.folder_of(out).exists()


# The package


def test_the_public_names_are_there_and_load_nothing_before_they_are_asked_for() -> None:
    code = (
        "import sys, kinochrome_client as k; assert 'grpc' not in sys.modules; "
        "[getattr(k, name) for name in k.__all__]; "
        "heavy = {'av', 'numpy', 'cv2', 'onnxruntime', 'kinochrome_server'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
