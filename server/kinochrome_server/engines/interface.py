"""What an engine is: something that runs a colorizer on batches of thumbnails."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kinochrome_proto.errors import Unusable
from kinochrome_proto.manifest import LUMA, NOISE, Manifest

from ..colorizers import Colorizer

__all__ = ["Engine", "EngineSettings", "Unusable"]


@dataclass(frozen=True)
class EngineSettings:
    """How an engine is to run. Its results depend on `seed` alone."""

    seed: int = 0
    """Chooses among the colourings of a stochastic colorizer; the same for all frames."""
    threads: int = 1
    """Of a CPU, counting the caller's; a worker has one core."""
    device: int = 0
    """Which GPU, as CUDA counts them."""
    batch: int = 4
    """The largest batch that will come."""
    cache: Path | None = None
    """Folder for engines that are built once and kept; None is the user's own cache folder."""


class Engine(ABC):
    """A loaded colorizer on one device. A batch gives what its frames would give apart, within 1 code value."""

    name: ClassVar[str]
    """The word for --engine."""
    ahead: ClassVar[int] = 0
    """Batches that may be begun while more pictures are made ready; one that paints at once gains nothing by it."""
    manifest: Manifest
    """Of the colorizer it runs."""

    @classmethod
    @abstractmethod
    def probe(cls) -> str:
        """The versions it would run on, in words: "onnxruntime 1.31.1". Raises Unusable where it cannot run here."""

    @classmethod
    @abstractmethod
    def devices(cls) -> list[str]:
        """Names of the devices that it could use: ["CPU"]. Raises Unusable where it cannot run here."""

    def __init__(self, colorizer: Colorizer, settings: EngineSettings) -> None:
        """Load the colorizer. Raises Unusable, BadColorizer."""
        self.manifest = colorizer.manifest
        # PCG64's stream is the same on every machine and in every version of NumPy.
        self._noise = np.random.Generator(np.random.PCG64(settings.seed)).standard_normal(
            (1, self.manifest.noise_length), np.float32
        )

    @abstractmethod
    def run(self, luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(N, h, w) thumbnails, full range -> (N, 2, h/s, w/s) chroma in -0.5..0.5.

        Raises MemoryError.
        """

    def begin(self, luma: npt.NDArray[np.uint8]) -> Callable[[], npt.NDArray[np.float32]]:
        """Begin what `run` does; what it returns gives the chroma when it is there."""
        chroma = self.run(luma)
        return lambda: chroma

    def _feed(self, luma: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.generic]]:
        """(N, h, w) -> what the graph takes: LUMA (N, 1, h, w) and, of a stochastic colorizer, NOISE (N, length)."""
        feed: dict[str, npt.NDArray[np.generic]] = {LUMA: np.ascontiguousarray(luma[:, np.newaxis])}
        if self.manifest.noise_length:
            feed[NOISE] = np.repeat(self._noise, len(luma), axis=0)
        return feed
