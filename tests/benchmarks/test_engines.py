"""What benchmarks/engines.py counts, compares and draws."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from benchmarks import engines
from benchmarks.engines import Row
from benchmarks.graph_cost import multiply_adds
from benchmarks.torch_twin import twin
from onnx import TensorProto, helper, numpy_helper

from kinochrome_server import colorizers
from kinochrome_server.engines.cpu import CpuEngine
from kinochrome_server.engines.interface import EngineSettings
from kinochrome_trainer.layers import BatchNorm
from tests.export import made


def model(nodes: list[onnx.NodeProto], **weights: tuple[int, ...]) -> bytes:
    """Luma, as floats "x" (1, 1, H, W), through the nodes to "chroma"."""
    graph = helper.make_graph(
        [helper.make_node("Cast", ["luma"], ["x"], to=TensorProto.FLOAT), *nodes],
        "counted",
        [helper.make_tensor_value_info("luma", TensorProto.UINT8, [None, 1, None, None])],
        [helper.make_tensor_value_info("chroma", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    ).SerializeToString()
    return content


def test_a_convolution_is_counted_by_what_it_gives() -> None:
    strided = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    grouped = helper.make_node("Conv", ["y", "v"], ["chroma"], group=2)
    # (1, 8, 12) -> (6, 4, 6), each of 1 * 3 * 3; then two groups of 3 channels each -> (4, 4, 6), each of 3 * 1 * 1
    assert multiply_adds(model([strided, grouped], w=(6, 1, 3, 3), v=(4, 3, 1, 1)), 8, 12) == 6 * 4 * 6 * 9 + 4 * 24 * 3


def test_a_transposed_convolution_is_counted_by_what_it_takes() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["chroma"], strides=[2, 2])
    assert multiply_adds(model([node], w=(1, 5, 4, 4)), 8, 12) == 8 * 12 * 5 * 16


@pytest.mark.parametrize("turned", [0, 1])
def test_matrix_products_are_counted(turned: int) -> None:
    flat = helper.make_node("Flatten", ["x"], ["rows"], axis=3)  # (8, 12)
    product = helper.make_node("Gemm", ["rows", "w"], ["chroma"], transA=turned)
    other = helper.make_node("MatMul", ["rows", "w"], ["chroma"])
    inside = 8 if turned else 12
    assert multiply_adds(model([flat, product], w=(inside, 7)), 8, 12) == 8 * 12 * 7
    assert multiply_adds(model([flat, other], w=(12, 7)), 8, 12) == 8 * 12 * 7


@pytest.mark.parametrize("folded", [False, True])
def test_the_shipped_network_is_counted_and_is_that_of_its_recipe(folded: bool) -> None:
    quality = colorizers.load("quality")
    multiple = quality.manifest.size_multiple
    one, four = (multiply_adds(quality.content, side * multiple, side * multiple) for side in (2, 4))
    assert 3.9 < four / one < 4.01  # all but its global term grows with the picture
    engine = CpuEngine(quality, EngineSettings())
    expected = engines._expected(quality)
    network = twin(quality, expected, engines.TWIN_TOLERANCE, folded=folded)
    assert folded is not any(isinstance(module, BatchNorm) for module in network.modules())
    luma = np.random.default_rng(3).integers(0, 256, (2, 3 * multiple, 5 * multiple), np.uint8)
    with torch.inference_mode():
        painted = network(torch.from_numpy(luma[:, np.newaxis])).numpy()
    assert np.abs(painted - engine.run(luma)).max() < engines.TWIN_TOLERANCE


def test_a_network_with_other_numbers_is_no_twin() -> None:
    quality = colorizers.load("quality")
    expected = engines._expected(quality)
    with pytest.raises(ValueError, match="gives other numbers than the file"):
        twin(quality, lambda luma: expected(luma) + 0.001, engines.TWIN_TOLERANCE, folded=True)


def test_a_model_in_int8_is_timed_beside_what_it_was_made_from_and_nothing_else(tmp_path: Path) -> None:
    default, quality = colorizers.load(), colorizers.load("quality")
    assert default.manifest.precision == "int8"
    assert engines._network(default, "quality").sha256 == quality.sha256
    assert engines._network(quality, "nothing that is looked for") is quality
    made.write(made.made(), made.MANIFEST, tmp_path / "other.onnx")
    with pytest.raises(SystemExit, match=r"other\.onnx is not what .*default\.onnx was made from"):
        engines._network(default, str(tmp_path / "other.onnx"))


def test_rows_say_the_share_of_the_peak(tmp_path: Path) -> None:
    rows = [Row(name, 160, 224, batch, 10.0 / batch, 20.0 * batch, 0.25) for name in ("cpu", "x") for batch in (1, 2)]
    table = engines.table(rows, 80)
    assert "| cpu | 224x160 | 2 | 5.00 | 40.0 | 25% |" in table and table.startswith(
        "Peak, by matrix product: 80 GFLOP/s"
    )
    engines.plot(rows, 80, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "STARTS", 1)
    arguments = ["--rounds", "1", "--lines", "64", "--batches", "2", "--json", str(tmp_path / "e.json")]
    monkeypatch.setattr(sys, "argv", ["engines", *arguments])
    engines.main()
    report = json.loads((tmp_path / "e.json").read_text())
    assert {row["engine"] for row in report["rows"]} >= {"cpu", "cpu, int8", *engines.TORCH}
    assert report["start_s"]["cpu"] > 0
    for row in report["rows"]:
        assert math.isclose(row["share"], row["gflops"] / report["peak_gflops"])
        operations = 2 * multiply_adds(colorizers.load("quality").content, row["lines"], row["columns"])
        assert math.isclose(row["gflops"] * row["ms"] * 1e6, operations, rel_tol=1e-6)
