"""How good the colours of a picture are: its figures against the picture's true colours.

Every figure is taken on R'G'B' made from the still's own luma and the chroma under test, clipped to 0..1 and not
rounded to 8 bits. `evaluation` takes them over a whole set, beside those of painting nothing and of trivial painters.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import deltaE_ciede2000
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from .classifier import Classifier
from .colour import rgb_to_lab
from .stills import Stills, to_tensor

THRESHOLD = 0.05
"""Share of full scale within which a pixel counts as right (the accuracy of Nazeri et al., 2018, at their 5 %)."""
SMALLEST = 11  # pixels of a side: the window of SSIM
SUMMED_AT = 128  # pixels of a side at which `Figures.sum_at_128` is taken


class Painter(Protocol):
    """Whatever gives a luma its chroma: a trained generator, or a colorizer file."""

    size_multiple: int
    """Height and width of the luma must be multiples of this."""
    noise_length: int
    """Length of the noise that chooses one of many colourings; 0 when there is but one."""

    def paint(self, luma: Tensor, noise: Tensor | None) -> Tensor:
        """Luma (N, 1, H, W) in 0..1 and noise (N, noise_length) or None -> chroma (N, 2, H/s, W/s) in -0.5..0.5."""


@dataclass(frozen=True)
class Figures:
    """Of one picture against the truth."""

    mae: float
    """Mean absolute error of R', G' and B', in 8-bit code values."""
    rmse: float
    """Root of the mean squared error of R', G' and B', in 8-bit code values."""
    psnr: float
    """Peak signal-to-noise ratio over R'G'B', 20·log10(255 / RMSE), in dB; at most 100, where nothing differs."""
    ssim: float
    """Structural similarity (Wang et al., 2004): Gaussian window of 11 pixels with σ = 1.5, mean of R', G' and B'.

    Luma is the truth's own, so this is high throughout: compare it with gray's.
    """
    within: float
    """Share of pixels of which R', G' and B' each lie within a threshold of the truth, by default THRESHOLD."""
    sum_at_128: float
    """Σ |painted − true| over all pixels and channels, both pictures brought to 128×128, values in -1..1.

    That is the range of a network that ends in tanh, and the one in which the sums of about 22,000 that are reported
    of CycleGANs on flowers make sense: over 128·128·3 values 22,477 is then 58 code values a value. In 0..1 it would
    be 117, more than between two pictures of noise (85), and in 0..255 half of one.
    """
    ab_error: float
    """Mean of √((a−a')² + (b−b')²) in CIE Lab units."""
    delta_e76: float
    """Mean CIE 1976 colour difference ΔE*ab."""
    delta_e2000: float
    """Mean CIE 2000 colour difference ΔE00 (Sharma et al., 2005), all weights 1."""
    colourfulness: float
    """Hasler and Süsstrunk (2003): √(σ²rg + σ²yb) + 0.3·√(μ²rg + μ²yb), 8-bit values, signed means (original form)."""
    squeezenet_distance: float | None = None
    """`Classifier.distance` to the truth, which is not LPIPS; None without a classifier."""
    recognition: float | None = None
    """1 where the classifier's likeliest class is that of the truth, else 0; None without a classifier.

    It says whether the picture is taken for the same thing, not whether that is what it shows.
    """
    diversity: float | None = None
    """Mean over pairs of colourings of |one − other| over R'G'B', in 8-bit code values; None where there is but one."""


