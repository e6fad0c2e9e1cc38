"""The service as its clients see it: a real process, films over loopback."""

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kinochrome_client import remote
from kinochrome_proto.errors import BadFilm, BadSettings, KinochromeError, ServerUnreachable, UnknownColorizer
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc
from kinochrome_server.pipeline import Settings, colorize
from kinochrome_server.sources import FileSource
from tests import films
from tests.films import Kind
from tests.server import serving
from tests.server.job_calls import calling, refused


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    with serving.running(tmp_path_factory.mktemp("server")) as running:
        yield running


def spool_is_empty(server: serving.Server) -> bool:
    """Whether the server has cleared away; it may take a moment after the call's end."""
    for _ in range(100):
        if not any((server.spool / "jobs").iterdir()):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("faststart", [True, False], ids=["index first", "index last"])
def test_a_server_gives_the_very_bytes_of_a_local_run(
    server: serving.Server, container: str, faststart: bool, tmp_path: Path
) -> None:
    film = films.make(tmp_path, Kind("film.mp4", frames=200, gop=25, audio="aac", faststart=faststart))
    with (tmp_path / "local").open("wb") as sink:
        report = colorize(FileSource(film), sink, Settings(container=container))
    said: list[tuple[int, int]] = []
    with (tmp_path / "remote").open("w+b") as sink:
        frames = remote.colorize(
            server.address,
            film,
            sink,
            wire.Settings(container=container),
            on_progress=lambda done, expected: said.append((done, expected)),
        )
    assert frames == report.frames == 200
    assert (tmp_path / "remote").read_bytes() == (tmp_path / "local").read_bytes()
    assert said and said[-1][1] == 200
    assert spool_is_empty(server)


