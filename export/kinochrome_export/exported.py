"""A colorizer file as a painter, so that what was exported can be measured as what was trained is."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from kinochrome_proto import colorizer_file
from kinochrome_proto.errors import BadColorizer
from kinochrome_proto.manifest import CHROMA, LUMA, NOISE, Manifest

from . import cpu


class Exported:
    """A `kinochrome_trainer.metrics.Painter` that runs a colorizer file with ONNX Runtime on the CPU."""

    def __init__(self, session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
        self.manifest = manifest
        self.size_multiple = manifest.size_multiple
        self.noise_length = manifest.noise_length
        self._session = session

    def paint(self, luma: Tensor, noise: Tensor | None = None) -> Tensor:
        """Luma (N, 1, H, W) in 0..1, rounded to 8 bits, and noise (N, noise_length) or None, which is zero noise ->
        chroma (N, 2, H/s, W/s) in -0.5..0.5."""
        feed = {LUMA: (luma * 255).round().clamp(0, 255).to(torch.uint8).numpy()}
        if self.noise_length:
            drawn = torch.zeros(len(luma), self.noise_length) if noise is None else noise
            feed[NOISE] = np.ascontiguousarray(drawn.numpy(), np.float32)
        (chroma,) = self._session.run([CHROMA], feed)
        return torch.from_numpy(chroma)


def load(file: Path) -> Exported:
    """The painter in a colorizer file.

    Raises UnknownColorizer when it cannot be read, BadColorizer when it is none or is not sound.
    """
    colorizer = colorizer_file.read(file)
    try:
        session = cpu.session(colorizer.content, threads=torch.get_num_threads())
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        raise BadColorizer(f"{file} cannot be loaded as an ONNX model: {error}".partition("\n")[0]) from None
    return Exported(session, colorizer.manifest)
