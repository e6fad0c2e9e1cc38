"""Both TensorRT engines on TensorRT itself: `pytest -m tensorrt`, wherever it and a GPU are. docs/tensorrt.md has more.

Building takes a minute or so an engine, so these are few.
"""

from pathlib import Path

import numpy as np
import pytest

from kinochrome_proto.errors import Unusable
from kinochrome_server import colorizers
from kinochrome_server.engines.choice import engine_class
from kinochrome_server.engines.cpu import CpuEngine
from kinochrome_server.engines.interface import Engine, EngineSettings
from tests.export import made

pytestmark = [pytest.mark.tensorrt, pytest.mark.slow]
CODE_VALUE = 1 / 255


@pytest.fixture(params=["tensorrt", "tensorrt-native"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")  # the provider has no option for it
    try:
        kind = engine_class(request.param)
        kind.probe()
    except Unusable as error:
        pytest.skip(str(error))
    return kind


def _files(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"}


def test_the_shipped_colorizer_gives_the_cpus_colours_and_is_built_once(
    kind: type[Engine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    colorizer, settings = colorizers.load(), EngineSettings(batch=4, cache=tmp_path / "cache")
    engine, cpu = kind(colorizer, settings), CpuEngine(colorizer, EngineSettings())
    short, multiple = colorizer.manifest.working_size, colorizer.manifest.size_multiple
    chance = np.random.default_rng(0)
    for count, width in [(1, short), (4, round(short * 4 / 3 / multiple) * multiple), (3, short * 2)]:
        coarse = chance.integers(0, 256, (count, short // 8, width // 8), np.uint8)
        luma = coarse.repeat(8, 1).repeat(8, 2)
        assert np.abs(engine.run(luma) - cpu.run(luma)).max() < CODE_VALUE
    built = _files(tmp_path / "cache")
    assert [file for file in built if file.name.endswith(".engine")]

    kind(colorizer, settings)
    assert _files(tmp_path / "cache") == built, "the second start built again"
    assert not caplog.records

    kept = next(file for file in built if file.name.endswith(".engine"))
    kept.write_bytes(kept.read_bytes()[:-1])
    again = kind(colorizer, settings)
    assert "is damaged" in caplog.text
    assert np.abs(again.run(luma) - cpu.run(luma)).max() < CODE_VALUE


def test_a_stochastic_colorizer_and_a_tall_film(kind: type[Engine], tmp_path: Path) -> None:
    made.make(tmp_path / "made.onnx", noise_length=8)
    colorizer = colorizers.read(tmp_path / "made.onnx")
    settings = EngineSettings(seed=5, batch=2, cache=tmp_path / "cache")
    engine, cpu = kind(colorizer, settings), CpuEngine(colorizer, settings)
    for shape in [(2, 32, 64), (1, 64, 32)]:
        luma = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        assert np.abs(engine.run(luma) - cpu.run(luma)).max() < CODE_VALUE
