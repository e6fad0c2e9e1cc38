"""Films on a real server: whatever is killed or cut on the way, the film is that of an undisturbed run here."""

import asyncio
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kinochrome_client import AsyncClient, Client, Progress, Settings, State, unfinished
from kinochrome_proto.errors import BadFilm, Cancelled, NoSuchJob, NotAllowed, ServerUnreachable
from tests import films
from tests.client import command
from tests.films import Kind
from tests.proxy import Proxy, lengths
from tests.server import serving
from tests.server.certificates import Authority
from tests.server.serving import KINOCHROME

FILM = Kind("film.mp4", size=(320, 240), frames=480, gop=24, audio="aac", options={"sc_threshold": "0"})


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films.make(tmp_path_factory.mktemp("film"), FILM)


@pytest.fixture(scope="module")
def undisturbed(film: Path) -> bytes:
    out = film.with_name("undisturbed.mp4")
    subprocess.run([KINOCHROME, "colorize", film, "-o", out], check=True, capture_output=True)
    return out.read_bytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    with serving.running(tmp_path_factory.mktemp("server")) as running:
        yield running


def nothing_is_left(server: serving.Server, out: Path) -> bool:
    return not server.left() and not unfinished.folder_of(out).exists()


def test_a_film_comes_back_as_it_would_be_made_here(
    server: serving.Server, film: Path, undisturbed: bytes, tmp_path: Path
) -> None:
    out, seen = tmp_path / "out.mp4", list[Progress]()
    with Client(server.address) as client:
        assert client.server_info().engine == "cpu"
        done = client.colorize(film, out, on_progress=seen.append)
    assert done.frames == 480 and out.read_bytes() == undisturbed
    assert seen[-1].job.state == State.DONE and seen[-1].job.frames_expected == 480
    assert {progress.job.engine.split()[0] for progress in seen if progress.job.engine} == {"cpu"}
    assert nothing_is_left(server, out)


