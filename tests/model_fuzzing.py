"""A fuzzer over colorizer files: mutated ones are given to child processes, and must be refused in a line, or paint.

Half of all mutations are sealed anew, so that what is behind the checksum meets them, ONNX Runtime included.
`python -m tests.model_fuzzing --count 10000` for a long run; `tests/test_model_fuzz.py` does shorter ones.
"""

import argparse
import contextlib
import json
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from kinochrome_proto import colorizer_file
from kinochrome_proto.errors import BadColorizer, KinochromeError
from tests.export import made
from tests.fuzzing import mutate

LONGEST_S = 30.0
"""Seconds that one small file may take: more is a hang."""
MEMORY = 4 << 30
"""Bytes of address space of a child."""
EXTREMES = (0, 1, -1, 2, 3, 7, 255, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))
ODD_FLOATS = (0.0, -1.0, 1e-45, 1e30, -1e30, float("inf"), float("-inf"), float("nan"))
OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas()})


@dataclass
class Tally:
    """What became of the files."""

    ends: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    """By the kind of mutation."""
    reached_runtime: int = 0
    """Files in whose bytes nothing is wrong."""
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def seeds() -> list[bytes]:
    """Sound files: the simplest two, and a small network of the operators that exported generators are made of."""
    found = []
    for noise_length, model in ((0, made.made()), (4, made.made(4)), (0, made.network())):
        manifest = made.manifest(noise_length)
        helper.set_model_props(model, manifest.to_metadata())
        found.append(colorizer_file.seal(model.SerializeToString()))
    return found


def body(content: bytes) -> bytes:
    """A sealed file without its seal."""
    return content[: len(content) - len(colorizer_file.seal(b""))]


def mutation(found: list[bytes], chance: random.Random) -> tuple[str, bytes]:
    """The kind of a mutation, and the file."""
    content = chance.choice(found)
    match chance.randrange(6):
        case 0:
            return "bytes", mutate(content, chance)
        case 1:
            return "bytes, sealed", colorizer_file.seal(mutate(body(content), chance))
        case 2:
            other, place = body(chance.choice(found)), chance.random()
            ours = body(content)
            spliced = ours[: int(place * len(ours))] + other[int(place * len(other)) :]
            return "splice, sealed", colorizer_file.seal(spliced)
        case _:
            model = onnx.load_model_from_string(content)
            model.metadata_props.pop()  # its seal
            for _ in range(chance.choice((1, 1, 1, 2, 4))):
                with contextlib.suppress(ValueError, IndexError, TypeError):  # after another it may not apply
                    chance.choice(CHANGES)(model, chance)
            return "fields, sealed", colorizer_file.seal(model.SerializeToString())


def change_weights(model: onnx.ModelProto, chance: random.Random) -> None:
    """Shape, type, values or name of one tensor."""
    tensor = chance.choice(model.graph.initializer)
    match chance.randrange(5):
        case 0:
            place = chance.randrange(len(tensor.dims) + 1)
            tensor.dims.insert(place, chance.choice(EXTREMES))
        case 1 if tensor.dims:
            tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(EXTREMES)
        case 2:
            tensor.data_type = chance.randrange(24)
        case 3:
            array = onnx.numpy_helper.to_array(tensor).copy()
            values = ODD_FLOATS if array.dtype.kind == "f" else [value for value in EXTREMES if abs(value) < 1 << 62]
            array.flat[chance.randrange(array.size)] = chance.choice(values)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        case _:
            tensor.name = chance.choice([other.name for other in model.graph.initializer])


def change_node(model: onnx.ModelProto, chance: random.Random) -> None:
    """Operator, edges or place of one node."""
    nodes = model.graph.node
    node = chance.choice(nodes)
    names = [name for other in nodes for name in (*other.input, *other.output)]
    match chance.randrange(8):
        case 0:
            node.op_type = chance.choice(OPERATORS)
        case 1 if node.input:
            node.input[chance.randrange(len(node.input))] = chance.choice(names)
        case 2 if node.input:
            node.input[chance.randrange(len(node.input))] = node.output[0] if node.output else ""
        case 3 if node.input:
            node.input.pop()
        case 4 if node.output:
            node.output[0] = chance.choice(names)
        case 5:
            nodes.remove(node)
        case 6:
            nodes.add().CopyFrom(node)
        case _:
            node.input.append(chance.choice(names))


