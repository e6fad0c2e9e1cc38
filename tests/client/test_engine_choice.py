"""--engine, as people meet it."""

from pathlib import Path

import pytest

from kinochrome_client import remote
from kinochrome_server.engines import choice
from tests import films
from tests.client import command
from tests.films import Kind
from tests.server import serving


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return films.make(tmp_path, Kind("film.mkv", frames=5))


@pytest.mark.parametrize("word", ["auto", "cpu"])
def test_the_engine_is_told_in_one_line(film: Path, word: str) -> None:
    done = command.run("colorize", film, "--engine", word)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("engine ")]
    if word == "cpu" or not any(choice.should_work(other) for other in choice.ENGINES if other != "cpu"):
        assert told == [f"engine {choice.described('cpu')}"]
    else:
        assert len(told) == 1


@pytest.mark.parametrize("verb", ["colorize", "serve"])
@pytest.mark.parametrize(
    ("word", "words"),
    [("gpu", "no engine 'gpu': choose from auto, "), ("cuda", "pip install 'kinochrome[gpu]'")],
)
def test_one_that_is_not_there_is_refused_in_one_line(film: Path, verb: str, word: str, words: str) -> None:
    if choice.should_work("cuda"):
        pytest.skip("cuda can run here")
    given = [film] if verb == "colorize" else ["--listen", "127.0.0.1:0"]
    before = sorted(film.parent.iterdir())
    done = command.run(verb, *given, "--engine", word)
    assert done.returncode == 1
    assert done.stderr.startswith("kinochrome: ") and done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr
    assert sorted(film.parent.iterdir()) == before


def test_a_servers_engine_is_not_its_callers_choice(film: Path) -> None:
    done = command.run("colorize", film, "--server", "127.0.0.1:1", "--engine", "cpu")
    assert done.returncode == 1
    assert done.stderr.startswith("kinochrome: --engine: the server chooses its own") and done.stderr.count("\n") == 1


def test_a_server_says_which_it_chose(tmp_path: Path) -> None:
    with serving.running(tmp_path, "--engine", "cpu") as server:
        assert remote.server_info(server.address).engine == "cpu"
