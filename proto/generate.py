"""Generates the committed stubs from the .proto: `python -m proto.generate`, with --check only compares."""

import os
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
PROTO = Path("kinochrome_proto/kinochrome/v1/colorizer.proto")
OUTPUTS = ("colorizer_pb2.py", "colorizer_pb2.pyi", "colorizer_pb2_grpc.py", "colorizer_pb2_grpc.pyi")


def generate(target: Path) -> None:
    """Write the stubs under `target`."""
    # protoc looks for its plugins on PATH; they lie beside this interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kinds = ("python", "grpc_python", "mypy", "mypy_grpc")
    outputs = [f"--{kind}_out={'quiet:' if 'mypy' in kind else ''}{target}" for kind in kinds]
    if protoc.main(["protoc", f"-I{ROOT}", *outputs, str(ROOT / PROTO)]):
        sys.exit("stubs: protoc failed")


def main() -> None:
    if "--check" not in sys.argv[1:]:
        return generate(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        stale = [
            name
            for name in OUTPUTS
            if (ROOT / PROTO.with_name(name)).read_bytes() != (Path(folder) / PROTO.with_name(name)).read_bytes()
        ]
    if stale:
        sys.exit(f"stubs: {', '.join(stale)} do not match the .proto: run make stubs")
    print("stubs: up to date")


if __name__ == "__main__":
    main()
