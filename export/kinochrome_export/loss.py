"""What a colorizer loses when its numbers are made smaller: its chroma, and its colours, beside those of fp32."""

from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor

from kinochrome_proto.errors import BadColorizer
from kinochrome_proto.manifest import CHROMA
from kinochrome_proto.probe import CODE_VALUES
from kinochrome_trainer.colour import ycbcr_to_rgb

from .pictures import Picture, Pictures


@dataclass(frozen=True)
class Loss:
    """Against fp32, over pictures."""

    largest: float
    """Largest difference of a chroma value, in 8-bit code values."""
    mean: float
    """Mean difference of all chroma values, in 8-bit code values."""
    psnr: float | None
    """Mean PSNR of the colourings against the truth, over R'G'B', in dB; None without pictures in colour."""
    psnr_change: float | None
    """That, less fp32's."""
    pictures: int
    kind: str
    """Of the pictures: see `pictures.Pictures.kind`."""


def measure(fp32: onnxruntime.InferenceSession, other: onnxruntime.InferenceSession, pictures: Pictures) -> Loss:
    """Paint all pictures with both. Raises BadColorizer where the other gives no numbers."""
    differences, before, after = [], [], []
    for picture in pictures.items:
        expected, got = (paint(session, picture) for session in (fp32, other))
        if not got.isfinite().all():
            raise BadColorizer("it paints chroma that is no number, as fp32 does not: keep it in fp32")
        differences.append((got - expected).abs().flatten() * CODE_VALUES)
        if picture.truth is not None:
            before.append(psnr(expected, picture.luma, picture.truth))
            after.append(psnr(got, picture.luma, picture.truth))
    everything = torch.cat(differences)
    return Loss(
        largest=everything.max().item(),
        mean=everything.mean(dtype=torch.float64).item(),
        psnr=float(np.mean(after)) if after else None,
        psnr_change=float(np.mean(after) - np.mean(before)) if after else None,
        pictures=len(pictures.items),
        kind=pictures.kind,
    )


def paint(session: onnxruntime.InferenceSession, picture: Picture) -> Tensor:
    """Chroma (1, 2, h/s, w/s) at the working size."""
    return torch.from_numpy(session.run([CHROMA], picture.feed)[0])


def psnr(chroma: Tensor, luma: Tensor, truth: Tensor) -> float:
    """Of a colouring (1, 2, h, w) of luma (1, 1, H, W) against (1, 3, H, W), as `metrics.Figures.psnr` states it."""
    rgb = ycbcr_to_rgb(luma, F.interpolate(chroma, luma.shape[2:], mode="bilinear"))
    return -10 * (rgb - truth).square().mean().clamp_min(1e-10).log10().item()
