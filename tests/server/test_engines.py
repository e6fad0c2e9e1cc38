"""Engines: what each must give, and which is taken."""

import hashlib
import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from kinochrome_proto.errors import BadColorizer, BadSettings, OutputInTheWay, Unusable
from kinochrome_server import colorizers, pipeline
from kinochrome_server.colorizers import Colorizer
from kinochrome_server.engines import choice
from kinochrome_server.engines.choice import AUTO, ENGINES, choose
from kinochrome_server.engines.cpu import CpuEngine
from kinochrome_server.engines.interface import Engine, EngineSettings
from kinochrome_server.journal import Record
from kinochrome_server.pipeline import Settings
from kinochrome_server.sources import FileSource
from tests import films, reading
from tests.export import made
from tests.films import Kind

CODE_VALUE = 1 / 255
HERE = [
    pytest.param("cpu"),
    pytest.param("cuda", marks=pytest.mark.gpu),
    pytest.param("tensorrt", marks=[pytest.mark.gpu, pytest.mark.tensorrt, pytest.mark.slow]),
    pytest.param("tensorrt-native", marks=[pytest.mark.gpu, pytest.mark.tensorrt, pytest.mark.slow]),
]


def test_every_engine_is_tried() -> None:
    assert {param.values[0] for param in HERE} == ENGINES.keys()


@pytest.fixture
def colorizer(tmp_path: Path) -> Colorizer:
    made.make(tmp_path / "made.onnx")
    return colorizers.read(tmp_path / "made.onnx")