def change_attribute(model: onnx.ModelProto, chance: random.Random) -> None:
    """Value, type or name of one attribute."""
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    attribute = chance.choice(attributes)
    match chance.randrange(6):
        case 0:
            attribute.i = chance.choice(EXTREMES)
        case 1 if attribute.ints:
            attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(EXTREMES)
        case 2:
            attribute.ints.append(chance.choice(EXTREMES))
        case 3:
            kinds: list[Any] = list(onnx.AttributeProto.AttributeType.values())
            attribute.type = chance.choice(kinds)
        case 4:
            attribute.f = chance.choice(ODD_FLOATS)
        case _:
            attribute.name = chance.choice([other.name for other in attributes])


def change_ends(model: onnx.ModelProto, chance: random.Random) -> None:
    """Shape, type or name of an input or output."""
    graph = model.graph
    item = chance.choice([*graph.input, *graph.output])
    tensor = item.type.tensor_type
    match chance.randrange(4):
        case 0:
            chance.choice(tensor.shape.dim).dim_value = chance.choice(EXTREMES)
        case 1:
            tensor.elem_type = chance.randrange(24)
        case 2:
            item.name = chance.choice([name for node in graph.node for name in node.output])
        case _:
            graph.value_info.add().CopyFrom(item)


def change_words(model: onnx.ModelProto, chance: random.Random) -> None:
    """What the file says of itself, and versions."""
    match chance.randrange(4):
        case 0:
            model.opset_import[0].version = chance.choice([*range(13, 22), *EXTREMES])
        case 1:
            model.ir_version = chance.choice([*range(3, 11), 0, 99])
        case _:
            entry = chance.choice(model.metadata_props)
            entry.value = chance.choice(
                ["1", "4", "8", "64", "1024", "null", "{}", '""', "1e9", str(chance.choice(EXTREMES))]
            )


Change = Callable[[onnx.ModelProto, random.Random], None]
CHANGES: tuple[Change, ...] = (
    change_weights,
    change_weights,
    change_node,
    change_node,
    change_node,
    change_attribute,
    change_attribute,
    change_ends,
    change_words,
)


class Child:
    """A process that tries files out, and the next when it dies."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.model_fuzzing", "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[1],
            text=True,
        )

    def try_out(self, file: Path) -> dict[str, Any]:
        """What became of a file: its `end`, and a `line`."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # what it says, nothing, tells that it is dead
            self._process.stdin.write(f"{file}\n")
            self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], LONGEST_S)
        said = self._process.stdout.readline() if ready else ""
        if said:
            told: dict[str, Any] = json.loads(said)
            return told
        self.end()
        code = self._process.returncode
        self._start()
        return {"end": "died" if ready else "hangs", "line": f"exit code {code}" if ready else ""}

    def end(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe:
                    pipe.close()
        self._process.wait()


def serve_files() -> None:
    """Of a child: try out the files that are named on its input."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from kinochrome_server import colorizers, verification

    for name in sys.stdin:
        said = {"end": "paints", "line": ""}
        try:
            verification.verify(colorizers.read(Path(name.rstrip("\n"))))
        except KinochromeError as error:
            said = {"end": type(error).__name__, "line": str(error)}
        except MemoryError:
            said = {"end": "MemoryError", "line": ""}
        except Exception as error:
            said = {"end": "fault", "line": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)


def run(count: int, seed: int, folder: Path, found: list[bytes] | None = None) -> Tally:
    """Try out `count` mutated files; each is the same for the same seed and number."""
    tally, child, found = Tally(), Child(), found or seeds()
    file = folder / "mutated.onnx"
    try:
        for number in range(count):
            chance = random.Random(seed * 1_000_003 + number)
            kind, content = mutation(found, chance)
            name = f"seed {seed} number {number} ({kind})"
            file.write_bytes(content)
            started = time.monotonic()
            said = child.try_out(file)
            tally.slowest_s = max(tally.slowest_s, time.monotonic() - started)
            tally.ends[said["end"]] += 1
            tally.reached_runtime += _passes(content)
            if said["end"] not in ("paints", "MemoryError"):
                tally.refusals[kind] += 1
            if said["end"] in ("died", "hangs", "fault") or "\n" in said["line"] or len(said["line"]) > 1000:
                tally.faults.append(f"{name}: {said['end']} {said['line']}")
    finally:
        child.end()
    return tally


def _passes(content: bytes) -> bool:
    try:
        colorizer_file.check(content, "mutated.onnx")
    except BadColorizer:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return serve_files()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        tally = run(asked.count, asked.seed, Path(folder))
    print(
        f"{asked.count} files in {time.monotonic() - begun:.0f} s: {dict(tally.ends)}, refused: {dict(tally.refusals)}"
    )
    print(f"{tally.reached_runtime} reached the runtime")
    print(f"slowest {tally.slowest_s:.1f} s, {len(tally.faults)} faults")
    print("\n".join(tally.faults))
    raise SystemExit(bool(tally.faults))


if __name__ == "__main__":
    main()
