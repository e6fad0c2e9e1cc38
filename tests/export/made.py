"""Small colorizer files made without training, or torch."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from kinochrome_proto import colorizer_file
from kinochrome_proto.manifest import Manifest

MANIFEST = Manifest(
    family="made",
    working_size=32,
    size_multiple=8,
    chroma_stride=4,
    chroma_encoding="ycbcr-bt601-full",
    licence="Apache-2.0",
    recipe={"trained_steps": 5},
)


def manifest(noise_length: int) -> Manifest:
    return dataclasses.replace(MANIFEST, noise_length=noise_length)


def make(file: Path, *, noise_length: int = 0, **changed: Any) -> Manifest:
    """A file that paints both chroma channels 0.1 times the luma, plus 0.1 times the mean of its noise.

    changed: what its metadata says otherwise.
    """
    model, manifest = made(noise_length), dataclasses.replace(MANIFEST, **{"noise_length": noise_length, **changed})
    write(model, manifest, file)
    return manifest


def write(model: onnx.ModelProto, manifest: Manifest, file: Path) -> None:
    """A colorizer file of a model, though nobody should read it."""
    helper.set_model_props(model, manifest.to_metadata())
    file.write_bytes(colorizer_file.seal(model.SerializeToString()))


def made(noise_length: int = 0) -> onnx.ModelProto:
    """The model of `make`, which says nothing of itself yet."""
    inputs = [helper.make_tensor_value_info("luma", TensorProto.UINT8, ["n", 1, "h", "w"])]
    nodes = [
        helper.make_node("Cast", ["luma"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("AveragePool", ["float"], ["small"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Concat", ["small", "small"], ["both"], axis=1),
        helper.make_node("Mul", ["both", "scale"], ["painted"]),
    ]
    constants = [helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1 / 255])]
    if noise_length:
        inputs.append(helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["n", noise_length]))
        nodes += [
            helper.make_node("ReduceMean", ["noise", "axis"], ["mean"], keepdims=1),
            helper.make_node("Mul", ["mean", "tenth"], ["shift"]),
            helper.make_node("Reshape", ["shift", "shape"], ["shaped"]),
            helper.make_node("Add", ["painted", "shaped"], ["chroma"]),
        ]
        constants += [
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("tenth", TensorProto.FLOAT, [], [0.1]),
            helper.make_tensor("shape", TensorProto.INT64, [4], [-1, 1, 1, 1]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["painted"], ["chroma"]))
    output = helper.make_tensor_value_info("chroma", TensorProto.FLOAT, ["n", 2, "h4", "w4"])
    graph = helper.make_graph(nodes, "made", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def network() -> onnx.ModelProto:
    """A small network of the operators that exported generators are made of; its weights are of chance."""
    chance = np.random.default_rng(0)
    constants: dict[str, npt.NDArray[Any]] = {
        "white": np.array(255, np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "first": chance.normal(0, 0.3, (8, 1, 3, 3)).astype(np.float32),
        "second": chance.normal(0, 0.1, (8, 8, 3, 3)).astype(np.float32),
        "up": chance.normal(0, 0.1, (8, 8, 2, 2)).astype(np.float32),
        "scene": chance.normal(0, 0.3, (8, 8)).astype(np.float32),
        "head": chance.normal(0, 0.1, (2, 16, 1, 1)).astype(np.float32),
        "eights": np.zeros(8, np.float32),
        "ones": np.ones(8, np.float32),
        "halves": np.array([1, 1, 0.5, 0.5], np.float32),
        "plane": np.array([2, 3]),
        "half": np.array(0.5, np.float32),
        "minus": np.array(-0.5, np.float32),
        "start": np.array([0]),
        "end": np.array([8]),
        "axis": np.array([1]),
    }
    nodes = [
        helper.make_node("Cast", ["luma"], ["codes"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["codes", "white"], ["gray"]),
        helper.make_node("Pad", ["gray", "pads"], ["padded"], mode="reflect"),
        helper.make_node("Conv", ["padded", "first", "eights"], ["c1"], strides=[2, 2], kernel_shape=[3, 3]),
        helper.make_node("InstanceNormalization", ["c1", "ones", "eights"], ["n1"], epsilon=1e-5),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "second"], ["c2"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("LeakyRelu", ["c2"], ["r2"], alpha=0.2),
        helper.make_node("ReduceMean", ["r2", "plane"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "scene"], ["mixed"], transB=1),
        helper.make_node("Unsqueeze", ["mixed", "plane"], ["shift"]),
        helper.make_node("Add", ["r2", "shift"], ["s2"]),
        helper.make_node("ConvTranspose", ["s2", "up"], ["u1"], strides=[2, 2], kernel_shape=[2, 2]),
        helper.make_node("Resize", ["u1", "", "halves"], ["d1"], mode="linear"),
        helper.make_node("Slice", ["s2", "start", "end", "axis"], ["part"]),
        helper.make_node("Concat", ["d1", "part"], ["both"], axis=1),
        helper.make_node("Shape", ["both"], ["size"]),
        helper.make_node("Reshape", ["both", "size"], ["same"]),
        helper.make_node("Transpose", ["same"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("Transpose", ["turned"], ["back"], perm=[0, 1, 3, 2]),
        helper.make_node("Conv", ["back", "head"], ["painted"], kernel_shape=[1, 1]),
        helper.make_node("Tanh", ["painted"], ["small"]),
        helper.make_node("Clip", ["small", "minus", "half"], ["chroma"]),
    ]
    luma = helper.make_tensor_value_info("luma", TensorProto.UINT8, ["n", 1, "h", "w"])
    chroma = helper.make_tensor_value_info("chroma", TensorProto.FLOAT, ["n", 2, "h4", "w4"])
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "network", [luma], [chroma], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
