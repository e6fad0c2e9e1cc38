"""An inference process whose engine does what pictures ask for: `python -m tests.server.fake_inference`.

A session's "colorizer" is a file to which a line is added for each batch: the first sample of every picture.
"""

import os
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kinochrome_proto.errors import BadColorizer, Unusable
from kinochrome_proto.manifest import Manifest
from kinochrome_server.engines.interface import Engine
from kinochrome_server.inference import process_main
from kinochrome_server.inference.sessions import Session

MANIFEST = Manifest("test", 64, 16, 4, "ycbcr-bt601-full", "Apache-2.0")
SLOW, BREAK, REFUSE, NO_MEMORY, BUG, DIE = 250, 251, 252, 253, 254, 255
"""What a picture's first sample asks for. A slow batch takes SLOW_S."""
SLOW_S = 1.0


class Fake:
    """Paints Cb with a picture's first sample, and Cr with its second, in 255ths."""

    manifest = MANIFEST

    def __init__(self, note: Path) -> None:
        self._note = note

    def run(self, luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        first = luma[:, 0, 0]
        with self._note.open("a") as note:
            note.write(" ".join(map(str, first)) + "\n")
        if DIE in first:
            os._exit(9)
        if BUG in first:
            raise ZeroDivisionError("oops")
        if NO_MEMORY in first:
            raise MemoryError
        if REFUSE in first:
            raise BadColorizer("no such picture")
        if BREAK in first:
            raise Unusable("--engine fake: the device is broken")
        if SLOW in first:
            time.sleep(SLOW_S)
        count, height, width = luma.shape
        chroma = np.empty((count, 2, height // 4, width // 4), np.float32)
        chroma[:, 0] = first[:, np.newaxis, np.newaxis] / 255
        chroma[:, 1] = luma[:, 0, 1][:, np.newaxis, np.newaxis] / 255
        return chroma


def load(session: Session) -> Engine:
    if session.engine == "unloadable":
        raise Unusable("--engine unloadable: it does not load")
    return cast(Engine, cast(Any, Fake(Path(session.colorizer))))


if __name__ == "__main__":
    process_main.main(load)
