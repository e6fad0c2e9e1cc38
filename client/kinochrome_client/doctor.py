"""What this machine can do: every line found by trying, none assumed."""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kinochrome_proto.errors import KinochromeError

EXTRAS = {
    "server": ["av", "numpy", "opencv-python-headless", "onnxruntime"],
    "trainer": ["torch", "pillow", "safetensors"],
    "export": ["onnx", "onnxscript"],
}
TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
"""Distributions that bring TensorRT; the last two say for which CUDA."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    state: Literal["ok", "note", "warn", "fault"]
    """It works; it is not there; it is there and does not work; without it nothing does."""
    what: str

    def line(self) -> str:
        return f"{self.state:>5}  {self.what}"


def examine() -> list[Finding]:
    """All findings, in reading order."""
    return [
        Finding("ok", f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores"),
        *_extras(),
        *_packages(),
        *_engines(),
        *_confinement(),
    ]


def _extras() -> Iterator[Finding]:
    for extra, names in EXTRAS.items():
        found = {name: _version(name) for name in names}
        if "onnxruntime" in found:
            found["onnxruntime"] = found["onnxruntime"] or _version("onnxruntime-gpu")
        missing = [name for name, number in found.items() if number is None]
        if missing:
            yield Finding("note", f"[{extra}] not installed ({', '.join(missing)}): pip install 'kinochrome[{extra}]'")
        else:
            yield Finding("ok", f"[{extra}] " + ", ".join(f"{name} {number}" for name, number in found.items()))


def _packages() -> Iterator[Finding]:
    """What does not go together."""
    if _version("onnxruntime") and (gpu := _version("onnxruntime-gpu")):
        yield Finding(
            "fault",
            f"onnxruntime {_version('onnxruntime')} and onnxruntime-gpu {gpu} overwrite each other: "
            "pip uninstall both, install one",
        )
    built_for = _tensorrt_of_onnxruntime()
    for name in TENSORRT:
        number = _version(name)
        if number and built_for and int(number.partition(".")[0]) != built_for:
            yield Finding(
                "warn",
                f"{name} {number} beside onnxruntime-gpu {_version('onnxruntime-gpu')}, which is built for TensorRT "
                f"{built_for}: --engine tensorrt cannot work; pip install '{name}=={built_for}.*', "
                "or use --engine tensorrt-native",
            )


def _tensorrt_of_onnxruntime() -> int | None:
    """Major version of the TensorRT that the installed ONNX Runtime links to; None where it links to none."""
    if _version("onnxruntime-gpu") is None or (found := importlib.util.find_spec("onnxruntime")) is None:
        return None
    for folder in found.submodule_search_locations or ():
        provider = Path(folder, "capi", "libonnxruntime_providers_tensorrt.so")
        if provider.exists() and (linked := re.search(rb"libnvinfer\.so\.(\d+)\0", provider.read_bytes())):
            return int(linked[1])
    return None


def _engines() -> Iterator[Finding]:
    """Each engine, tried on the default colorizer."""
    try:
        choice = importlib.import_module("kinochrome_server.engines.choice")
        interface = importlib.import_module("kinochrome_server.engines.interface")
        colorizer = importlib.import_module("kinochrome_server.colorizers").load()
    except ImportError as error:
        yield Finding(
            "fault", f"films cannot be coloured here ({error}): pip install 'kinochrome[server]', or use --server"
        )
        return
    except KinochromeError as error:
        yield Finding("fault", str(error))
        return
    usable = []
    for word, kind in choice.ENGINES.items():
        try:
            engine = choice.choose(word, colorizer, interface.EngineSettings())
            took = _milliseconds(engine, choice.picture(colorizer.manifest))
        except (KinochromeError, MemoryError) as error:
            state: Literal["note", "warn", "fault"] = "warn" if choice.should_work(word) else "note"
            yield Finding(state if kind.needs else "fault", str(error) or f"--engine {word}: not enough memory")
            continue
        usable.append(word)
        height, width = choice.picture(colorizer.manifest).shape[1:]
        yield Finding(
            "ok", f"engine {choice.described(word)}: the default colorizer paints {width}x{height} in {took:.1f} ms"
        )
    if usable:
        yield Finding("ok", f"--engine auto takes {usable[0]}")


def _confinement() -> Iterator[Finding]:
    """What this system enforces on processes that handle films."""
    if _version("av") is None:
        return  # none are handled here
    try:
        sandbox = importlib.import_module("kinochrome_server.sandbox")
        held = sandbox.told()
    except (ImportError, OSError, ValueError, subprocess.SubprocessError) as error:
        yield Finding("warn", f"films are handled unconfined: {error}")
        return
    remedy = "" if held.processes else "; install libseccomp (apt install libseccomp2)"
    yield Finding("warn" if held.missing else "ok", f"films are handled with {held.words()}{remedy}")


def _milliseconds(engine: Any, picture: Any) -> float:
    """For one picture, the engine being warm."""
    engine.run(picture)
    started = time.perf_counter()
    engine.run(picture)
    return 1000 * (time.perf_counter() - started)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
