"""Colorizer files, read by their bytes: each fault has its own line, and no runtime is asked."""

import io
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from kinochrome_proto import colorizer_file
from kinochrome_proto.errors import BadColorizer, UnknownColorizer
from kinochrome_proto.graph_check import MAX_OPSET
from tests.export import made

FILE = Path("mine.onnx")


def sealed(change: Callable[[onnx.ModelProto], object] = lambda model: None, noise_length: int = 0) -> bytes:
    """A sound colorizer file but for what `change` does to its model before it is sealed."""
    model = made.made(noise_length)
    helper.set_model_props(model, made.MANIFEST.to_metadata() | {"kinochrome.noise_length": str(noise_length)})
    change(model)
    return colorizer_file.seal(model.SerializeToString())


def refused(content: bytes) -> str:
    """The line with which it is refused."""
    with pytest.raises(BadColorizer) as caught:
        colorizer_file.check(content, str(FILE))
    line = str(caught.value)
    assert line.startswith("mine.onnx") and "\n" not in line and len(line) < 400, line
    return line


@pytest.mark.parametrize("noise_length", [0, 4])
def test_a_sound_file_is_read(noise_length: int, tmp_path: Path) -> None:
    manifest = made.make(tmp_path / FILE, noise_length=noise_length)
    colorizer = colorizer_file.read(tmp_path / FILE)
    assert colorizer.manifest == manifest and colorizer.name == "mine"
    assert colorizer.content == (tmp_path / FILE).read_bytes()
    onnx.checker.check_model(onnx.load_model_from_string(colorizer.content), full_check=True)  # it is plain ONNX still


def test_reading_asks_no_runtime() -> None:
    assert "onnxruntime" not in vars(colorizer_file) and "onnxruntime" not in vars(sys.modules["kinochrome_proto"])