@pytest.mark.parametrize("word", HERE)
def test_a_batch_gives_what_its_pictures_give_alone_and_on_the_cpu(word: str) -> None:
    if not choice.should_work(word):
        pytest.skip(f"{word} cannot run here")
    default = colorizers.load()
    engine = choose(word, default, EngineSettings(batch=5))
    reference = CpuEngine(default, EngineSettings())
    multiple, stride = default.manifest.size_multiple, default.manifest.chroma_stride
    luma = np.random.default_rng(0).integers(0, 256, (5, 4 * multiple, 5 * multiple), np.uint8)
    together = engine.run(luma)
    assert together.shape == (5, 2, 4 * multiple // stride, 5 * multiple // stride) and together.dtype == np.float32
    assert np.abs(together - reference.run(luma)).max() < CODE_VALUE
    for index in range(5):
        assert np.abs(engine.run(luma[index : index + 1])[0] - together[index]).max() < CODE_VALUE
    assert np.array_equal(engine.run(luma), together)  # the same film gives the same bytes


@pytest.mark.parametrize("word", HERE)
def test_it_says_what_it_runs_on(word: str) -> None:
    if not choice.should_work(word):
        pytest.skip(f"{word} cannot run here")
    words = choice.described(word)
    assert words.startswith(f"{word} (") and any(digit in words for digit in "0123456789") and ") on " in words


@pytest.mark.parametrize("word", [word for word in ENGINES if word != "cpu"])
def test_one_asked_for_by_name_that_cannot_run_is_an_error_with_a_remedy(word: str, colorizer: Colorizer) -> None:
    if choice.should_work(word):
        pytest.skip(f"{word} can run here")
    with pytest.raises(Unusable, match=rf"^--engine {word}: .+: (pip install|install)"):
        choose(word, colorizer, EngineSettings())


def test_an_unknown_word_names_those_there_are(colorizer: Colorizer) -> None:
    with pytest.raises(BadSettings, match=r"no engine 'gpu': choose from auto, .*cuda, cpu"):
        choose("gpu", colorizer, EngineSettings())


class Painted(Engine):
    """An engine of a machine that has it; paints one value, or fails."""

    name: ClassVar[str] = "cuda"
    gives: ClassVar[float | Exception] = 0.25
    loads: ClassVar[Exception | None] = None

    @classmethod
    def probe(cls) -> str:
        return "painted 1.0"

    @classmethod
    def devices(cls) -> list[str]:
        return ["Fake GPU (0)"]

    def __init__(self, colorizer: Colorizer, settings: EngineSettings) -> None:
        super().__init__(colorizer, settings)
        if self.loads:
            raise self.loads

    def run(self, luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        if isinstance(self.gives, Exception):
            raise self.gives
        count, height, width = luma.shape
        return np.full((count, 2, height // 4, width // 4), self.gives, np.float32)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this a machine with a GPU and onnxruntime-gpu, whose engine "cuda" is `Painted`."""

    def make(gpu: bool = True, package: bool = True, **painted: Any) -> None:
        def gpus(engine: str) -> list[str]:
            if not gpu:
                raise Unusable("no GPU")
            return ["Fake GPU (0)"]

        monkeypatch.setattr(choice, "gpus", gpus)
        version = importlib.metadata.version

        def installed(name: str) -> str:
            if name == "onnxruntime-gpu" and package:
                return "1.31.1"
            if name.startswith(("onnxruntime-gpu", "tensorrt")):
                raise importlib.metadata.PackageNotFoundError(name)
            return version(name)

        monkeypatch.setattr(importlib.metadata, "version", installed)
        known = choice.engine_class
        monkeypatch.setattr(choice, "engine_class", lambda word: Painted if word == "cuda" else known(word))
        for name, value in painted.items():
            monkeypatch.setattr(Painted, name, value)

    return make


def test_auto_takes_the_first_that_loads_and_paints(machine: Callable[..., None], colorizer: Colorizer) -> None:
    machine()
    said: list[str] = []
    assert choose(AUTO, colorizer, EngineSettings(), said.append).name == "cuda"
    assert said == []


@pytest.mark.parametrize("lacking", ["gpu", "package"])
def test_auto_says_nothing_of_what_nobody_expects(
    machine: Callable[..., None], colorizer: Colorizer, lacking: str
) -> None:
    machine(**{lacking: False})
    said: list[str] = []
    assert choose(AUTO, colorizer, EngineSettings(), said.append).name == "cpu"
    assert said == []


def test_auto_goes_on_in_silence_where_a_file_was_not_made_for_an_engine(
    machine: Callable[..., None], colorizer: Colorizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int8 is made for CPUs, and TensorRT takes none of it: nothing is wrong, so nothing is said."""
    machine()
    monkeypatch.setattr(choice, "should_work", lambda word: word != "tensorrt-native")
    int8 = replace(colorizer, manifest=replace(colorizer.manifest, precision="int8"))
    said: list[str] = []
    assert choose(AUTO, int8, EngineSettings(), said.append).name == "cuda"
    assert said == []
    choose(AUTO, colorizer, EngineSettings(), said.append)
    (warning,) = said  # of fp32 TensorRT would have been tried
    assert warning.endswith("going on without tensorrt")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"loads": Unusable("--engine cuda: libcudnn.so.9 cannot be loaded")}, "libcudnn.so.9 cannot be loaded"),
        ({"gives": Unusable("--engine cuda: a batch failed")}, "a batch failed"),
        ({"gives": MemoryError()}, "there is not enough memory"),
        ({"gives": float("nan")}, "gives chroma that is no number"),
        ({"loads": BadColorizer("made.onnx cannot be loaded")}, "made.onnx cannot be loaded"),
    ],
)
def test_auto_warns_where_it_passes_over_what_should_work(
    machine: Callable[..., None], colorizer: Colorizer, fault: dict[str, Any], words: str
) -> None:
    machine(**fault)
    said: list[str] = []
    assert choose(AUTO, colorizer, EngineSettings(), said.append).name == "cpu"
    (warning,) = said
    assert words in warning and warning.endswith("; going on without cuda")
    with pytest.raises((Unusable, MemoryError, BadColorizer)):
        choose("cuda", colorizer, EngineSettings())


def test_a_package_that_is_damaged_is_named(monkeypatch: pytest.MonkeyPatch, colorizer: Colorizer) -> None:
    def broken(name: str, package: str) -> None:
        raise ImportError("libonnxruntime.so.1: file too short")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(Unusable, match=r"--engine cpu: libonnxruntime.*too short: pip install 'kinochrome\[server\]'"):
        choose("cpu", colorizer, EngineSettings())


def test_a_file_no_engine_can_run_is_the_files_fault(tmp_path: Path) -> None:
    wrong = made.made()
    wrong.graph.node[1].attribute[1].ints[:] = [2, 2]  # gives more lines than its metadata states
    made.write(wrong, made.MANIFEST, tmp_path / "wrong.onnx")
    with pytest.raises(BadColorizer):
        choose(AUTO, colorizers.read(tmp_path / "wrong.onnx"), EngineSettings())


def test_a_film_is_coloured_by_the_engine_that_auto_took_and_the_report_says_so(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=5))
    said: list[str] = []
    with (tmp_path / "out.mkv").open("w+b") as sink:
        report = pipeline.colorize(
            FileSource(film), sink, Settings(codec="ffv1", container="mkv"), on_engine=said.append
        )
    taken = choose(AUTO, colorizers.load(), EngineSettings()).name
    assert said == [report.engine] == [choice.described(taken)]
    assert len(reading.pictures(tmp_path / "out.mkv")) == 5


def test_an_engine_that_cannot_run_stops_the_film_before_anything_is_coloured(tmp_path: Path) -> None:
    if choice.should_work("cuda"):
        pytest.skip("cuda can run here")
    film = films.make(tmp_path, Kind("film.mkv", frames=5))
    said: list[str] = []
    with (tmp_path / "out.mkv").open("w+b") as sink, pytest.raises(Unusable, match="--engine cuda: "):
        pipeline.colorize(FileSource(film), sink, Settings(engine="cuda"), on_engine=said.append)
    assert said == [] and (tmp_path / "out.mkv").stat().st_size == 0


def test_a_journal_of_another_engine_is_not_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FileSource(films.make(tmp_path, Kind("film.mkv", frames=5)))
    settings = pipeline.decided(Settings(engine="cpu"))
    assert settings.engine == "cpu"
    with pipeline.journal_in(tmp_path / "journal", source, settings) as journal:
        journal.chunk_file(0).write_bytes(b"12")
        journal.add(Record(0, "0" * 64, 1, False, 2, hashlib.sha256(b"12").hexdigest()))
    with pipeline.journal_in(tmp_path / "journal", source, settings) as journal:
        assert journal.records
    for words in ("cuda (onnxruntime-gpu 1.31.1) on Fake GPU (0)", "cpu (onnxruntime 9.9) on CPU"):
        monkeypatch.setattr(choice, "described", lambda word, words=words: words)
        with (
            pytest.raises(OutputInTheWay, match="settings"),
            pipeline.journal_in(tmp_path / "journal", source, settings),
        ):
            pass


def test_a_graph_that_fails_at_a_size_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def run(self, names: object, feed: object) -> None:
            raise RuntimeError("Non-zero status code returned while running Reshape node.\nmore of it")

    made.make(tmp_path / "made.onnx")
    engine = CpuEngine(colorizers.read(tmp_path / "made.onnx"), EngineSettings())
    monkeypatch.setattr(engine, "_session", Failing())
    with pytest.raises(BadColorizer, match=r"made\.onnx cannot paint a picture of 48x32: Non-zero .* node\.$"):
        engine.run(np.zeros((1, 32, 48), np.uint8))
