"""A client in another language, made of the .proto alone, colours films on a real server."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kinochrome_server.pipeline import Settings, colorize
from kinochrome_server.sources import FileSource
from tests import films
from tests.films import Kind
from tests.server import serving
from tests.server.certificates import Authority

EXAMPLE = Path(__file__).parents[1] / "examples" / "node"
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (EXAMPLE / "node_modules" / "@grpc" / "grpc-js").exists(),
        reason="Node's gRPC is not installed: npm install --prefix examples/node",
    ),
]


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [str(NODE), str(EXAMPLE / "colorize.mjs"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    with serving.running(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.mark.parametrize("how", [[], ["--jobs"]], ids=["one call", "job"])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_film_comes_back_with_the_very_bytes_of_a_local_run(
    server: serving.Server, how: list[str], ending: str, tmp_path: Path
) -> None:
    film = films.make(tmp_path, Kind("film.mp4", frames=80, audio="aac", size=(320, 240)))
    with (tmp_path / "local").open("w+b") as sink:
        colorize(FileSource(film), sink, Settings(container=ending))
    done = run(film, tmp_path / f"out.{ending}", "--server", server.address, *how)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"out.{ending}").read_bytes() == (tmp_path / "local").read_bytes()
    assert "80 frames" in done.stderr
    assert not any((server.spool / "jobs").iterdir())  # the job was deleted, or went with the call


@pytest.mark.parametrize("how", [[], ["--jobs"]], ids=["one call", "job"])
def test_what_the_server_says_of_a_bad_film_is_told(server: serving.Server, how: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.mkv").write_bytes(b"to be or not to be\n" * 1000)
    done = run(tmp_path / "bad.mkv", tmp_path / "out.mkv", "--server", server.address, *how)
    assert done.returncode == 1 and "is not a film" in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_with_tls_and_a_token(tmp_path: Path) -> None:
    from kinochrome_server import tokens

    authority = Authority(tmp_path / "pki")
    pair = authority.pair("server")
    (tmp_path / "token").write_text(tokens.add(tmp_path / "tokens", "node"))
    film = films.make(tmp_path, Kind("film.mkv", frames=8))
    options = ["--tls-cert", pair.cert, "--tls-key", pair.key, "--tokens", tmp_path / "tokens"]
    with serving.running(tmp_path, *map(str, options)) as server:
        reach = ["--server", server.address, "--ca", authority.cert]
        refused = run(film, tmp_path / "out.mkv", *reach)
        assert refused.returncode == 1 and "wants a token" in refused.stderr
        done = run(film, tmp_path / "out.mkv", *reach, "--token-file", tmp_path / "token")
        assert done.returncode == 0, done.stderr