def torch_checkpoint() -> bytes:
    """How one begins: torch.save writes a zip archive."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        return file.getvalue()


STRANGERS = {
    "empty": (b"", "is empty, not an ONNX model: make a colorizer with `kinochrome export`"),
    "JPEG": (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(100), "is a JPEG picture, not an ONNX model"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(100), "is a PNG picture, not"),
    "torch": (torch_checkpoint(), r"is a zip archive (a PyTorch checkpoint, perhaps), not"),
    "old torch": (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "is a Python pickle (a PyTorch checkpoint, perhaps), not",
    ),
    "safetensors": (b"\x08\x01\0\0\0\0\0\0" + b'{"a":{}}', "is a safetensors file, not"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(20), "is a gzip archive, not"),
    "text": (b"not a model\n", "is text, not"),
    "noise": (bytes(range(150, 250)), "is something else, not"),
    "ORT's own": (b"\x08\x0a\x12\x04ORTM" + bytes(80), "is in ONNX Runtime's own format, not"),
    "no protobuf": (b"\x08" + b"\xff" * 200, "is damaged, or no ONNX model: it cannot be parsed"),
    "other ONNX": (
        made.made().SerializeToString(),
        "is an ONNX model but no colorizer: make one with `kinochrome export`",
    ),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_other_files_are_refused_by_what_they_are(name: str) -> None:
    content, words = STRANGERS[name]
    assert words in refused(content)


def test_whatever_changes_in_a_file_shows() -> None:
    content = sealed()
    assert colorizer_file.check(content, "f").family == "made"
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        refused(bytes(damaged))
    for length in range(1, len(content), 5):
        refused(content[:length])
    assert "lacks its checksum: it is cut off or was changed" in refused(content + b"\x12\x60" + b"x" * 0x60)
    body = made.made()
    helper.set_model_props(body, made.MANIFEST.to_metadata())
    assert "lacks its checksum" in refused(body.SerializeToString())
    middle = content.index(b"AveragePool")
    changed = content[:middle] + b"MaximumPool" + content[middle + 11 :]
    assert "is damaged or was changed: its checksum does not match" in refused(changed)


def weights(model: onnx.ModelProto) -> onnx.TensorProto:
    tensor: onnx.TensorProto = model.graph.initializer[0]
    return tensor


def outside(model: onnx.ModelProto) -> None:
    """Weights that lie in another file, as ONNX allows."""
    tensor = weights(model)
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def outside_in_a_constant(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("c", TensorProto.FLOAT, [1], [1.0])
    tensor.external_data.add(key="location", value="beside.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def branching(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["luma"], ["x"])], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["luma"], ["y"], then_branch=inner, else_branch=inner))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().dims.append(4)


def set_size(model: onnx.ModelProto, item: str, place: int, size: int) -> None:
    values = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    values[item].type.tensor_type.shape.dim[place].dim_value = size


FAULTS: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "weights outside": (outside, "its weights 'scale' lie in another file, which is never opened"),
    "a constant outside": (outside_in_a_constant, "its weights 'c' lie in another file, which is never opened"),
    "a new opset": (
        lambda model: setattr(model.opset_import[0], "version", MAX_OPSET + 1),
        f"operators of version {MAX_OPSET + 1}, this program reads up to {MAX_OPSET}",
    ),
    "an old opset": (
        lambda model: setattr(model.opset_import[0], "version", 9),
        "operators of version 9, this program",
    ),
    "two opsets": (lambda model: model.opset_import.add(version=20), "states 2 versions of ONNX's operators"),
    "a new format": (lambda model: setattr(model, "ir_version", 99), "is in version 99 of the ONNX format"),
    "a library": (lambda model: model.opset_import.add(domain="com.evil", version=1), "needs operators of 'com.evil'"),
    "an operator of others": (
        lambda model: setattr(model.graph.node[0], "domain", "com.microsoft"),
        "uses 'Cast' of 'com.microsoft': colorizers use ONNX's own operators alone",
    ),
    "a function": (lambda model: model.functions.add(name="f"), "holds functions or training graphs"),
    "training": (lambda model: model.training_info.add(), "holds functions or training graphs"),
    "a branch": (branching, "holds a graph in a graph, of 'If': colorizers neither branch nor loop"),
    "chance": (
        lambda model: setattr(model.graph.node[0], "op_type", "RandomNormalLike"),
        "uses RandomNormalLike: chance",
    ),
    "sparse weights": (sparse, "holds sparse weights"),
    "no operators": (lambda model: model.graph.ClearField("node"), "has 0 operators"),
    "weights of texts": (lambda model: setattr(weights(model), "data_type", 8), "has elements of type 8"),
    "a negative shape": (lambda model: weights(model).dims.append(-4), "'scale' has an impossible shape"),
    "a huge shape": (
        lambda model: weights(model).dims.append(1 << 50),
        f"'scale' should have {1 << 50} elements and has 1: it is damaged",
    ),
    "broken bytes": (
        lambda model: setattr(weights(model), "raw_data", b"123"),
        "'scale' should have 1 elements and has 0",
    ),
    "another input": (lambda model: setattr(model.graph.input[0], "name", "x"), "takes x and gives chroma; by its"),
    "no output": (lambda model: model.graph.ClearField("output"), "takes luma and gives nothing; by its metadata"),
    "luma of floats": (
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT),
        "luma should be (any, 1, any, any) of uint8 and is not",
    ),
    "one batch only": (lambda model: set_size(model, "luma", 0, 1), "luma should be (any, 1, any, any) of uint8"),
    "three planes": (lambda model: set_size(model, "chroma", 1, 3), "chroma should be (any, 2, any, any) of float32"),
    "no shape": (
        lambda model: model.graph.output[0].type.tensor_type.ClearField("shape"),
        "chroma should be (any, 2, any, any) of float32 and is not",
    ),
    "an input that is a list": (lambda model: model.graph.input[0].type.sequence_type.SetInParent(), "luma should be"),
    "things said twice": (
        lambda model: model.metadata_props.add(key="kinochrome.licence", value='"other"'),
        "its metadata is damaged, it says things twice",
    ),
    "another version": (
        lambda model: helper.set_model_props(model, made.MANIFEST.to_metadata() | {"kinochrome.format_version": "7"}),
        "has format version 7, this program reads 2",
    ),
    "noise that nobody takes": (
        lambda model: helper.set_model_props(model, made.MANIFEST.to_metadata() | {"kinochrome.noise_length": "4"}),
        "takes luma and gives chroma; by its metadata it should take luma, noise",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_graphs_that_are_no_straight_run_from_luma_to_chroma_are_refused(name: str) -> None:
    change, words = FAULTS[name]
    assert words in refused(sealed(change))


def test_noise_of_another_length_is_refused() -> None:
    content = sealed(lambda model: set_size(model, "noise", 1, 5), noise_length=4)
    assert "noise should be (any, 4) of float32 and is not" in refused(content)


def test_names_that_are_no_text_are_refused() -> None:
    content = sealed()
    assert refused(colorizer_file.seal(content.replace(b"AveragePool", b"\xff" * 11))).endswith("it cannot be parsed")


def test_huge_files_are_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / FILE).open("wb") as file:
        file.write(b"\x08\x0a")
        os.truncate(file.fileno(), 1 << 40)  # a hole: it takes no space
    monkeypatch.setattr(colorizer_file, "MAX_BYTES", 5 << 20)
    with pytest.raises(BadColorizer, match=r"mine\.onnx has over 5 MiB, more than any colorizer"):
        colorizer_file.read(tmp_path / FILE)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for name, words in {"pipe.onnx": "it is not a file", "none.onnx": "No such file"}.items():
        with pytest.raises(UnknownColorizer, match=words):
            colorizer_file.read(tmp_path / name)
    with pytest.raises(UnknownColorizer, match="it is not a file"):
        colorizer_file.read(tmp_path)
