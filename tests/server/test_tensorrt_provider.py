"""ONNX Runtime's TensorRT provider against a recording fake of it: our logic, not TensorRT's.

What runs on TensorRT itself is in test_tensorrt_real.
"""

import ctypes
import dataclasses
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from kinochrome_proto.errors import BadColorizer, Unusable
from kinochrome_server import colorizers
from kinochrome_server.colorizers import Colorizer
from kinochrome_server.engines import tensorrt_provider
from kinochrome_server.engines.cpu import CpuEngine
from kinochrome_server.engines.interface import EngineSettings
from kinochrome_server.engines.tensorrt_provider import TensorrtProviderEngine
from tests.export import made

from . import fake_provider
from .fake_cuda import FakeCuda
from .fake_provider import State

Load = Callable[..., TensorrtProviderEngine]


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> State:
    """A machine with a GPU, onnxruntime-gpu and TensorRT."""
    state = State()
    monkeypatch.setattr(onnxruntime, "InferenceSession", fake_provider.session(state))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [fake_provider.PROVIDER])
    monkeypatch.setattr(tensorrt_provider, "gpus", lambda engine: ["Fake GPU (0)"])
    monkeypatch.setattr(tensorrt_provider, "missing_libraries", lambda: [])
    monkeypatch.setattr(tensorrt_provider, "_tensorrt_version", lambda: "10.16.1")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda())
    return state


@pytest.fixture
def colorizer(tmp_path: Path) -> Colorizer:
    made.make(tmp_path / "made.onnx", noise_length=3)
    return colorizers.read(tmp_path / "made.onnx")


@pytest.fixture
def load(tmp_path: Path, colorizer: Colorizer) -> Load:
    settings = EngineSettings(seed=7, batch=3, cache=tmp_path / "cache")
    return lambda **changed: TensorrtProviderEngine(colorizer, dataclasses.replace(settings, **changed))


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 136), (2, 64, 32), (1, 48, 64)])
def test_it_paints_what_the_cpu_paints(state: State, load: Load, colorizer: Colorizer, shape: tuple[int, ...]) -> None:
    luma = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    painted = load().run(luma)
    assert np.abs(painted - CpuEngine(colorizer, EngineSettings(seed=7)).run(luma)).max() < 1e-6


def test_every_input_has_all_its_shapes_stated(state: State, load: Load) -> None:
    load(device=0)
    told = state.told[0]
    assert told["trt_profile_min_shapes"] == "luma:1x1x32x32,noise:1x3"
    assert told["trt_profile_opt_shapes"] == "luma:3x1x32x40,noise:3x3"
    assert told["trt_profile_max_shapes"] == "luma:3x1x32x144,noise:3x3"
    assert told["device_id"] == "0"


def test_precision_is_the_files(state: State, load: Load) -> None:
    load()
    assert not {"trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable"} & {*state.told[0]}


def test_a_start_with_a_kept_engine_builds_nothing(state: State, load: Load) -> None:
    load()
    assert state.builds == 1
    load(seed=8)
    assert state.builds == 1
    load(batch=4)
    assert state.builds == 2


@pytest.mark.parametrize(
    "change",
    [("_tensorrt_version", "10.13.3"), ("gpu", "Other GPU"), ("onnxruntime", "1.99.0"), ("NVIDIA_TF32_OVERRIDE", "0")],
)
def test_what_an_engine_depends_on_makes_another(
    state: State, load: Load, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str]
) -> None:
    load()
    match change:
        case "gpu", name:
            monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda(name))
        case "onnxruntime", version:
            monkeypatch.setattr(onnxruntime, "__version__", version)
        case "NVIDIA_TF32_OVERRIDE" as variable, value:
            monkeypatch.setenv(variable, value)
        case name, version:
            monkeypatch.setattr(tensorrt_provider, name, lambda: version)
    load()
    assert state.builds == 2


def test_half_an_engine_is_never_where_engines_are_kept(state: State, load: Load, tmp_path: Path) -> None:
    load()
    built_in, loaded_from = (Path(told["trt_engine_cache_path"]) for told in state.told)
    assert built_in.name.startswith(f".{loaded_from.name}.")
    assert not built_in.exists()
    assert (loaded_from / fake_provider.ENGINE).exists()


