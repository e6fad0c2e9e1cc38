"""fp32 → fp16: weights and values between operators in half precision, normalisation in fp32.

The types are explicit in the graph, so runtimes that build it strongly typed (TensorRT 10 and 11) need no flag.
"""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes import common as passes
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from kinochrome_proto.errors import BadColorizer

LARGEST = 65504.0
"""The largest number that fp16 holds."""
KEPT_IN_FP32 = {
    *("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"),
    *("LpNormalization", "MeanVarianceNormalization", "Softmax", "LogSoftmax"),
    *("GlobalAveragePool", "GlobalLpPool", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceProd"),
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
}
"""Operators that sum over many values: their sums would overflow, or swallow what is added last."""


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in fp16; its inputs and output keep their types.

    Raises BadColorizer when a weight is too large for fp16.
    """
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            largest = float(np.abs(numpy_helper.to_array(tensor)).max(initial=0))
            if not largest <= LARGEST:  # also catches NaN
                raise BadColorizer(
                    f"weight {tensor.name} reaches {largest:.3g}, fp16 ends at {LARGEST:.0f}: keep it in fp32"
                )
    plain = onnx.ModelProto()
    plain.CopyFrom(model)  # the converter writes into what it is given
    del plain.graph.value_info[:]  # it infers them anew, and takes those of weights for those of values
    blocked = [*KEPT_IN_FP32, *DEFAULT_OP_BLOCK_LIST]
    converted = convert_float_to_float16(plain, keep_io_types=True, op_block_list=blocked)
    # It casts a value anew, under the same name, for each operator in fp32 that takes it.
    once = {node.output[0]: node for node in converted.graph.node}
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in once.values()]
    del converted.graph.node[:]
    converted.graph.node.extend(nodes)
    half = onnx_ir.from_proto(converted)
    _straighten(half)
    for tidy in (
        passes.LiftConstantsToInitializersPass(),
        passes.RemoveUnusedNodesPass(),
        passes.TopologicalSortPass(),
    ):
        tidy(half)
    tidied: onnx.ModelProto = onnx_ir.to_proto(half)
    onnx.checker.check_model(tidied, full_check=True)
    return tidied


def _straighten(model: onnx_ir.Model) -> None:
    """Take out fp32 → fp16 → fp32 between two operators in fp32: they cost time and rounding, and gain nothing."""
    for node in model.graph:
        before = node.inputs[0].producer() if _casts_to(node, onnx_ir.DataType.FLOAT) and node.inputs[0] else None
        if before is not None and _casts_to(before, onnx_ir.DataType.FLOAT16):
            origin = before.inputs[0]
            assert origin is not None
            if origin.dtype is onnx_ir.DataType.FLOAT:
                node.outputs[0].replace_all_uses_with(origin)


def _casts_to(node: onnx_ir.Node, kind: onnx_ir.DataType) -> bool:
    return node.op_type == "Cast" and node.attributes["to"].as_int() == kind


def halves(model: onnx.ModelProto) -> set[str]:
    """Names of the values that operators give in fp16."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    given = {name for node in graph.node for name in node.output}
    typed = {item.name for item in graph.value_info if item.type.tensor_type.elem_type == TensorProto.FLOAT16}
    return given & typed


def rehearsal(model: onnx.ModelProto) -> onnx.ModelProto:
    """A network in fp16 -> one in fp32 that rounds every weight and every value between operators to fp16.

    ONNX Runtime computes fp16 on CPUs in fp32, and leaves out the rounding between operators that a GPU does: what a
    file loses, and where it overflows, would not show. Here each operator sums in fp32 and gives fp16, as on a GPU.
    """
    rounded = halves(model)
    played = onnx.ModelProto()
    played.CopyFrom(model)
    del played.graph.value_info[:]
    for tensor in played.graph.initializer:
        _widen(tensor)
    nodes = []
    for node in played.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and node.op_type == "Cast" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                _widen(attribute.t)
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in rounded:
                node.output[place] = exact = f"{name}.exact"
                nodes.append(helper.make_node("Cast", [exact], [f"{name}.half"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del played.graph.node[:]
    played.graph.node.extend(kept)
    onnx.checker.check_model(played, full_check=True)
    return played


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def check_reach(reach: dict[str, float], names: Sequence[str]) -> float:
    """The largest of the values named. Raises BadColorizer, naming the value, when one does not fit into fp16."""
    name = max(names, key=lambda one: reach[one])
    if not reach[name] <= LARGEST:
        raise BadColorizer(
            f"the value {name} reaches {reach[name]:.3g} on these pictures, fp16 ends at {LARGEST:.0f}: keep it in fp32"
        )
    return reach[name]
