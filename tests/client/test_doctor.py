"""What `kinochrome doctor` finds, on machines that have this or that installed."""

import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from kinochrome_client import doctor
from kinochrome_client.doctor import Finding
from kinochrome_proto.errors import Unusable
from kinochrome_server.engines import choice, cuda

Machine = Callable[..., list[Finding]]
GPU = "onnxruntime-gpu", "tensorrt", "tensorrt-cu12", "tensorrt-cu13"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """The findings on a machine with these distributions, an ONNX Runtime linked to that TensorRT, and those GPUs."""

    def examine(installed: dict[str, str], linked: str = "", gpus: tuple[str, ...] = ()) -> list[Finding]:
        real = importlib.metadata.version

        def version(name: str) -> str:
            if name in installed:
                return installed[name]
            if name == "onnxruntime" or name in GPU:
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        spec = importlib.machinery.ModuleSpec("onnxruntime", None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path)]
        (tmp_path / "capi").mkdir(exist_ok=True)
        if linked:
            (tmp_path / "capi" / "libonnxruntime_providers_tensorrt.so").write_bytes(b"\0" + linked.encode() + b"\0")
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, package=None: spec if name == "onnxruntime" else find(name, package),
        )

        def found(engine: str) -> list[str]:
            if not gpus:
                raise Unusable(f"--engine {engine}: no GPU")
            return list(gpus)

        monkeypatch.setattr(choice, "gpus", found)
        return doctor.examine()

    return examine


def said(findings: list[Finding], words: str) -> Finding:
    (finding,) = (finding for finding in findings if words in finding.what)
    return finding


def test_a_machine_without_a_gpu_is_well(machine: Machine) -> None:
    findings = machine({"onnxruntime": "1.31.1"})
    assert {finding.state for finding in findings} <= {"ok", "note"}
    assert said(findings, "the default colorizer paints").what.startswith("engine cpu (onnxruntime ")
    assert said(findings, "--engine auto takes").what.endswith("cpu")
    for word in choice.ENGINES:
        said(findings, f"engine {word}: " if word != "cpu" else "engine cpu (")


def test_both_onnxruntimes_are_a_fault(machine: Machine) -> None:
    findings = machine({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0"})
    finding = said(findings, "overwrite each other")
    assert finding.state == "fault"
    assert "onnxruntime 1.31.1 and onnxruntime-gpu 1.30.0" in finding.what


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-cu13"])
def test_tensorrt_11_beside_an_onnxruntime_built_for_10(machine: Machine, name: str) -> None:
    findings = machine({"onnxruntime-gpu": "1.31.1", name: "11.4.0.106"}, linked="libnvinfer.so.10")
    finding = said(findings, "is built for TensorRT 10")
    assert finding.state == "warn"
    assert f"{name} 11.4.0.106" in finding.what and f"pip install '{name}==10.*'" in finding.what


@pytest.mark.parametrize(
    ("installed", "linked"),
    [
        ({"onnxruntime-gpu": "1.31.1", "tensorrt-cu13": "10.16.1.11"}, "libnvinfer.so.10"),
        ({"onnxruntime-gpu": "1.40.0", "tensorrt-cu13": "11.4.0.106"}, "libnvinfer.so.11"),
        ({"onnxruntime-gpu": "1.31.1", "tensorrt-cu13": "11.4.0.106"}, ""),
        ({"onnxruntime": "1.31.1", "tensorrt-cu13": "11.4.0.106"}, "libnvinfer.so.10"),
    ],
)
def test_a_tensorrt_that_fits_is_no_news(machine: Machine, installed: dict[str, str], linked: str) -> None:
    assert not [finding for finding in machine(installed, linked) if "built for TensorRT" in finding.what]


def test_libraries_that_are_missing_are_a_warning_where_there_is_a_gpu(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(cuda, "gpus", lambda engine: ["Fake GPU (0)"])
    monkeypatch.setattr(cuda, "missing_libraries", lambda: ["libcudnn.so.9", "libcublas.so.13"])
    finding = said(machine({"onnxruntime-gpu": "1.31.1"}, gpus=("Fake GPU (0)",)), "--engine cuda")
    assert finding.state == "warn"
    assert "libcudnn.so.9, libcublas.so.13 cannot be loaded" in finding.what
    assert "pip install 'kinochrome[gpu]'" in finding.what


def test_nothing_to_colour_with_is_a_fault(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("No module named 'onnxruntime'")

    monkeypatch.setattr(importlib, "import_module", broken)
    finding = said(machine({}), "films cannot be coloured here")
    assert finding.state == "fault" and "pip install 'kinochrome[server]'" in finding.what
