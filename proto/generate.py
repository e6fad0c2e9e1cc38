"""Generates the committed stubs from the .proto files: `python -m proto.generate`, with --check only compares."""

import os
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
MESSAGES, CALLS = ("python", "mypy"), ("grpc_python", "mypy_grpc")
PLUGINS = {
    Path("kinochrome_proto/kinochrome/v1/colorizer.proto"): (*MESSAGES, *CALLS),
    Path("kinochrome_proto/kinochrome/onnx/v1/model.proto"): MESSAGES,
}
ENDINGS = {"python": "_pb2.py", "mypy": "_pb2.pyi", "grpc_python": "_pb2_grpc.py", "mypy_grpc": "_pb2_grpc.pyi"}


def generate(target: Path) -> None:
    """Write the stubs under `target`."""
    # protoc looks for its plugins on PATH; they lie beside this interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for proto, kinds in PLUGINS.items():
        outputs = [f"--{kind}_out={'quiet:' if 'mypy' in kind else ''}{target}" for kind in kinds]
        if protoc.main(["protoc", f"-I{ROOT}", *outputs, str(ROOT / proto)]):
            sys.exit("stubs: protoc failed")


def main() -> None:
    if "--check" not in sys.argv[1:]:
        return generate(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        outputs = [proto.with_name(proto.stem + ENDINGS[kind]) for proto, kinds in PLUGINS.items() for kind in kinds]
        stale = [
            file.name
            for file in outputs
            if not (ROOT / file).exists() or (ROOT / file).read_bytes() != (Path(folder) / file).read_bytes()
        ]
    if stale:
        sys.exit(f"stubs: {', '.join(stale)} do not match the .proto: run make stubs")
    print("stubs: up to date")


if __name__ == "__main__":
    main()
