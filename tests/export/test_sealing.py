"""Writing colorizer files, and bringing those of the first format version to this one."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from kinochrome_export import sealing
from kinochrome_proto import colorizer_file
from kinochrome_proto.errors import BadColorizer
from kinochrome_server import colorizers, verification
from kinochrome_server.engines.cpu import CpuEngine
from kinochrome_server.engines.interface import EngineSettings
from tests.export import made


def of_version_1(file: Path) -> onnx.ModelProto:
    """A file as the first format version had them: unsealed, with the exporter's notes in it."""
    model = made.network()
    said = made.MANIFEST.to_metadata() | {"kinochrome.format_version": "1"}
    helper.set_model_props(model, {key: value for key, value in said.items() if "precision" not in key})
    for node in model.graph.node:
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value='File "/home/me/graph.py", line 18')
    model.graph.doc_string = "made in /home/me"
    onnx.save(model, file)
    return model


def test_an_old_file_is_renewed_with_its_numbers_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "old.onnx"
    before = of_version_1(file)
    with pytest.raises(BadColorizer, match="has format version 1, this program reads 2"):
        colorizer_file.read(file)
    manifest = sealing.renew(file)
    assert [entry.name for entry in tmp_path.iterdir()] == ["old.onnx"]
    colorizer = colorizers.load(str(file))
    assert colorizer.manifest == manifest
    assert dataclasses.replace(manifest, parity={}) == made.MANIFEST
    after = onnx.load(file)
    assert list(after.graph.initializer) == list(before.graph.initializer)
    assert [node.op_type for node in after.graph.node] == [node.op_type for node in before.graph.node]
    assert b"/home/me" not in colorizer.content
    engine = CpuEngine(colorizer, EngineSettings())
    luma = np.random.default_rng(0).integers(0, 256, (2, 16, 24), dtype=np.uint8)
    session = onnxruntime.InferenceSession(before.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(engine.run(luma), session.run(None, {"luma": luma[:, None]})[0])
    found = verification.verify(colorizer)
    assert found.from_probe == 0 and found.painted_by.startswith("onnxruntime ")
    with pytest.raises(BadColorizer, match="is no colorizer file of format version 1: there is nothing to renew"):
        sealing.renew(file)


def test_what_a_reader_would_refuse_is_not_written(tmp_path: Path) -> None:
    model = made.made()
    model.graph.node[0].op_type = "RandomNormalLike"
    del model.graph.node[0].attribute[:]
    with pytest.raises(BadColorizer, match="uses RandomNormalLike"):
        sealing.write(model, made.MANIFEST, tmp_path / "m.onnx")
    with pytest.raises(BadColorizer, match=r"text\.onnx is no ONNX model"):
        (tmp_path / "text.onnx").write_text("text")
        sealing.renew(tmp_path / "text.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["text.onnx"]


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        sealing.write(made.network(), made.MANIFEST, tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