def test_what_one_build_measured_the_next_is_given(state: State, load: Load, tmp_path: Path) -> None:
    load()
    load(batch=4)
    assert state.timings == [b"", b"measured"]
    assert not list((tmp_path / "cache").glob("*/*.timing"))


def test_a_damaged_engine_is_built_anew_with_a_word(
    state: State, load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load()
    (engine,) = (tmp_path / "cache").glob("*/*.engine")
    engine.write_bytes(b"an engina")
    load()
    assert state.builds == 2
    assert "is damaged" in caplog.text


def test_an_engine_that_is_not_taken_is_told(state: State, load: Load, caplog: pytest.LogCaptureFixture) -> None:
    state.takes_nothing = True
    load()
    assert state.builds == 2
    assert "ONNX Runtime did not take the engine in" in caplog.text


def test_nodes_that_tensorrt_leaves_to_others_are_an_error(state: State, load: Load, tmp_path: Path) -> None:
    state.refuses = True
    with pytest.raises(Unusable) as refused:
        load()
    text = str(refused.value)
    assert text.startswith(
        f"--engine tensorrt: onnxruntime-gpu {onnxruntime.__version__}, TensorRT 10.16.1 does not take"
    )
    assert "nodes that are assigned to the default CPU EP" in text
    assert text.endswith("use --engine cuda")
    assert not list((tmp_path / "cache").glob(".*"))


def test_a_provider_that_did_not_load_is_an_error(state: State, load: Load) -> None:
    state.loads_nothing = True
    with pytest.raises(Unusable, match="loaded only CPUExecutionProvider"):
        load()


def test_a_provider_that_built_nothing_is_an_error(state: State, load: Load) -> None:
    state.builds_nothing = True
    with pytest.raises(Unusable, match="built no engine"):
        load()


def test_a_file_that_is_no_model_is_not_tensorrts_fault(state: State, load: Load, colorizer: Colorizer) -> None:
    cut = dataclasses.replace(colorizer, content=colorizer.content[:100])
    with pytest.raises(BadColorizer, match="cannot be loaded as an ONNX model"):
        TensorrtProviderEngine(cut, EngineSettings())


def test_what_it_runs_on(state: State) -> None:
    assert TensorrtProviderEngine.probe() == f"onnxruntime-gpu {onnxruntime.__version__}, TensorRT 10.16.1"


def test_the_cpus_onnx_runtime_has_no_such_provider() -> None:
    if fake_provider.PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed here")
    with pytest.raises(Unusable, match=r"pip install 'kinochrome\[gpu,tensorrt\]'"):
        TensorrtProviderEngine.probe()


def test_which_tensorrt_it_was_built_for_is_read_from_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "provider.so"
    monkeypatch.setattr(tensorrt_provider, "LIBRARY", library)
    with pytest.raises(Unusable, match=r"has no TensorRT provider \(provider\.so\)"):
        tensorrt_provider.built_for()
    library.write_bytes(b"\x7fELF\0libcudart.so.13\0libnvinfer.so.10\0libnvonnxparser.so.10\0")
    assert tensorrt_provider.built_for() == "10"


def test_another_tensorrt_than_it_was_built_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "provider.so").write_bytes(b"libnvinfer.so.10\0")
    monkeypatch.setattr(tensorrt_provider, "LIBRARY", tmp_path / "provider.so")
    versions = {"tensorrt-cu13": "11.4.0.106"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError
        return versions[name]

    def unfound(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(ctypes, "CDLL", unfound)
    with pytest.raises(Unusable) as refused:
        tensorrt_provider._tensorrt_version()
    assert str(refused.value) == (
        f"--engine tensorrt: libnvinfer.so.10 cannot be loaded, which onnxruntime-gpu {onnxruntime.__version__} needs "
        "(tensorrt-cu13 11.4.0.106 is installed, and onnxruntime-gpu was not built for it): "
        "pip install 'tensorrt-cu13==10.*'"
    )
    versions.clear()
    with pytest.raises(Unusable, match=r"needs: pip install 'tensorrt-cu13==10\.\*'"):
        tensorrt_provider._tensorrt_version()
