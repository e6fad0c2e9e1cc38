"""Small colorizer files made without training."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from kinochrome_proto.manifest import Manifest


def make(file: Path, *, noise_length: int = 0, states_noise: int | None = None) -> Manifest:
    """A file that paints both chroma channels 0.1 times the luma, plus 0.1 times the mean of its noise.

    states_noise: what its metadata says of the length of the noise, where that is to be wrong.
    """
    manifest = Manifest(
        family="made",
        working_size=32,
        size_multiple=8,
        chroma_stride=4,
        chroma_encoding="ycbcr-bt601-full",
        licence="Apache-2.0",
        noise_length=noise_length if states_noise is None else states_noise,
        recipe={"trained_steps": 5},
    )
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
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.helper.set_model_props(model, manifest.to_metadata())
    onnx.save(model, file)
    return manifest
