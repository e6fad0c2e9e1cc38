"""Colorizer files as painters."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kinochrome_export import exported
from kinochrome_proto.errors import BadColorizer, KinochromeError
from kinochrome_server import colorizers
from kinochrome_server.engines.cpu import CpuEngine
from kinochrome_server.engines.interface import EngineSettings
from kinochrome_trainer import metrics
from tests.export import made


def test_a_file_paints_as_it_does_in_the_server() -> None:
    colorizer = colorizers.load()
    painter = exported.load(colorizer.path)
    assert painter.size_multiple == colorizer.manifest.size_multiple and painter.noise_length == 0
    shape = 2, 4 * painter.size_multiple, 3 * painter.size_multiple
    luma = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    painted = painter.paint(torch.from_numpy(luma).unsqueeze(1).float() / 255)
    assert np.abs(painted.numpy() - CpuEngine(colorizer, EngineSettings()).run(luma)).max() < 1e-4
    everywhere = metrics.paint(painter, torch.rand(1, 1, 50, 70), 64)
    assert everywhere.shape == (1, 2, 50, 70)


def test_noise_reaches_a_stochastic_file(tmp_path: Path) -> None:
    made.make(tmp_path / "m.onnx", noise_length=4)
    painter = exported.load(tmp_path / "m.onnx")
    luma = torch.full((2, 1, 16, 24), 0.5)
    plain = painter.paint(luma)
    assert plain.shape == (2, 2, 4, 6) and plain[0, 0, 0, 0].item() == pytest.approx(0.1 * 128 / 255, abs=1e-5)
    shifted = painter.paint(luma, torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]]))
    assert torch.allclose(shifted[0], plain[0] + 0.1, atol=1e-6) and torch.equal(shifted[1], plain[1])
    drawn = metrics.noise(painter, 1)
    engine = CpuEngine(colorizers.load(str(tmp_path / "m.onnx")), EngineSettings(seed=1))
    server = engine.run(np.full((1, 16, 24), 128, np.uint8))
    assert np.allclose(painter.paint(luma[:1], drawn).numpy(), server, atol=1e-6)


def test_files_that_are_no_colorizers_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    made.make(tmp_path / "wrong.onnx", noise_length=0)
    content = bytearray((tmp_path / "wrong.onnx").read_bytes())
    content[100] ^= 1
    (tmp_path / "wrong.onnx").write_bytes(content)
    broken = made.made()
    broken.graph.node[2].input[0] = "nothing"
    made.write(broken, made.MANIFEST, tmp_path / "broken.onnx")
    for name, words in {
        "none.onnx": "cannot be read",
        "text.onnx": "is text, not an ONNX model",
        "wrong.onnx": "its checksum does not match",
        "broken.onnx": "cannot be loaded as an ONNX model",
    }.items():
        with pytest.raises(KinochromeError, match=words) as caught:
            exported.load(tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)
        assert name == "none.onnx" or isinstance(caught.value, BadColorizer)
