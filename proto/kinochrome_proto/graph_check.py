"""What a colorizer's graph may hold, checked before a runtime opens it.

It is a straight run of ONNX's own operators from luma to chroma, whole in its one file: nothing that reads other files,
loops, needs a library of operators, or differs from run to run.
"""

import math

from .errors import BadColorizer
from .kinochrome.onnx.v1.model_pb2 import Attribute, Graph, Model, Node, Tensor, ValueInfo
from .manifest import CHROMA, LUMA, NOISE, Manifest

MAX_IR_VERSION = 10
MAX_OPSET = 21
"""What every ONNX Runtime that this project admits (1.20 and newer) reads."""
MIN_OPSET = 13
MAX_NODES = 20_000
OWN_DOMAINS = ("", "ai.onnx")  # two names of ONNX's own operators
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
FLOAT, UINT8 = 1, 2
SIZES = {FLOAT: 4, UINT8: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes of an element, by ONNX's number of its type: floats, whole numbers and booleans."""
MAX_RANK = 8


def check(model: Model, manifest: Manifest, file: str) -> None:
    """Raises BadColorizer, naming `file`, when the graph is not what this module's head says or not its manifest's."""
    _check_versions(model, file)
    if model.functions or model.training_info:
        raise BadColorizer(f"{file} holds functions or training graphs, which colorizers do not have: export it again")
    graph = model.graph
    if not 1 <= len(graph.node) <= MAX_NODES:
        raise BadColorizer(f"{file} has {len(graph.node)} operators, colorizers have 1 to {MAX_NODES}")
    if graph.sparse_initializer:
        raise BadColorizer(f"{file} holds sparse weights, which colorizers do not have: export it again")
    for tensor in graph.initializer:
        _check_tensor(tensor, file)
    for node in graph.node:
        _check_node(node, file)
    _check_ends(graph, manifest, file)


def _check_versions(model: Model, file: str) -> None:
    if any(entry.domain not in OWN_DOMAINS for entry in model.opset_import):
        names = ", ".join(_said(entry.domain) for entry in model.opset_import if entry.domain not in OWN_DOMAINS)
        raise BadColorizer(f"{file} needs operators of {names}: colorizers use ONNX's own alone, export it again")
    if len(model.opset_import) != 1:
        raise BadColorizer(f"{file} states {len(model.opset_import)} versions of ONNX's operators, not one")
    opset = model.opset_import[0].version
    if opset > MAX_OPSET:
        raise BadColorizer(
            f"{file} uses ONNX's operators of version {opset}, this program reads up to {MAX_OPSET}: "
            "export it again with this release, or update Kinochrome"
        )
    if opset < MIN_OPSET:
        raise BadColorizer(
            f"{file} uses ONNX's operators of version {opset}, this program reads {MIN_OPSET} and newer: "
            "export it again"
        )
    if not 3 <= model.ir_version <= MAX_IR_VERSION:
        raise BadColorizer(
            f"{file} is in version {model.ir_version} of the ONNX format, this program reads 3 to {MAX_IR_VERSION}: "
            "export it again"
        )


def _check_node(node: Node, file: str) -> None:
    if node.domain not in OWN_DOMAINS:
        raise BadColorizer(
            f"{file} uses {_said(node.op_type)} of {_said(node.domain)}: colorizers use ONNX's own operators alone, "
            "export it again"
        )
    if node.op_type in RANDOM:
        raise BadColorizer(f"{file} uses {node.op_type}: chance comes into a colorizer by its input {NOISE} alone")
    for attribute in node.attribute:
        _check_attribute(attribute, node, file)


def _check_attribute(attribute: Attribute, node: Node, file: str) -> None:
    if attribute.HasField("g") or attribute.graphs:
        raise BadColorizer(
            f"{file} holds a graph in a graph, of {_said(node.op_type)}: colorizers neither branch nor loop"
        )
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        raise BadColorizer(f"{file} holds sparse constants, which colorizers do not have: export it again")
    if attribute.HasField("t"):
        _check_tensor(attribute.t, file)
    for tensor in attribute.tensors:
        _check_tensor(tensor, file)


def _check_tensor(tensor: Tensor, file: str) -> None:
    if tensor.data_location or tensor.external_data:
        raise BadColorizer(
            f"{file}: its weights {_said(tensor.name)} lie in another file, which is never opened: "
            "a colorizer is one file, export it again"
        )
    if tensor.data_type not in SIZES:
        raise BadColorizer(f"{file}: {_said(tensor.name)} has elements of type {tensor.data_type}, which none has")
    if len(tensor.dims) > MAX_RANK or any(size < 0 for size in tensor.dims):
        raise BadColorizer(f"{file}: {_said(tensor.name)} has an impossible shape")
    stated = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        held, left = divmod(len(tensor.raw_data), SIZES[tensor.data_type])
    else:
        held = len(tensor.float_data) + len(tensor.int32_data) + len(tensor.int64_data)
        held, left = held + len(tensor.double_data) + len(tensor.uint64_data), 0
    if held != stated or left:
        raise BadColorizer(f"{file}: {_said(tensor.name)} should have {stated} elements and has {held}: it is damaged")


def _check_ends(graph: Graph, manifest: Manifest, file: str) -> None:
    takes, gives = [item.name for item in graph.input], [item.name for item in graph.output]
    inputs = [LUMA, NOISE] if manifest.noise_length else [LUMA]
    if takes != inputs or gives != [CHROMA]:
        raise BadColorizer(
            f"{file} takes {_listed(takes)} and gives {_listed(gives)}; by its metadata it should take "
            f"{_listed(inputs)} and give {CHROMA}: export it again"
        )
    wanted: dict[str, tuple[int, list[int | None]]] = {
        LUMA: (UINT8, [None, 1, None, None]),
        NOISE: (FLOAT, [None, manifest.noise_length]),
        CHROMA: (FLOAT, [None, 2, None, None]),
    }
    for item in (*graph.input, *graph.output):
        kind, shape = wanted[item.name]
        if _ends_in(item) != (kind, shape):
            sizes = ", ".join("any" if size is None else str(size) for size in shape)
            raise BadColorizer(
                f"{file}: {item.name} should be ({sizes}) of {'uint8' if kind == UINT8 else 'float32'} and is not: "
                "export it again"
            )


def _ends_in(item: ValueInfo) -> tuple[int, list[int | None]]:
    """Element type and shape of an input or output; None for a size that is open."""
    tensor = item.type.tensor_type
    sizes = [size.dim_value if size.WhichOneof("value") == "dim_value" else None for size in tensor.shape.dim]
    return tensor.elem_type, sizes


def _listed(names: list[str]) -> str:
    return ", ".join(_said(name) if not name.isidentifier() else name[:60] for name in names[:4]) or "nothing"


def _said(text: str) -> str:
    """A name that strangers gave, on one line of moderate length."""
    return repr(text[:60])
