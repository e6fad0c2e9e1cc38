"""The native TensorRT engine against a recording fake of TensorRT and CUDA: its logic, not TensorRT's.

What runs on TensorRT itself is in test_tensorrt_real.
"""

import dataclasses
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from kinochrome_proto.errors import Unusable
from kinochrome_server import colorizers
from kinochrome_server.colorizers import Colorizer
from kinochrome_server.engines import tensorrt_native
from kinochrome_server.engines.cpu import CpuEngine
from kinochrome_server.engines.interface import EngineSettings
from kinochrome_server.engines.tensorrt_native import TensorrtNativeEngine
from tests.export import made

from . import fake_tensorrt
from .fake_cuda import FakeCuda
from .fake_tensorrt import State

Load = Callable[..., TensorrtNativeEngine]


@pytest.fixture(params=["10.16.1.11", "11.4.0.106"])
def state(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> State:
    return _installed(monkeypatch, request.param, FakeCuda())


def _installed(monkeypatch: pytest.MonkeyPatch, version: str, cuda: FakeCuda) -> State:
    """TensorRT of a version on a machine with that GPU."""
    state = State(version, cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module(state))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setattr(tensorrt_native, "gpus", lambda engine: [cuda._name])
    return state


@pytest.fixture
def colorizer(tmp_path: Path) -> Colorizer:
    made.make(tmp_path / "made.onnx", noise_length=3)
    return colorizers.read(tmp_path / "made.onnx")


@pytest.fixture
def load(tmp_path: Path, colorizer: Colorizer) -> Load:
    settings = EngineSettings(seed=7, batch=3, cache=tmp_path / "cache")
    return lambda **changed: TensorrtNativeEngine(colorizer, dataclasses.replace(settings, **changed))


def _pictures(count: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, height, width), np.uint8)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 40), (2, 32, 136), (2, 64, 32), (1, 48, 64)])
def test_it_paints_what_the_cpu_paints(state: State, load: Load, colorizer: Colorizer, shape: tuple[int, ...]) -> None:
    engine = load()
    for seed in range(2):
        luma = _pictures(*shape) // (seed + 1)
        painted = engine.run(luma)
        assert np.abs(painted - CpuEngine(colorizer, EngineSettings(seed=7)).run(luma)).max() < 1e-6
        assert painted.dtype == np.float32


def test_what_was_given_is_not_overwritten_by_the_next_run(state: State, load: Load) -> None:
    engine = load()
    first = engine.run(_pictures(2, 32, 32))
    kept = first.copy()
    engine.run(255 - _pictures(2, 32, 32))
    assert np.array_equal(first, kept)


def test_a_start_with_a_kept_engine_builds_nothing(state: State, load: Load) -> None:
    load()
    assert state.calls.count("build") == 1
    load(seed=8)  # the style is no part of the engine
    assert state.calls.count("build") == 1


def test_films_of_other_shapes_have_engines_of_their_own(state: State, load: Load) -> None:
    engine = load()
    for shape in [(1, 32, 48), (1, 48, 32), (2, 64, 32), (1, 40, 40)]:
        engine.run(_pictures(*shape))
    assert state.calls.count("build") == 3, "wide, tall, and wide of another size"


