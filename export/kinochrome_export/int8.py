"""fp32 → int8: convolutions and what lies between them on 8-bit numbers, for CPUs.

Static quantization: the range of every value is taken beforehand, from stills. Weights have a scale for each output
channel. It is written as QuantizeLinear and DequantizeLinear around fp32 operators; ONNX Runtime joins them to integer
kernels. Activations are uint8 with a zero point, which is what ONNX Runtime's kernels are fastest with; TensorRT would
have them symmetric and refuses these files.
"""

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from kinochrome_proto.manifest import CHROMA, LUMA, NOISE, Manifest

from .calibration import Feed, Feeds
from .cpu import session

OPERATORS = ("Conv", "Concat", "Resize", "Pad")
"""What is quantized: those that ONNX Runtime has integer kernels for. Transposed convolutions and norms are not."""
METHODS = (CalibrationMethod.Entropy, CalibrationMethod.MinMax)
"""How ranges are chosen, the likelier first: docs/precision.md compares them."""
KEPT = 4
"""Last convolutions left in fp32, at most: no later layer mends their errors."""
BATCH = 4
"""Frames at once when speed is measured, as a film's are."""
RUNS = (5, 25)  # at least, at most
SECONDS = 10.0  # after which no more runs are begun


def quantized(
    model: onnx.ModelProto,
    feeds: Sequence[Feed],
    method: CalibrationMethod,
    **options: Any,
) -> Iterator[onnx.ModelProto]:
    """The same network in int8 with none, one, two, up to KEPT of its last convolutions left in fp32.

    Args:
        model: in fp32.
        feeds: inputs of the graph, of real pictures.
        method: how ranges are chosen.
        options: further `extra_options` of ONNX Runtime's `quantize_static`.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, prepared, target, ranges = (
            str(Path(folder) / name) for name in ("given.onnx", "prepared.onnx", "int8.onnx", "ranges.json")
        )
        onnx.save(model, given)  # of a model in memory quant_pre_process loses the weights
        # Symbolic shape inference is for transformers: it gives up at the light U-Net's folding of pixels.
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        convolutions = [node.name for node in onnx.load(prepared).graph.node if node.op_type == "Conv"]
        for kept in range(min(KEPT, len(convolutions)) + 1):
            with contextlib.redirect_stdout(io.StringIO()):  # it tells of its steps
                quantize_static(
                    prepared,
                    target,
                    Feeds(feeds),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=list(OPERATORS),
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    reduce_range=True,
                    nodes_to_exclude=convolutions[len(convolutions) - kept :],
                    calibrate_method=method,
                    calibration_cache_path=ranges,
                    extra_options={**options, "CalibStridedMinMax": 1},  # of any method: a picture at a time
                )
            yield _own_operators(onnx.load(target))


def _own_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the domains of operators that the optimizer states and no operator is of."""
    own = [entry for entry in model.opset_import if entry.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(own)
    return model


@dataclass(frozen=True)
class Speed:
    """fp32 and int8 on one thread of this machine's CPU, in turns."""

    fp32_ms: float
    """Median processor time of a frame, in milliseconds."""
    int8_ms: float
    """Median processor time of a frame, in milliseconds."""
    batch: int
    height: int
    width: int
    runs: int
    """Of each."""


def speed(fp32: bytes, int8: bytes, manifest: Manifest) -> Speed:
    """Time both at the working size, 4:3, with batches as films are coloured in."""
    multiple = manifest.size_multiple
    height, width = (
        max(multiple, round(side / multiple) * multiple)
        for side in (manifest.working_size, manifest.working_size * 4 / 3)
    )
    chance = np.random.default_rng(0)
    feed: Feed = {LUMA: chance.integers(0, 256, (BATCH, 1, height, width), dtype=np.uint8)}
    if manifest.noise_length:
        feed[NOISE] = chance.standard_normal((BATCH, manifest.noise_length), np.float32)
    sessions = session(fp32), session(int8)
    taken: tuple[list[float], list[float]] = [], []
    for one in sessions:
        one.run([CHROMA], feed)
    started = time.perf_counter()
    while len(taken[1]) < RUNS[0] or (len(taken[1]) < RUNS[1] and time.perf_counter() - started < SECONDS):
        for one, times in zip(sessions, taken, strict=True):
            begun = time.thread_time()  # one thread runs it all; what other programs take does not count
            one.run([CHROMA], feed)
            times.append(time.thread_time() - begun)
    fp32_ms, int8_ms = (1000 * statistics.median(times) / BATCH for times in taken)
    return Speed(fp32_ms, int8_ms, BATCH, height, width, len(taken[1]))
