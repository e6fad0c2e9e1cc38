"""Engines run colorizers on batches of thumbnails."""

from typing import cast

import numpy as np
import numpy.typing as npt

from kinochrome_proto.manifest import CHROMA, LUMA

from .colorizers import Colorizer, open_session


class CpuEngine:
    """ONNX Runtime on the CPU. One session serves all worker threads; each call runs on its caller's core."""

    name = "cpu"

    def __init__(self, colorizer: Colorizer) -> None:
        self.manifest = colorizer.manifest
        self._session = open_session(colorizer.content, str(colorizer.path))

    def run(self, luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(N, h, w) thumbnails, full range -> (N, 2, h/s, w/s) chroma in -0.5..0.5."""
        (chroma,) = self._session.run([CHROMA], {LUMA: np.ascontiguousarray(luma[:, np.newaxis])})
        return cast(npt.NDArray[np.float32], chroma)
