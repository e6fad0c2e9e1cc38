"""Colorizer files: found, read, refused."""

from pathlib import Path

import numpy as np
import pytest

from kinochrome_proto.errors import BadColorizer, UnknownColorizer
from kinochrome_server import colorizers
from kinochrome_server.engines.cpu import CpuEngine
from kinochrome_server.engines.interface import EngineSettings


def test_the_default_ships_and_says_what_it_is() -> None:
    colorizer = colorizers.load()
    assert colorizer.name == "default"
    assert len(colorizer.sha256) == 64
    assert colorizer.manifest.licence
    assert colorizer.manifest.evaluation["ours"]["ab_error"] < colorizer.manifest.evaluation["gray"]["ab_error"]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_batch_gives_what_each_picture_gives_alone(count: int) -> None:
    engine = CpuEngine(colorizers.load(), EngineSettings())
    multiple = engine.manifest.size_multiple
    luma = np.random.default_rng(0).integers(0, 256, (count, 4 * multiple, 5 * multiple), dtype=np.uint8)
    together = engine.run(luma)
    stride = engine.manifest.chroma_stride
    assert together.shape == (count, 2, 4 * multiple // stride, 5 * multiple // stride)
    assert together.dtype == np.float32
    for index in range(count):
        assert np.abs(engine.run(luma[index : index + 1])[0] - together[index]).max() < 0.5 / 255


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(BadColorizer, match=r"text\.onnx is text, not an ONNX model"):
        colorizers.load(str(tmp_path / "text.onnx"))


def test_a_server_takes_no_files() -> None:
    path = str(colorizers.load().path)
    assert colorizers.load(path).name == "default"
    with pytest.raises(UnknownColorizer):
        colorizers.load(path, files=False)