def colourfulness(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) in 0..1 -> (N,), the form that `Figures.colourfulness` states."""
    red, green, blue = (255 * rgb).unbind(1)
    rg, yb = (red - green).flatten(1), (0.5 * (red + green) - blue).flatten(1)
    spread = (rg.var(1, correction=0) + yb.var(1, correction=0)).sqrt()
    return spread + 0.3 * (rg.mean(1) ** 2 + yb.mean(1) ** 2).sqrt()


@torch.no_grad()
def figures(
    rgb: Tensor, truth: Tensor, *, threshold: float = THRESHOLD, classifier: Classifier | None = None
) -> list[Figures]:
    """Figures of each version (N, 3, H, W) of a picture against its truth (1, 3, H, W), all in 0..1.

    H and W must be at least SMALLEST. Without a classifier the figures that need one are None.
    """
    truth = truth.expand_as(rgb)
    difference = (rgb - truth).abs()
    squared = difference.square().mean((1, 2, 3))
    lab, true_lab = rgb_to_lab(rgb), rgb_to_lab(truth[:1])
    lab_error = (lab - true_lab).square()
    small, small_truth = (
        F.interpolate(picture, (SUMMED_AT, SUMMED_AT), mode="bilinear", antialias=True) for picture in (rgb, truth)
    )
    # scikit-image is untyped
    delta_e2000 = deltaE_ciede2000(true_lab.numpy(), lab.numpy(), channel_axis=1)  # type: ignore[no-untyped-call]
    columns: dict[str, Tensor] = {
        "mae": 255 * difference.mean((1, 2, 3)),
        "rmse": 255 * squared.sqrt(),
        "psnr": -10 * torch.log10(squared.clamp_min(1e-10)),
        "ssim": _ssim(rgb, truth),
        "within": (difference <= threshold).all(1).float().mean((1, 2)),
        "sum_at_128": 2 * (small - small_truth).abs().sum((1, 2, 3)),
        "ab_error": lab_error[:, 1:].sum(1).sqrt().mean((1, 2)),
        "delta_e76": lab_error.sum(1).sqrt().mean((1, 2)),
        "delta_e2000": torch.from_numpy(np.asarray(delta_e2000)).mean((1, 2)),
        "colourfulness": colourfulness(rgb),
    }
    if classifier is not None:
        seen = classifier(torch.cat((truth[:1], rgb)))
        classes = seen.logits.argmax(1)
        columns["squeezenet_distance"] = seen.distance_to_first()[1:]
        columns["recognition"] = (classes[1:] == classes[0]).float()
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [Figures(**dict(zip(columns, row, strict=True))) for row in rows]


def _ssim(rgb: Tensor, truth: Tensor) -> Tensor:
    """Of each of (N, 3, H, W): (N,)."""
    count, channels, height, width = rgb.shape
    # As channels of one picture: convolutions of many channels are several times faster than those of many pictures.
    shape = 1, count * channels, height, width
    of_places = structural_similarity_index_measure(
        rgb.reshape(shape), truth.reshape(shape), data_range=1.0, return_full_image=True
    )[1]
    margin = SMALLEST // 2  # where the window would reach past the border
    inside = of_places[0, :, margin:-margin, margin:-margin]
    return inside.reshape(count, -1).mean(1)


def diversity(colourings: Tensor) -> float:
    """Colourings (K, 3, H, W) of one picture -> `Figures.diversity`; K must be at least 2."""
    count = len(colourings)
    pairs = [255 * (colourings[i] - colourings[j]).abs().mean() for i in range(count) for j in range(i)]
    return torch.stack(pairs).mean().item()


def noise(painter: Painter, seed: int) -> Tensor | None:
    """Noise (1, noise_length) by seed, the same that colouring a film with that seed takes; None where none is."""
    if not painter.noise_length:
        return None
    # PCG64's stream is the same on every machine and in every version of NumPy.
    chance = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(chance.standard_normal((1, painter.noise_length), np.float32))


def working_shape(height: int, width: int, lines: int, multiple: int) -> tuple[int, int]:
    """Height and width near `lines` on the short side, same shape, both multiples of `multiple`."""
    scale = lines / min(height, width)
    near = [max(multiple, round(side * scale / multiple) * multiple) for side in (height, width)]
    return near[0], near[1]


@torch.no_grad()
def paint(painter: Painter, luma: Tensor, lines: int, noise: Tensor | None = None) -> Tensor:
    """Chroma (N, 2, H, W) for luma (N, 1, H, W), painted at `lines` lines and brought back bilinearly.

    noise: (N, noise_length) or (1, noise_length) for all; without it, a painter's colouring of zero noise.
    """
    height, width = luma.shape[2:]
    shape = working_shape(height, width, lines, painter.size_multiple)
    small = F.interpolate(luma, shape, mode="bilinear", antialias=True)
    chroma = painter.paint(small, None if noise is None else noise.expand(len(luma), -1))
    return F.interpolate(chroma, (height, width), mode="bilinear")


def picture(stills: Stills, index: int, longest: int = 512) -> Tensor:
    """A still as (1, 3, H, W) in 0..1, shrunk where its long side passes `longest`. Raises BadData when broken."""
    image = stills.open(index)
    image.thumbnail((longest, longest), Image.Resampling.BICUBIC)
    return to_tensor(image).unsqueeze(0).float() / 255
