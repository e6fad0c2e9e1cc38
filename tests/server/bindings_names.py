"""Prints what NVIDIA's bindings of TensorRT offer, as JSON: `python bindings_names.py FOLDER`.

FOLDER holds the unpacked wheel tensorrt_cu13_bindings (or _cu12_). The bindings want TensorRT's libraries only to start
builders and runtimes; where these are missing, empty ones are made with the C compiler: names and signatures need no
more.
"""

import ctypes
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


def main(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    major = re.search(rb"libnvinfer\.so\.(\d+)", (folder / "tensorrt_bindings" / "tensorrt.so").read_bytes())
    assert major is not None
    try:
        ctypes.CDLL(f"libnvinfer.so.{major[1].decode()}")
    except OSError:
        _load_empty(major[1].decode())
    bindings = __import__("tensorrt_bindings")
    found = {
        name: {member: str(getattr(value, member, None).__doc__) for member in dir(value) if member[0] != "_"}
        for name, value in vars(bindings).items()
        if isinstance(value, type)
    }
    flags = {
        f"{name}.{member}": int(value)
        for name in ("NetworkDefinitionCreationFlag", "BuilderFlag")
        for member, value in getattr(bindings, name).__members__.items()
    }
    print(json.dumps({"version": bindings.__version__, "classes": found, "flags": flags}))


def _load_empty(major: str) -> None:
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS)
    with tempfile.TemporaryDirectory() as made:
        for name in LIBRARIES:
            file = f"{made}/lib{name}.so.{major}"
            soname = f"-Wl,-soname,lib{name}.so.{major}"
            command = ["cc", "-shared", "-fPIC", soname, "-o", file, "-x", "c", "-"]
            subprocess.run(command, input=source, text=True, check=True)
            ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
