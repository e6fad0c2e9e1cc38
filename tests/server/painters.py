"""Colorizer files whose colours are known."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from kinochrome_proto import colorizer_file
from kinochrome_proto.manifest import Manifest


def built(folder: Path, name: str, nodes: list[Any], constants: dict[str, npt.NDArray[Any]], noise: int = 0) -> str:
    """A colorizer file whose graph has these nodes, from `gray`: luma of (N, 1, h, w) in 0..1, at a quarter."""
    inputs = [helper.make_tensor_value_info("luma", TensorProto.UINT8, ["N", 1, "H", "W"])]
    if noise:
        inputs.append(helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["N", noise]))
    output = helper.make_tensor_value_info("chroma", TensorProto.FLOAT, ["N", 2, "h", "w"])
    first = [
        helper.make_node("Cast", ["luma"], ["codes"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["codes", "white"], ["fine"]),
        helper.make_node("AveragePool", ["fine"], ["gray"], kernel_shape=[4, 4], strides=[4, 4]),
    ]
    constants = {"white": np.array(255, np.float32), **constants}
    graph = helper.make_graph(
        [*first, *nodes],
        name,
        inputs,
        [output],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    manifest = Manifest("test", 64, 16, 4, "ycbcr-bt601-full", "Apache-2.0", noise_length=noise)
    helper.set_model_props(model, manifest.to_metadata())
    (folder / f"{name}.onnx").write_bytes(colorizer_file.seal(model.SerializeToString()))
    return str(folder / f"{name}.onnx")


def stochastic(folder: Path) -> str:
    """Paints everything in one colour, which its noise chooses, and a little by luma."""
    mixing = np.random.default_rng(2).uniform(-0.2, 0.2, (8, 2)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["noise", "mixing"], ["mixed"]),
        helper.make_node("Unsqueeze", ["mixed", "axes"], ["hue"]),
        helper.make_node("Mul", ["gray", "hue"], ["strong"]),
        helper.make_node("Clip", ["strong", "low", "high"], ["chroma"]),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "mixing": mixing,
        "axes": np.array([2, 3], np.int64),
        "low": np.array(-0.4, np.float32),
        "high": np.array(0.4, np.float32),
    }
    return built(folder, "stochastic", nodes, constants, noise=8)


def by_luma(folder: Path) -> str:
    """Paints what is bright blue and what is dark red."""
    nodes = [
        helper.make_node("Sub", ["gray", "middle"], ["signed"]),
        helper.make_node("Mul", ["signed", "strength"], ["chroma"]),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "middle": np.array(0.5, np.float32),
        "strength": np.array([0.6, -0.6], np.float32).reshape(1, 2, 1, 1),
    }
    return built(folder, "by_luma", nodes, constants)
