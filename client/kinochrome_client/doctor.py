"""What this machine can do: every line found by trying, none assumed."""

import importlib
import importlib.metadata
import os
import platform
import time
from dataclasses import dataclass
from typing import Literal

from kinochrome_proto.errors import KinochromeError

EXTRAS = {
    "server": ["av", "numpy", "opencv-python-headless", "onnxruntime"],
    "trainer": ["torch", "pillow", "safetensors"],
    "export": ["onnx", "onnxscript"],
}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    state: Literal["ok", "note", "fault"]
    what: str

    def line(self) -> str:
        return f"{self.state:>5}  {self.what}"


def examine() -> list[Finding]:
    """All findings, in reading order."""
    findings = [Finding("ok", f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores")]
    for extra, names in EXTRAS.items():
        found = {name: _version(name) for name in names}
        if "onnxruntime" in found:
            found["onnxruntime"] = found["onnxruntime"] or _version("onnxruntime-gpu")
        missing = [name for name, number in found.items() if number is None]
        if missing:
            findings.append(
                Finding("note", f"[{extra}] not installed ({', '.join(missing)}): pip install 'kinochrome[{extra}]'")
            )
        else:
            findings.append(
                Finding("ok", f"[{extra}] " + ", ".join(f"{name} {number}" for name, number in found.items()))
            )
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        findings.append(
            Finding("fault", "onnxruntime and onnxruntime-gpu overwrite each other: pip uninstall both, install one")
        )
    findings.append(_colouring())
    return findings


def _colouring() -> Finding:
    """Run the default colorizer on one picture."""
    try:
        colorizers = importlib.import_module("kinochrome_server.colorizers")
        engine_module = importlib.import_module("kinochrome_server.engine")
        numpy = importlib.import_module("numpy")
    except ImportError as error:
        return Finding(
            "fault", f"films cannot be coloured here ({error}): pip install 'kinochrome[server]', or use --server"
        )
    try:
        engine = engine_module.CpuEngine(colorizers.load())
        side = engine.manifest.size_multiple * max(1, engine.manifest.working_size // engine.manifest.size_multiple)
        picture = numpy.zeros((1, side, side), numpy.uint8)
        engine.run(picture)
        started = time.perf_counter()
        engine.run(picture)
        took = time.perf_counter() - started
    except KinochromeError as error:
        return Finding("fault", str(error))
    return Finding(
        "ok", f"engine {engine.name}: the default colorizer paints {side}x{side} in {took * 1000:.1f} ms on one core"
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
