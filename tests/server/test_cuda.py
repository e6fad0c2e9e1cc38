"""ONNX Runtime's CUDA provider against a recording fake of it: our logic, not CUDA's.

What runs on a GPU itself is in test_engines, marked `gpu`. The names that the fake knows are looked for in the wheel
of onnxruntime-gpu, where it is installed or unpacked and named:

    pip download --no-deps -d /tmp/wheels onnxruntime-gpu && python -m zipfile -e /tmp/wheels/*.whl /tmp/unpacked
    KINOCHROME_WHEELS=/tmp/unpacked pytest tests/server/test_cuda.py
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kinochrome_proto.errors import BadColorizer, Unusable
from kinochrome_server import colorizers
from kinochrome_server.colorizers import Colorizer
from kinochrome_server.engines import cuda
from kinochrome_server.engines.cpu import CpuEngine
from kinochrome_server.engines.cuda import CudaEngine
from kinochrome_server.engines.gpus import gpus
from kinochrome_server.engines.interface import EngineSettings
from tests.export import made

from . import fake_cuda_provider
from .fake_cuda_provider import State


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> State:
    """A machine with a GPU and onnxruntime-gpu."""
    state = State()
    monkeypatch.setattr(onnxruntime, "InferenceSession", fake_cuda_provider.session(state))
    monkeypatch.setattr(onnxruntime, "OrtValue", fake_cuda_provider.FakeOrtValue)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [fake_cuda_provider.PROVIDER])
    monkeypatch.setattr(cuda, "gpus", lambda engine: ["Fake GPU (0)"])
    monkeypatch.setattr(cuda, "missing_libraries", lambda: [])
    return state


@pytest.fixture(params=[0, 3])
def colorizer(request: pytest.FixtureRequest, tmp_path: Path) -> Colorizer:
    """A deterministic and a stochastic one."""
    made.make(tmp_path / "made.onnx", noise_length=request.param)
    return colorizers.read(tmp_path / "made.onnx")


def luma(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def test_it_paints_what_the_cpu_paints_whatever_came_before(state: State, colorizer: Colorizer) -> None:
    engine, reference = (kind(colorizer, EngineSettings(seed=7, batch=4)) for kind in (CudaEngine, CpuEngine))
    for shape in ((4, 32, 40), (1, 32, 40), (3, 32, 40), (2, 48, 32), (4, 32, 40), (6, 32, 40)):
        given = luma(*shape)
        painted = engine.run(given)
        assert painted.shape == (shape[0], 2, shape[1] // 4, shape[2] // 4)
        assert np.abs(painted - reference.run(given)).max() < 1e-6


def test_a_film_has_one_graph_though_its_last_batch_is_short(state: State, colorizer: Colorizer) -> None:
    engine = CudaEngine(colorizer, EngineSettings(batch=4))
    assert state.captured == [(4, 1, 32, 32)] and state.runs == [0]  # of the picture that proves it
    for count in (4, 4, 1, 3):
        engine.run(luma(count, 32, 40))
    assert state.captured[1:] == [(4, 1, 32, 40)]
    assert state.runs[1:] == [1, 1, 1, 1]
    engine.run(luma(2, 64, 32))
    assert state.captured[2:] == [(4, 1, 64, 32)] and state.runs[-1] == 2


def test_many_sizes_do_not_fill_the_memory_with_graphs(state: State, colorizer: Colorizer) -> None:
    engine = CudaEngine(colorizer, EngineSettings(batch=1))
    for size in range(cuda.KEPT + 3):
        given = luma(1, 32, 8 * (size + 4))
        assert np.abs(engine.run(given) - CpuEngine(colorizer, EngineSettings()).run(given)).max() < 1e-6
    assert len(state.captured) == cuda.KEPT
    assert state.runs[-4] != -1 and state.runs[-3:] == [-1, -1, -1]


def test_what_it_tells_the_provider(state: State, colorizer: Colorizer) -> None:
    CudaEngine(colorizer, EngineSettings())
    assert state.told == [
        {
            "device_id": "0",
            "prefer_nhwc": "1",
            "use_tf32": "0",
            "enable_cuda_graph": "1",
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
        }
    ]


def test_a_colorizer_whose_graph_cannot_be_captured_runs_without(state: State, colorizer: Colorizer) -> None:
    state.refuses_graphs = True
    engine = CudaEngine(colorizer, EngineSettings(batch=2))
    given = luma(2, 32, 40)
    for _ in range(2):
        assert np.abs(engine.run(given) - CpuEngine(colorizer, EngineSettings()).run(given)).max() < 1e-6
    assert not engine.captures and state.captured == [] and set(state.runs) == {-1}
    assert "enable_cuda_graph" not in state.told[0]


def test_a_session_that_got_no_gpu_is_refused(state: State, colorizer: Colorizer) -> None:
    state.loads_nothing = True
    with pytest.raises(Unusable, match="did not load its CUDA provider, only CPUExecutionProvider: see `kinochrome do"):
        CudaEngine(colorizer, EngineSettings())


@pytest.mark.parametrize(("off", "refused"), [(1 / 255, False), (3 / 255, True), (float("nan"), True)])
def test_a_gpu_that_gives_other_colours_is_refused(
    state: State, colorizer: Colorizer, off: float, refused: bool
) -> None:
    state.off = off
    if not refused:
        CudaEngine(colorizer, EngineSettings())
        return
    with pytest.raises(Unusable, match=r"gives other colours here than on the CPU, by (3|nan) code values in the mean"):
        CudaEngine(colorizer, EngineSettings())


def test_a_gpu_that_is_not_there_is_named(state: State, colorizer: Colorizer) -> None:
    with pytest.raises(Unusable, match=r"there is no GPU 1: this machine has Fake GPU \(0\)"):
        CudaEngine(colorizer, EngineSettings(device=1))


def test_a_broken_file_is_the_files_fault(state: State, tmp_path: Path) -> None:
    broken = made.made()
    broken.graph.node[3].input[1] = "nothing"
    made.write(broken, made.MANIFEST, tmp_path / "broken.onnx")
    with pytest.raises(BadColorizer):
        CudaEngine(colorizers.read(tmp_path / "broken.onnx"), EngineSettings())


def test_a_batch_that_fails_is_told_apart_from_one_too_large(state: State, colorizer: Colorizer) -> None:
    engine = CudaEngine(colorizer, EngineSettings())
    state.fault = (
        "[ONNXRuntimeError] : 6 : BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer"
    )
    with pytest.raises(MemoryError):
        engine.run(luma(1, 32, 32))
    state.fault = "CUDA failure 719: unspecified launch failure\nat conv.cc:1"
    with pytest.raises(
        Unusable, match="a batch failed: CUDA failure 719: unspecified launch failure: see what nvidia-s"
    ):
        engine.run(luma(1, 32, 32))


def test_without_the_package_it_is_refused(monkeypatch: pytest.MonkeyPatch, colorizer: Colorizer) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(Unusable, match=r"onnxruntime-gpu is not installed: pip install 'kinochrome\[gpu\]'"):
        CudaEngine(colorizer, EngineSettings())


def test_libraries_that_are_missing_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = {"libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"}

    def load(name: str) -> object:
        if name not in here:
            raise OSError(f"{name}: cannot open shared object file")
        return object()

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [fake_cuda_provider.PROVIDER])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcurand.so.10"))
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")
    monkeypatch.setattr(cuda, "gpus", lambda engine: ["Fake GPU (0)"])
    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(
        Unusable, match=r"libcurand\.so\.10, libcudnn\.so\.9 cannot be loaded.*pip install 'kinochrome\["
    ):
        CudaEngine.probe()
    assert capsys.readouterr().out == ""
    here |= {"libcurand.so.10", "libcudnn.so.9"}
    assert CudaEngine.probe() == f"onnxruntime-gpu {onnxruntime.__version__}, CUDA 13.0"


class FakeDriver:
    """Stands for libcuda.so.1."""

    def __init__(self, names: list[str], fault: int = 0) -> None:
        self._names, self._fault = names, fault

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self._fault

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self._names)
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:
        device._obj.value = 100 + number
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        name.value = self._names[device.value - 100].encode()[: length - 1]
        return 0


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (FakeDriver(["A GPU", "Another"]), None),
        (FakeDriver([]), "the NVIDIA driver finds no GPU: use --engine cpu"),
        (FakeDriver(["A GPU"], fault=803), r"no GPU that works \(CUDA error 803\): see what nvidia-smi says"),
        (None, r"no NVIDIA driver \(libcuda\.so\.1\): install it, or use --engine cpu"),
    ],
)
def test_gpus_are_those_of_the_driver(monkeypatch: pytest.MonkeyPatch, driver: Any, words: str | None) -> None:
    def load(name: str) -> Any:
        if driver is None:
            raise OSError(name)
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    if words is None:
        assert gpus("cuda") == ["A GPU (0)", "Another (1)"]
    else:
        with pytest.raises(Unusable, match=words):
            gpus("cuda")


def _unpacked(file: str) -> Path:
    named = [Path(part) for part in os.environ.get("KINOCHROME_WHEELS", "").split(":") if part]
    for folder in (*named, *(Path(part) for part in sys.path if part)):
        if (found := folder / "onnxruntime" / "capi" / file).exists():
            return found
    pytest.skip("onnxruntime-gpu is neither installed nor in KINOCHROME_WHEELS")


def test_the_providers_library_knows_these_options() -> None:
    library = _unpacked("libonnxruntime_providers_cuda.so").read_bytes()
    for name in {
        "device_id",
        *fake_cuda_provider.SWITCHES,
        *fake_cuda_provider.CHOICES,
        "HEURISTIC",
        "kSameAsRequested",
    }:
        assert b"\0" + name.encode() + b"\0" in library, name


def test_the_core_reads_a_runs_graph_and_says_what_cannot_be_captured() -> None:
    core = _unpacked("libonnxruntime_providers_cuda.so").parent.glob("libonnxruntime.so.*")
    library = next(core).read_bytes()
    assert b"\0" + fake_cuda_provider.GRAPH.encode() + b"\0" in library
    assert fake_cuda_provider.NO_GRAPHS.encode() in library


def test_onnxruntime_has_what_the_fake_has() -> None:
    """The Python side is the same in the CPU package."""
    for real, fake in (
        (onnxruntime.OrtValue, fake_cuda_provider.FakeOrtValue),
        (onnxruntime.IOBinding, fake_cuda_provider._Binding),
        (onnxruntime.InferenceSession, fake_cuda_provider._Session),
    ):
        for name in vars(fake):
            assert name.startswith("_") or callable(getattr(real, name)), name
    assert onnxruntime.SessionOptions().use_deterministic_compute is False
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(fake_cuda_provider.GRAPH, "3")
    assert options.get_run_config_entry(fake_cuda_provider.GRAPH) == "3"
    assert callable(onnxruntime.preload_dlls) and isinstance(onnxruntime.cuda_version, str)