def test_coloured_bytes_come_while_the_film_is_still_being_sent(server: serving.Server, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=400, gop=25, options={"sc_threshold": "0"}))
    data = film.read_bytes()
    media_came = False

    def requests() -> Iterator[wire.ColorizeRequest]:
        yield wire.ColorizeRequest(settings=wire.Settings(container="mkv"))
        yield wire.ColorizeRequest(film=data[: len(data) * 3 // 4])
        for _ in range(300):
            if media_came:
                break
            time.sleep(0.1)
        assert media_came, "no coloured byte came before the rest of the film was sent"
        yield wire.ColorizeRequest(film=data[len(data) * 3 // 4 :])

    frames = 0
    with grpc.insecure_channel(server.address) as channel:
        for response in wire_grpc.ColorizerServiceStub(channel).Colorize(requests()):
            media_came = media_came or response.HasField("media")
            frames = response.finished.frames
    assert frames == 400


def bad_films(folder: Path) -> dict[str, tuple[bytes, type[KinochromeError], str]]:
    whole = films.make(folder, Kind("film.mp4", frames=20)).read_bytes()
    return {
        "empty": (b"", BadFilm, "is empty"),
        "text": (b"to be or not to be\n" * 100, BadFilm, "is not a film"),
        "index cut off": (whole[: len(whole) // 2], BadFilm, "is cut off: .* its index is lost"),
        "playlist": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", BadFilm, "is not a film"),
        "concat": (b"ffconcat version 1.0\nfile pyproject.toml\n", BadFilm, "is not a film"),
    }


@pytest.mark.parametrize("name", ["empty", "text", "index cut off", "playlist", "concat"])
def test_a_bad_film_is_refused_with_its_reason(server: serving.Server, name: str, tmp_path: Path) -> None:
    data, error, words = bad_films(tmp_path)[name]
    (tmp_path / "bad.mp4").write_bytes(data)
    with (tmp_path / "out").open("w+b") as sink, pytest.raises(error, match=words):
        remote.colorize(server.address, tmp_path / "bad.mp4", sink, wire.Settings())
    assert spool_is_empty(server)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (wire.Settings(look=wire.Look(saturation=9)), BadSettings),
        (wire.Settings(crf=99), BadSettings),
        (wire.Settings(strict=True, lenient=True), BadSettings),
        (wire.Settings(colorizer="nope"), UnknownColorizer),
        (wire.Settings(colorizer="/etc/passwd"), UnknownColorizer),
        (wire.Settings(codec="nope"), BadSettings),
        (wire.Settings(container="nope"), BadSettings),
    ],
)
def test_bad_settings_are_refused_with_their_reason(
    server: serving.Server, settings: wire.Settings, error: type[KinochromeError], tmp_path: Path
) -> None:
    film = films.make(tmp_path, Kind("film.mp4", frames=3))
    with (tmp_path / "out").open("w+b") as sink, pytest.raises(error):
        remote.colorize(server.address, film, sink, settings)


def test_a_call_without_settings_is_refused(server: serving.Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call = wire_grpc.ColorizerServiceStub(channel).Colorize(iter([wire.ColorizeRequest(film=b"bytes")]))
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    failure: Any = caught.value
    assert failure.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "must be its settings" in failure.details()


def test_a_client_that_leaves_leaves_nothing_behind(server: serving.Server, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=600, gop=25, size=(320, 240)))
    with grpc.insecure_channel(server.address) as channel:
        requests = [
            wire.ColorizeRequest(settings=wire.Settings(container="mkv")),
            wire.ColorizeRequest(film=film.read_bytes()),
        ]
        call = wire_grpc.ColorizerServiceStub(channel).Colorize(iter(requests))
        next(iter(call))
        assert any((server.spool / "jobs").iterdir())
        call.cancel()
    assert spool_is_empty(server)
    with (tmp_path / "out").open("w+b") as sink:  # and the server serves on
        assert remote.colorize(server.address, film, sink, wire.Settings()) == 600


def test_a_silent_client_is_told_to_try_again(tmp_path: Path) -> None:
    over = threading.Event()

    def requests(*first: wire.ColorizeRequest) -> Iterator[wire.ColorizeRequest]:
        yield from first
        over.wait(30)

    with serving.running(tmp_path, "--upload-idle", "1s") as server, grpc.insecure_channel(server.address) as channel:
        stub = wire_grpc.ColorizerServiceStub(channel)
        for first in ([], [wire.ColorizeRequest(settings=wire.Settings()), wire.ColorizeRequest(film=b"to be")]):
            with refused() as why:
                list(stub.Colorize(requests(*first)))
            assert (why[0].code, why[0].reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_UNREACHABLE")
            assert why[0].retry_s and "send it again" in why[0].text
        over.set()
        assert spool_is_empty(server)


def test_a_call_that_waits_is_told_how_many_are_before_it(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=20)).read_bytes()
    slow = films.make(tmp_path, Kind("slow.mkv", frames=800, gop=25)).read_bytes()

    def call(channel: grpc.Channel) -> Any:
        requests = [wire.ColorizeRequest(settings=wire.Settings()), wire.ColorizeRequest(film=film)]
        return wire_grpc.ColorizerServiceStub(channel).Colorize(iter(requests))

    with (
        serving.running(tmp_path, "--active", "1") as server,
        grpc.insecure_channel(server.address) as channel,
        calling(server.address) as calls,
    ):
        first = calls.sent(slow, wire.Settings(codec="av1", preset="1"))
        for job in calls.watch(first):
            if job.state == wire.JOB_STATE_RUNNING:
                break
        next_one = call(channel)
        assert next(iter(next_one)) == wire.ColorizeResponse(progress=wire.Progress())
        last = call(channel)
        assert next(iter(last)).progress == wire.Progress(ahead=1)
        calls.delete(first)
        told = [response.progress.ahead for response in last if response.HasField("progress")]
        assert told[-1] == 0
        assert list(next_one)[-1].finished.frames == 20


def test_a_slow_client_is_waited_for(server: serving.Server, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=120, size=(320, 240)))
    with grpc.insecure_channel(server.address) as channel:
        requests = [
            wire.ColorizeRequest(settings=wire.Settings(codec="ffv1", container="mkv")),
            wire.ColorizeRequest(film=film.read_bytes()),
        ]
        finished = None
        for index, response in enumerate(wire_grpc.ColorizerServiceStub(channel).Colorize(iter(requests))):
            if index < 10:
                time.sleep(0.2)
            finished = response
    assert finished is not None and finished.finished.frames == 120


def test_info_and_health(server: serving.Server) -> None:
    info = remote.server_info(server.address)
    assert info.engine == "cpu"
    assert "default" in [colorizer.name for colorizer in info.colorizers]
    assert "ffv1" in info.codecs and "mkv" in info.containers
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "kinochrome.v1.ColorizerService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_nobody_there_is_said_plainly(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4", frames=3))
    with (
        (tmp_path / "out").open("w+b") as sink,
        pytest.raises(ServerUnreachable, match=r"no server answers at 127\.0\.0\.1:9"),
    ):
        remote.colorize("127.0.0.1:9", film, sink, wire.Settings())


def test_a_server_asked_to_stop_ends_well_and_clears_away(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=900, gop=25, size=(640, 480)))
    with serving.running(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        requests = [
            wire.ColorizeRequest(settings=wire.Settings(container="mkv")),
            wire.ColorizeRequest(film=film.read_bytes()),
        ]
        call = wire_grpc.ColorizerServiceStub(channel).Colorize(iter(requests))
        next(iter(call))
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        with pytest.raises(grpc.RpcError):
            list(call)
        assert server.process.wait(20) == 0
        assert time.monotonic() - started < 15
        assert not any((server.spool / "jobs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen", "0.0.0.0:0"], "is not a loopback address"),
        (["--listen", "127.0.0.1:99999"], "takes HOST:PORT with a port of 0 to 65535"),
        (["--listen", "127.0.0.1"], "takes HOST:PORT"),
        (["--listen", "127.0.0.1:0", "--spool", "/dev/null/x"], "cannot be a folder for films"),
    ],
)
def test_a_server_that_cannot_be_is_refused_in_one_line(arguments: list[str], words: str) -> None:
    done = subprocess.run([serving.KINOCHROME, "serve", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert words in done.stderr and done.stderr.count("\n") == 1
