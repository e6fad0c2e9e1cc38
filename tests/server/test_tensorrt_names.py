"""The names and signatures that our code uses of NVIDIA's libraries, against the libraries' own wheels.

The fakes have the names that our code uses and refuse all others, so they are what is compared. No TensorRT and no GPU
are needed, only the wheels; those that are not installed can be unpacked and named, several with colons between:

    pip download --no-deps -d /tmp/wheels tensorrt-cu13-bindings onnxruntime-gpu cuda-bindings cuda-pathfinder
    for wheel in /tmp/wheels/*.whl; do python -m zipfile -e $wheel /tmp/unpacked; done
    KINOCHROME_WHEELS=/tmp/unpacked pytest tests/server/test_tensorrt_names.py
"""

import enum
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from . import bindings_names, fake_provider, fake_tensorrt
from .fake_cuda import FakeCuda

BINDINGS = Path("tensorrt_bindings") / "tensorrt.so"
RUNTIME = Path("cuda") / "bindings"
PROVIDER = Path("onnxruntime") / "capi" / "libonnxruntime_providers_tensorrt.so"


def _folders(file: Path) -> list[Path]:
    """Where that file of a wheel lies: among what is installed, and in what KINOCHROME_WHEELS names."""
    named = [Path(part) for part in os.environ.get("KINOCHROME_WHEELS", "").split(":") if part]
    installed = [Path(part) for part in sys.path if part]
    return [folder for folder in (*named, *installed) if (folder / file).exists()]


def _each(file: Path, wheel: str) -> pytest.MarkDecorator:
    """One test a folder that has the file, or one that says why it is skipped."""
    nowhere = pytest.param(
        None, marks=pytest.mark.skip(reason=f"{wheel} is neither installed nor in KINOCHROME_WHEELS")
    )
    return pytest.mark.parametrize("folder", _folders(file) or [nowhere])


@cache
def _bindings(folder: Path) -> dict[str, Any]:
    if shutil.which("cc") is None and importlib.util.find_spec("tensorrt_libs") is None:
        pytest.skip("to load the bindings without TensorRT's libraries takes a C compiler")
    command = [sys.executable, bindings_names.__file__, str(folder)]
    read: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return read


def _fakes(version: str) -> dict[str, type]:
    module = fake_tensorrt.module(fake_tensorrt.State(version, FakeCuda()))
    return {name: item for name, item in vars(module).items() if isinstance(item, type)}


@_each(BINDINGS, "tensorrt-cu13-bindings")
def test_tensorrt_has_every_name_with_those_arguments(folder: Path) -> None:
    bindings = _bindings(folder)
    compared = 0
    for name, fake in _fakes(bindings["version"]).items():
        real = bindings["classes"][name]
        for member, value in vars(fake).items():
            if member.startswith("_"):
                continue
            assert member in real, f"TensorRT {bindings['version']} has no {name}.{member}"
            if inspect.isfunction(value):
                wanted = [item for item in inspect.signature(value).parameters if item != "self"]
                assert _takes(real[member], member, wanted), f"{name}.{member}({wanted}) is not in:\n{real[member]}"
            compared += 1
    assert compared > 30


def _takes(doc: str, member: str, wanted: list[str]) -> bool:
    """Whether one of the signatures in a docstring of pybind11's can be called with those arguments by place."""
    for stated in re.findall(rf"{member}\(self: [\w.]+(.*)\) ->", doc):
        arguments = re.split(r", (?=\w+: )", stated)[1:]
        names = [argument.partition(":")[0] for argument in arguments]
        if names[: len(wanted)] == wanted and all(" = " in rest for rest in arguments[len(wanted) :]):
            return True
    return False


@_each(BINDINGS, "tensorrt-cu13-bindings")
def test_tensorrts_flags_have_the_numbers_of_the_fake(folder: Path) -> None:
    """Of which one moved between versions 10 and 11."""
    bindings = _bindings(folder)
    for name, fake in _fakes(bindings["version"]).items():
        if issubclass(fake, enum.IntEnum):
            for member in fake:
                assert bindings["flags"][f"{name}.{member.name}"] == member.value


@_each(RUNTIME, "cuda-bindings")
def test_cuda_has_every_name_with_that_many_arguments(folder: Path) -> None:
    asked = "from cuda.bindings import runtime; import json, sys; names = {}\n"
    asked += "for name in json.loads(sys.argv[1]):\n    names[name] = str(getattr(runtime, name).__doc__)\n"
    asked += "kinds = [list(kind.__members__) for kind in (runtime.cudaError_t, runtime.cudaMemcpyKind)]\n"
    asked += "properties = dir(runtime.cudaDeviceProp())\n"
    asked += "print(json.dumps([names, kinds, properties, int(runtime.cudaStreamNonBlocking)]))"
    functions = {name: value for name, value in vars(FakeCuda).items() if inspect.isfunction(value) and name[0] != "_"}
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", asked, json.dumps(list(functions))]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    docs, (errors, kinds), properties, non_blocking = json.loads(ran.stdout)
    for name, function in functions.items():
        stated = docs[name].splitlines()[0].partition("(")[2].rpartition(")")[0]
        wanted = len(inspect.signature(function).parameters) - 1
        assert len([part for part in stated.split(",") if part.strip()]) == wanted, docs[name].splitlines()[0]
    assert {item.name for item in FakeCuda.cudaError_t} <= {*errors}
    assert {item.name for item in FakeCuda.cudaMemcpyKind} <= {*kinds}
    assert {"name", "major", "minor", "multiProcessorCount"} <= {*properties}
    assert non_blocking == FakeCuda.cudaStreamNonBlocking


@_each(PROVIDER, "onnxruntime-gpu")
def test_onnx_runtime_has_every_option_of_the_provider(folder: Path) -> None:
    provider = (folder / PROVIDER).read_bytes()
    for name in (*fake_provider.SWITCHES, *fake_provider.TEXTS):
        assert b"\0" + name.encode() + b"\0" in provider, name
    (python,) = (folder / "onnxruntime" / "capi").glob("onnxruntime_pybind11_state*.so")
    read = python.read_bytes()
    for name in fake_provider.SWITCHES:
        assert f"The value for the key '{name}' should be 'True' or 'False'.".encode() in read
    assert b"Invalid TensorRT EP option: " in read, "an unknown one is refused"
    assert fake_provider.ENTRY.encode() in read
    assert b"\0getInferLibVersion\0" in provider, "so TensorRT's library has it"
    stem = fake_provider.TIMINGS.removesuffix("90.timing")
    assert stem.encode() in provider
