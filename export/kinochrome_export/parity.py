"""Proof that the exported file computes what the trained network computed."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kinochrome_proto import probe as probes
from kinochrome_proto.manifest import CHROMA, LUMA, NOISE
from kinochrome_proto.probe import CODE_VALUES, TOLERANCE, Probe

from . import cpu
from .graph import LumaToChroma

Feed = dict[str, npt.NDArray[Any]]
"""What a colorizer's graph takes, by name."""


class ParityError(Exception):
    """The exported file and the trained network disagree."""


@dataclass(frozen=True)
class Parity:
    """Differences in 8-bit chroma code values over all cases."""

    largest: float
    mean: float
    cases: list[list[int]]
    """The (N, H, W) of each case."""
    probe: Probe
    """What PyTorch painted, for those who have the file alone."""

    def plain(self) -> dict[str, Any]:
        """For the manifest."""
        return dataclasses.asdict(self)


def measure(graph: LumaToChroma, file: Path, multiple: int) -> Parity:
    """Run both on pictures of several sizes and batches. Raises ParityError past TOLERANCE."""
    session = cpu.session(file.read_bytes())
    length = graph.generator.noise_length
    side = multiple * math.ceil(probes.SIDE / multiple)
    odd = side + multiple
    cases = [(1, side, side), (1, odd, 2 * side), (2, 2 * side, odd), (5, side, side + 3 * multiple)]
    chance = np.random.default_rng(0)
    differences = []
    for count, height, width in cases:
        coarse = chance.integers(0, 256, (count, 1, -(-height // 4), -(-width // 4)), dtype=np.uint8)
        luma = coarse.repeat(4, 2).repeat(4, 3)  # patches with edges, as pictures have
        given: Feed = {LUMA: luma[:, :, :height, :width]}
        if length:
            given[NOISE] = chance.standard_normal((count, length), dtype=np.float32)
        expected = _painted(graph, given)
        (got,) = session.run([CHROMA], given)
        if got.shape != expected.shape:
            raise ParityError(f"{file.name}: {luma.shape} gave {got.shape}, the network gives {expected.shape}")
        differences.append(np.abs(got - expected).ravel() * CODE_VALUES)
    pictures = probe_pictures(multiple, length)
    painted = _painted(graph, pictures)
    differences.append(np.abs(session.run([CHROMA], pictures)[0] - painted).ravel() * CODE_VALUES)
    everything = np.concatenate(differences)
    largest = float(everything.max())
    if not largest <= TOLERANCE:  # also catches NaN
        raise ParityError(
            f"{file.name} differs from the trained network by {largest:.3g} code values "
            f"(at most {TOLERANCE} allowed): the exported graph is wrong"
        )
    tried = [list(case) for case in (*cases, probes.size(multiple))]
    return Parity(largest, float(everything.mean()), tried, probe(painted, f"torch {torch.__version__}"))


def probe_pictures(multiple: int, noise_length: int) -> Feed:
    """The probe's pictures, of a colorizer with this size multiple and length of noise."""
    count, height, width = probes.size(multiple)
    luma = np.frombuffer(probes.luma(count, height, width), np.uint8).reshape(count, 1, height, width)
    if not noise_length:
        return {LUMA: luma}
    return {LUMA: luma, NOISE: np.array(probes.noise(count, noise_length), np.float32)}


def probe(chroma: npt.NDArray[np.float32], painted_by: str, tolerance: float = TOLERANCE) -> Probe:
    """What was painted on the probe's pictures, (N, 2, H/s, W/s), as a manifest keeps it."""
    return Probe(painted_by, probes.taken(chroma.ravel().tolist()), tolerance)


def _painted(graph: LumaToChroma, given: Feed) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        painted: npt.NDArray[np.float32] = graph(*(torch.from_numpy(array.copy()) for array in given.values())).numpy()
    return painted
