"""The command as people meet it: what it prints, what it returns, what it leaves."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import films, reading
from tests.client import command
from tests.films import Kind
from tests.server import serving
from tests.server.serving import KINOCHROME


def kinochrome(*arguments: str | Path, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([KINOCHROME, *arguments], capture_output=True, text=True, timeout=120, cwd=cwd)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    with serving.running(tmp_path_factory.mktemp("server")) as running:
        yield running


def test_help_of_every_verb_teaches() -> None:
    top = kinochrome("--help")
    assert top.returncode == 0
    for verb in ("colorize", "serve", "train", "evaluate", "export", "models", "doctor"):
        assert verb in top.stdout
        assert kinochrome(verb, "--help").returncode == 0
    assert "kinochrome colorize old.mp4" in kinochrome("colorize", "--help").stdout


def test_help_loads_neither_torch_nor_media_libraries() -> None:
    code = (
        "import sys; from kinochrome_client.cli import app; "
        "heavy = {'torch', 'onnxruntime', 'onnx', 'numpy', 'av', 'cv2', 'grpc'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_film_is_coloured_beside_itself_by_default(tmp_path: Path) -> None:
    films.make(tmp_path, Kind("old.mp4", audio="aac"))
    done = kinochrome("colorize", "old.mp4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "old.color.mp4: 60 frames" in done.stdout
    assert len(reading.pictures(tmp_path / "old.color.mp4")) == 60
    films.make(tmp_path, Kind("old.mkv"))
    assert kinochrome("colorize", "old.mkv", cwd=tmp_path).returncode == 0
    assert (tmp_path / "old.color.mkv").exists()


def bad_inputs(folder: Path) -> dict[str, tuple[list[str | Path], str]]:
    """Arguments of `colorize`, and words that its one line must hold."""
    film = films.make(folder, Kind("film.mp4", frames=30))
    (folder / "text.mp4").write_text("not a film\n" * 50)
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(film.read_bytes()[:2000])
    (folder / "there.mp4").write_bytes(b"precious")
    import av

    with av.open(str(folder / "sound.m4a"), "w", format="mp4") as output:
        stream = output.add_stream("aac", 44_100, layout="mono")
        from av.audio.stream import AudioStream

        assert isinstance(stream, AudioStream)
        films._tone(output, stream, 1.0)
    out = folder / "out.mp4"
    return {
        "missing": ([folder / "none.mp4", "-o", out], "none.mp4 does not exist"),
        "a folder": ([folder, "-o", out], "is not a file"),
        "text": ([folder / "text.mp4", "-o", out], "is not a film"),
        "sound only": ([folder / "sound.m4a", "-o", out], "holds no video stream"),
        "empty": ([folder / "empty.mp4", "-o", out], "is empty"),
        "cut off": ([folder / "cut.mp4", "-o", out], "is cut off"),
        "no such folder": ([film, "-o", folder / "no" / "out.mp4"], "does not exist: make it"),
        "output is there": ([film, "-o", folder / "there.mp4"], "exists: --overwrite replaces it"),
        "output is the film": ([film, "-o", film, "--overwrite"], "is the film itself"),
        "unknown ending": ([film, "-o", folder / "out.xyz"], "ending chooses its container"),
        "unknown model": ([film, "-o", out, "--model", "nope"], "no colorizer 'nope': choose from default"),
        "unknown codec": ([film, "-o", out, "--codec", "nope"], "no codec 'nope': choose from h264"),
        "no server": ([film, "-o", out, "--server", "127.0.0.1:9"], "no server answers at 127.0.0.1:9"),
    }


CASES = (
    "missing",
    "a folder",
    "text",
    "sound only",
    "empty",
    "cut off",
    "no such folder",
    "output is there",
    "output is the film",
    "unknown ending",
    "unknown model",
    "unknown codec",
    "no server",
)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("where", ["here", "on a server"])
def test_bad_input_gives_one_line_and_leaves_nothing(
    case: str, where: str, server: serving.Server, tmp_path: Path
) -> None:
    inputs = bad_inputs(tmp_path)
    assert set(inputs) == set(CASES)
    arguments, words = inputs[case]
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    if where == "on a server" and "--server" not in arguments:
        arguments = [*arguments, "--server", server.address]
    done = kinochrome("colorize", *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("kinochrome: ") and done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


def test_lenient_colours_what_can_be_read(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", gop=10, frames=120, options={"bf": "0"}))
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    out = tmp_path / "out.mkv"
    assert kinochrome("colorize", film, "-o", out).returncode == 1
    assert not out.exists()
    done = kinochrome("colorize", film, "-o", out, "--lenient")
    assert done.returncode == 0
    assert "warning: " in done.stderr and "is cut off" in done.stderr
    assert 20 < len(reading.pictures(out)) < 120


def test_models_and_doctor(server: serving.Server) -> None:
    listed = kinochrome("models")
    assert listed.returncode == 0 and "default" in listed.stdout and "Apache-2.0" in listed.stdout
    assert "default" in kinochrome("models", "--server", server.address).stdout
    examined = kinochrome("doctor")
    assert examined.returncode == 0, examined.stdout
    assert "engine cpu (onnxruntime" in examined.stdout and "the default colorizer paints" in examined.stdout


def test_training_errors_are_one_line(tmp_path: Path) -> None:
    cases: list[tuple[list[str | Path], str]] = [
        (["train", "defualt", "--color", tmp_path, "--out", tmp_path / "run"], "did you mean 'default'?"),
        (["train", "default", "--color", tmp_path / "no", "--out", tmp_path / "run"], "no does not exist"),
        (["export", tmp_path, "-o", tmp_path / "m.onnx"], "holds no checkpoint"),
        (["evaluate", tmp_path, "--data", tmp_path], "holds no checkpoint"),
    ]
    for arguments, words in cases:
        done = command.run(*arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("kinochrome: ") and done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr
