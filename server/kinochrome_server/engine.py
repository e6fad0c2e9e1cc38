"""Engines run colorizers on batches of thumbnails."""

from typing import cast

import numpy as np
import numpy.typing as npt

from kinochrome_proto.manifest import CHROMA, LUMA, NOISE

from .colorizers import Colorizer, open_session


class CpuEngine:
    """ONNX Runtime on the CPU. Each call runs on its caller's core; a batch gives what its frames would give apart."""

    name = "cpu"

    def __init__(self, colorizer: Colorizer, seed: int = 0) -> None:
        """`seed` chooses among the colourings of a stochastic colorizer; the same for all frames."""
        self.manifest = colorizer.manifest
        self._session = open_session(colorizer.content, str(colorizer.path))
        # PCG64's stream is the same on every machine and in every version of NumPy.
        self._noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(
            (1, self.manifest.noise_length), np.float32
        )

    def run(self, luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(N, h, w) thumbnails, full range -> (N, 2, h/s, w/s) chroma in -0.5..0.5.

        Raises MemoryError.
        """
        feed: dict[str, npt.NDArray[np.generic]] = {LUMA: np.ascontiguousarray(luma[:, np.newaxis])}
        if self.manifest.noise_length:
            feed[NOISE] = np.repeat(self._noise, len(luma), axis=0)
        try:
            (chroma,) = self._session.run([CHROMA], feed)
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            if "bad_alloc" in str(error) or "Failed to allocate memory" in str(error):
                raise MemoryError from None
            raise
        return cast(npt.NDArray[np.float32], chroma)