def test_what_an_engine_depends_on_has_engines_of_their_own(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = _installed(monkeypatch, "10.16.1.11", FakeCuda())
    load()
    load(batch=4)
    assert first.calls.count("build") == 2
    for version, gpu in [("10.13.3.9", "Fake GPU"), ("11.4.0.106", "Fake GPU"), ("10.16.1.11", "Other GPU")]:
        state = _installed(monkeypatch, version, FakeCuda(gpu))
        load()
        assert state.calls.count("build") == 1
    made.make(tmp_path / "made.onnx")
    TensorrtNativeEngine(colorizers.read(tmp_path / "made.onnx"), EngineSettings(batch=3, cache=tmp_path / "cache"))
    assert state.calls.count("build") == 2


def test_what_one_build_measured_the_next_is_given(state: State, load: Load) -> None:
    load()
    load(batch=4)
    timings = [call for call in state.calls if call.startswith("timings")]
    assert timings == ["timings of 0 bytes", "timings of 16 bytes"]


def test_a_file_in_single_precision_is_computed_in_single_precision(state: State, load: Load, tmp_path: Path) -> None:
    load()
    (engine,) = (tmp_path / "cache").glob(f"*/{tensorrt_native.ENGINE_FILE}")
    assert b'"tf32": false' in engine.read_bytes()


def test_a_damaged_engine_is_built_anew_with_a_word(
    state: State, load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load()
    (engine,) = (tmp_path / "cache").glob(f"*/{tensorrt_native.ENGINE_FILE}")
    engine.write_bytes(engine.read_bytes()[:-1])
    load()
    assert state.calls.count("build") == 2
    assert "is damaged (colorizer.engine): it is built anew" in caplog.text


def test_an_engine_that_tensorrt_refuses_is_built_anew_with_a_word(
    load: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = _installed(monkeypatch, "11.4.0.106", FakeCuda())
    load()
    state.version = "11.4.0.106.hotfix"  # another library under the same number
    load()
    assert state.calls == ["timings of 0 bytes", "build", "load", "load", "timings of 16 bytes", "build", "load"]
    assert "The engine plan file is not compatible with this version of TensorRT: it is built anew" in caplog.text


def test_progress_is_told(state: State, load: Load, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    load()
    assert "it takes minutes, once" in caplog.text
    assert "TensorRT: Building Engine, 1 of 2" in caplog.text


def test_an_operator_that_tensorrt_lacks(state: State, load: Load, tmp_path: Path) -> None:
    state.unsupported = {"AveragePool"}
    with pytest.raises(Unusable) as refused:
        load()
    assert str(refused.value) == (
        f"--engine tensorrt-native: TensorRT {state.version} cannot read {tmp_path / 'made.onnx'}: "
        "no importer registered for op: AveragePool: use another engine"
    )
    assert not list((tmp_path / "cache").glob(".*")), "nothing half-built is left"


def test_a_build_that_fails(state: State, load: Load) -> None:
    state.builds = False
    with pytest.raises(Unusable, match=r"cannot build .*made\.onnx: Could not find any implementation for node") as e:
        load()
    assert "\n" not in str(e.value)


def test_an_engine_that_does_not_load_even_when_fresh(state: State, load: Load) -> None:
    state.loads = False
    with pytest.raises(
        Unusable, match=r"the engine just built in .* cannot be loaded: The engine plan file is not comp"
    ):
        load()
    assert state.calls.count("build") == 1


def test_no_gpu_for_tensorrt(state: State, load: Load) -> None:
    state.starts = False
    with pytest.raises(Unusable, match="TensorRT does not start: CUDA initialization failure with error: 35"):
        load()


@pytest.mark.parametrize("spoilt", [0.1, float("nan")])
def test_an_engine_that_paints_otherwise_than_the_cpu_is_not_used(state: State, load: Load, spoilt: float) -> None:
    state.spoilt = spoilt
    with pytest.raises(Unusable, match=r"gives other colours here than on the CPU, by (25\.5|nan) code values"):
        load()


def test_memory_that_does_not_suffice(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, "11.4.0.106", FakeCuda(memory=1000))
    with pytest.raises(MemoryError):
        load()
    _installed(monkeypatch, "11.4.0.106", FakeCuda()).fits = False
    with pytest.raises(MemoryError):
        load()


def test_a_gpu_that_fails_while_it_runs(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    _installed(monkeypatch, "11.4.0.106", cuda)
    engine = load()
    cuda._fails = "cudaStreamSynchronize"
    with pytest.raises(Unusable, match="cudaStreamSynchronize failed: cudaErrorLaunchFailure"):
        engine.run(_pictures(1, 32, 32))


def test_memory_is_given_back(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    _installed(monkeypatch, "11.4.0.106", cuda)
    engine = load()
    assert cuda._memory and cuda._streams
    del engine
    assert not cuda._memory and not cuda._streams


def test_shapes_it_is_not_made_for(state: State, load: Load) -> None:
    engine = load()
    with pytest.raises(ValueError, match="4, 32, 32"):
        engine.run(_pictures(4, 32, 32))
    with pytest.raises(ValueError, match="32, 152"):
        engine.run(_pictures(1, 32, 152))


def test_what_it_runs_on(state: State) -> None:
    assert TensorrtNativeEngine.probe() == f"TensorRT {state.version}, CUDA 13.1"


def test_a_version_that_it_was_not_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, "12.0.0.1", FakeCuda())
    with pytest.raises(
        Unusable, match=r"TensorRT 12\.0\.0\.1 is installed, and this was made for 10 to 11: pip install"
    ):
        TensorrtNativeEngine.probe()


def test_a_gpu_that_is_not_there(state: State, load: Load) -> None:
    with pytest.raises(Unusable, match="there is no GPU 2: this machine has 1"):
        load(device=2)


@pytest.mark.parametrize("module", ["tensorrt", "cuda.bindings.runtime"])
def test_what_is_not_installed(state: State, load: Load, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Unusable, match=r"cannot be loaded .*: pip install 'kinochrome\[tensorrt\]'"):
        load()


def test_int8_files_are_refused_before_anything_is_built(state: State, load: Load, tmp_path: Path) -> None:
    made.make(tmp_path / "int8.onnx", precision="int8")
    with pytest.raises(Unusable, match=r"int8\.onnx is int8 for CPUs.*use the fp32 or fp16 file"):
        TensorrtNativeEngine(colorizers.read(tmp_path / "int8.onnx"), EngineSettings(cache=tmp_path / "cache"))
