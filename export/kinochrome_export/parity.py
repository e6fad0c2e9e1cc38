"""Proof that the exported file computes what the trained network computed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from kinochrome_proto.manifest import CHROMA, LUMA, NOISE

from .graph import LumaToChroma

CODE_VALUES = 255  # chroma spans -0.5..0.5, so one 8-bit code value is 1/255
TOLERANCE = 0.5  # code values: more than this could change a rounded pixel by more than one


class ParityError(Exception):
    """The exported file and the trained network disagree."""


@dataclass(frozen=True)
class Parity:
    """Differences in 8-bit chroma code values over all cases."""

    largest: float
    mean: float
    cases: list[list[int]]
    """The (N, H, W) of each case."""


def measure(graph: LumaToChroma, file: Path, multiple: int) -> Parity:
    """Run both on pictures of several sizes and batches. Raises ParityError past TOLERANCE."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    cases = [(1, 4, 4), (1, 6, 8), (2, 8, 6), (5, 4, 7)]  # in units of the size multiple
    chance = np.random.default_rng(0)
    differences = []
    for count, rows, columns in cases:
        coarse = chance.integers(0, 256, (count, 1, rows * 2, columns * 2), dtype=np.uint8)
        scale = max(multiple // 2, 1)
        luma = coarse.repeat(scale, 2).repeat(scale, 3)  # patches with edges, as pictures have
        luma = luma[:, :, : rows * multiple, : columns * multiple]
        given: dict[str, npt.NDArray[Any]] = {LUMA: luma}
        if length := graph.generator.noise_length:
            given[NOISE] = chance.standard_normal((count, length), dtype=np.float32)
        with torch.no_grad():
            expected = graph(*map(torch.from_numpy, given.values())).numpy()
        (got,) = session.run([CHROMA], given)
        if got.shape != expected.shape:
            raise ParityError(f"{file.name}: {luma.shape} gave {got.shape}, the network gives {expected.shape}")
        differences.append(np.abs(got - expected).ravel() * CODE_VALUES)
    everything = np.concatenate(differences)
    largest = float(everything.max())
    if not largest <= TOLERANCE:  # also catches NaN
        raise ParityError(
            f"{file.name} differs from the trained network by {largest:.3g} code values "
            f"(at most {TOLERANCE} allowed): the exported graph is wrong"
        )
    return Parity(largest, float(everything.mean()), [[n, h * multiple, w * multiple] for n, h, w in cases])
