"""Trying a colorizer file out: does it load, and paint what it painted where it was made?

The file may be a stranger's, so `Verify` is a task for a worker process: what crashes a runtime crashes that.
"""

from __future__ import annotations  # Bench is named for reading only

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kinochrome_proto import probe as probes
from kinochrome_proto.errors import BadColorizer
from kinochrome_proto.manifest import CHROMA, LUMA, NOISE, Manifest
from kinochrome_proto.probe import CODE_VALUES, Probe

from .colorizers import Colorizer, read
from .engines.onnx_runtime import open_session, session_options

if TYPE_CHECKING:
    from .worker import Bench

BATCH_TOLERANCE = 1.0
"""Code values between what a picture gives in a batch and alone."""


@dataclass(frozen=True)
class Verified:
    """What was measured of a file that is sound; in 8-bit code values."""

    from_batch: float
    """Largest difference between painting pictures together and one by one."""
    from_probe: float | None
    """Largest difference from what the file records of its making; None where it records nothing."""
    painted_by: str
    """What painted that record; empty where there is none."""


@dataclass(frozen=True)
class Verify:
    """Try out a colorizer file: gives `Verified` in plain form."""

    path: Path

    @property
    def subject(self) -> str:
        return str(self.path)

    def run(self, bench: Bench, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        del bench, tell, sparing
        return dataclasses.asdict(verify(read(self.path)))


def verify(colorizer: Colorizer) -> Verified:
    """Run it on the probe's pictures. Raises BadColorizer when it fails, paints nonsense, or not what it should."""
    manifest, file = colorizer.manifest, str(colorizer.path)
    probe = Probe.from_parity(manifest.parity, file)
    session = open_session(colorizer.content, file, session_options())

    def paint(given: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        try:
            (chroma,) = session.run([CHROMA], given)
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise BadColorizer(f"{file} fails on {given[LUMA].shape}: {error}".partition("\n")[0]) from None
        return check_painted(chroma, given[LUMA][:, 0].shape, manifest, file)

    pictures = _pictures(manifest)
    together = paint(pictures)
    alone = [
        paint({name: array[index : index + 1] for name, array in pictures.items()}) for index in range(len(together))
    ]
    from_batch = float(np.abs(together - np.concatenate(alone)).max()) * CODE_VALUES
    if from_batch > BATCH_TOLERANCE:
        raise BadColorizer(
            f"{file} paints a picture by {from_batch:.3g} code values otherwise in a batch than alone "
            f"(at most {BATCH_TOLERANCE:g} allowed): export it again"
        )
    from_probe = probe.difference(probes.taken(together.ravel().tolist())) if probe else None
    if probe and from_probe is not None and not from_probe <= probe.tolerance:
        raise BadColorizer(
            f"{file} paints by {from_probe:.3g} code values otherwise than {probe.painted_by} did when it was made "
            f"(at most {probe.tolerance:g} allowed)"
        )
    return Verified(from_batch, from_probe, probe.painted_by if probe else "")


def check_painted(
    chroma: npt.NDArray[np.float32], pictures: tuple[int, ...], manifest: Manifest, file: str
) -> npt.NDArray[np.float32]:
    """The chroma that was painted on luma of shape `pictures`, (N, H, W).

    Raises BadColorizer, naming `file`, when it has not the shape that it should have, or is not finite.
    """
    count, height, width = pictures
    expected = count, 2, height // manifest.chroma_stride, width // manifest.chroma_stride
    if chroma.shape != expected:
        raise BadColorizer(f"{file} gave chroma of {chroma.shape}, by its metadata it should be {expected}")
    if not np.isfinite(chroma).all():
        raise BadColorizer(f"{file} paints numbers that are not finite: train or export it again")
    return chroma


def _pictures(manifest: Manifest) -> dict[str, npt.NDArray[Any]]:
    count, height, width = probes.size(manifest.size_multiple)
    luma = np.frombuffer(probes.luma(count, height, width), np.uint8).reshape(count, 1, height, width)
    if not manifest.noise_length:
        return {LUMA: luma}
    return {LUMA: luma, NOISE: np.array(probes.noise(count, manifest.noise_length), np.float32)}
