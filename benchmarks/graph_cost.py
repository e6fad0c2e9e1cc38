"""What a colorizer's graph costs: its multiplications, counted from the shapes that its tensors really have."""

import math

import numpy as np
import onnx
import onnxruntime

from kinochrome_proto.manifest import LUMA, NOISE

COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def multiply_adds(content: bytes, height: int, width: int) -> int:
    """Multiply-adds of one picture: of convolutions and matrix products; all else is small beside them.

    The graph is run once with every tensor of such an operator as an output, so shapes need not be inferred. What a
    transposed convolution crops is counted.

    Args:
        content: of the .onnx file.
        height, width: of the luma.
    """
    model = onnx.load_from_string(content)
    nodes = [node for node in model.graph.node if node.op_type in COUNTED]
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    wanted = {name for node in nodes for name in (*node.input[:2], *node.output)} - shapes.keys()
    given = {item.name: item for item in model.graph.input}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted - given.keys()))
    options = onnxruntime.SessionOptions()
    # Fused away, a tensor would have no shape to tell.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        LUMA: np.zeros((1, 1, height, width), np.uint8)
    }
    if NOISE in given:
        length = given[NOISE].type.tensor_type.shape.dim[1].dim_value
        feed[NOISE] = np.zeros((1, length), np.float32)
    names = [item.name for item in session.get_outputs()]
    shapes |= {name: value.shape for name, value in zip(names, session.run(names, feed), strict=True)}
    return sum(_of_node(node, shapes) for node in nodes)


def _of_node(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    first, second, out = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    match node.op_type:
        case "Conv":  # weight (M, C / groups, kernel...): each number of the output takes C / groups * kernel
            return math.prod(out) * math.prod(second[1:])
        case "ConvTranspose":  # weight (C, M / groups, kernel...): each number of the input goes to M / groups * kernel
            return math.prod(first) * math.prod(second[1:])
        case "Gemm":
            turned = any(item.name == "transA" and item.i for item in node.attribute)
            return math.prod(out) * first[0 if turned else 1]
        case _:  # MatMul
            return math.prod(out) * first[-1]