def test_a_bad_film_is_refused_with_its_reason_and_leaves_nothing(server: serving.Server, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("to be or not to be\n" * 100)
    with Client(server.address) as client, pytest.raises(BadFilm, match="is not a film"):
        client.colorize(tmp_path / "text.mp4", tmp_path / "out.mp4")
    assert nothing_is_left(server, tmp_path / "out.mp4")
    assert [entry.name for entry in tmp_path.iterdir()] == ["text.mp4"]


def test_a_cut_line_and_a_killed_client(server: serving.Server, film: Path, undisturbed: bytes, tmp_path: Path) -> None:
    out, chance = tmp_path / "out.mp4", random.Random(2)
    with Proxy(server.address, seed=2) as proxy:
        proxy.cut_after(lengths(2, 3000, 2 * film.stat().st_size))
        proxy.slow(400_000)
        for _ in range(3):
            with subprocess.Popen(
                [KINOCHROME, "colorize", film, "-o", out, "--server", proxy.address], stderr=subprocess.PIPE
            ) as run:
                try:
                    run.communicate(timeout=chance.uniform(1, 3))
                except subprocess.TimeoutExpired:
                    run.kill()
        if not out.exists():
            done = command.run("colorize", film, "-o", out, "--server", proxy.address)
            assert done.returncode == 0, done.stderr
    assert proxy.cuts >= 2
    assert out.read_bytes() == undisturbed
    assert nothing_is_left(server, out)


@pytest.mark.slow
def test_servers_come_and_go_and_lines_are_cut(film: Path, undisturbed: bytes, tmp_path: Path) -> None:
    """The server is killed every few seconds, and starts again elsewhere on its spool; the line is cut all the time."""
    out, chance, ended = tmp_path / "out.mp4", random.Random(7), threading.Event()
    said: list[str] = []
    with Proxy("127.0.0.1:9", seed=7) as proxy, Client(proxy.address) as client:
        proxy.cut_after(lengths(7, 5000, 4 * film.stat().st_size))

        def colour() -> None:
            try:
                said.append(f"{client.colorize(film, out).frames} frames")
            except BaseException as error:
                said.append(repr(error))
            finally:
                ended.set()

        thread = threading.Thread(target=colour)
        kills = 0
        while not ended.is_set():
            with serving.running(tmp_path) as server:
                proxy.target = server.address
                if not thread.ident:
                    thread.start()
                if not ended.wait(chance.uniform(1.0, 4.0) if kills < 4 else 120):
                    assert kills < 4, "it does not come to an end"
                    server.kill()
                    kills += 1
        thread.join()
        assert said == ["480 frames"]
        assert kills >= 1 and proxy.cuts >= 1
    assert out.read_bytes() == undisturbed
    with serving.running(tmp_path) as server:
        assert nothing_is_left(server, out)


def test_a_job_goes_on_without_its_client(
    server: serving.Server, film: Path, undisturbed: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"

    class Stopped(Exception):
        pass

    def stop_when_sent(progress: Progress) -> None:
        record = unfinished.recorded(out)
        if record is not None and record.sent:
            raise Stopped

    with Client(server.address) as client:
        with pytest.raises(Stopped):
            client.colorize(film, out, on_progress=stop_when_sent)
        record = unfinished.recorded(out)
        assert record is not None
        for job in client.watch(record.job_id):
            last = job
        assert last.state == State.DONE and last.frames == 480
    done = command.run("jobs", "resume", record.job_id)
    assert done.returncode == 0 and done.stdout == f"{out}: 480 frames\n", done.stderr
    assert out.read_bytes() == undisturbed
    assert nothing_is_left(server, out)


def test_a_job_is_cancelled_from_elsewhere(server: serving.Server, film: Path, tmp_path: Path) -> None:
    cancelled: set[str] = set()

    def cancel(progress: Progress) -> None:
        if not cancelled:
            cancelled.add(progress.job.id)
            assert command.run("jobs", "cancel", progress.job.id).stdout == f"{progress.job.id}: cancelled\n"

    with Client(server.address) as client, pytest.raises(Cancelled):
        client.colorize(film, tmp_path / "out.mp4", on_progress=cancel)
    assert nothing_is_left(server, tmp_path / "out.mp4")


def test_tls_tokens_and_owners(film: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    pair = authority.pair("server")
    tokens = tmp_path / "tokens"
    one, other = (
        subprocess.run(
            [KINOCHROME, "token", name, "--tokens", tokens], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("one", "other")
    )
    options = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--tokens", str(tokens))
    out = tmp_path / "out.mp4"
    with serving.running(tmp_path, *options) as server:
        with pytest.raises(NotAllowed), Client(server.address, tls_ca=authority.cert) as client:
            client.jobs()
        with pytest.raises(NotAllowed), Client(server.address, tls_ca=authority.cert, token="x" * 40) as client:
            client.colorize(film, out)
        strange = Authority(tmp_path / "other", "strange")
        with (
            pytest.raises(ServerUnreachable, match="not trusted"),
            Client(server.address, tls_ca=strange.cert) as client,
        ):
            client.jobs()
        with pytest.raises(ServerUnreachable), Client(server.address, token=one, patience_s=0.5) as client:
            client.jobs()  # without TLS
        assert not out.exists() and not unfinished.folder_of(out).exists()
        (tmp_path / "token").write_text(one + "\n")
        done = command.run(
            *("colorize", film, "-o", out, "--server", server.address, "--to", "2"),
            *("--tls-ca", authority.cert, "--token-file", tmp_path / "token"),
        )
        assert done.returncode == 0, done.stderr
        with (
            Client(server.address, tls_ca=authority.cert, token=one) as mine,
            Client(server.address, tls_ca=authority.cert, token=other) as others,
        ):
            looked = False

            def look(progress: Progress) -> None:
                nonlocal looked
                if looked:
                    return
                looked = True
                assert [job.id for job in mine.jobs()] == [progress.job.id] and others.jobs() == []
                with pytest.raises(NoSuchJob):
                    others.cancel(progress.job.id)

            mine.colorize(film, out, overwrite=True, settings=Settings(to_us=2_000_000), on_progress=look)


def test_the_examples_of_the_readme_run(server: serving.Server, film: Path, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    examples = [code for code in re.findall(r"```python\n(.*?)```", readme, re.S) if "kinochrome_client" in code]
    assert examples
    for code in examples:
        (tmp_path / "old.mp4").unlink(missing_ok=True)
        (tmp_path / "old.mp4").symlink_to(film)
        code = code.replace("127.0.0.1:50551", server.address)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "new.mp4").stat().st_size > 0
        (tmp_path / "new.mp4").unlink()


def test_asyncio_colours_several_films_at_once(server: serving.Server, tmp_path: Path) -> None:
    sources = [films.make(tmp_path, Kind(f"{number}.mkv", frames=30 + number)) for number in range(4)]

    async def colour() -> list[int]:
        async with AsyncClient(server.address) as client:
            done = await asyncio.gather(
                *(client.colorize(source, source.with_suffix(".mp4"), priority=1) for source in sources)
            )
            assert await client.jobs() == []
            return [coloured.frames for coloured in done]

    started = time.monotonic()
    assert asyncio.run(colour()) == [30, 31, 32, 33]
    assert time.monotonic() - started < 60
