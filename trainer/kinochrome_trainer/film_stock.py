"""Makes gray pictures that look like real film from colour ones.

A model that has only seen clean Rec.601 luma is lost on real film: early stock was blind to red
(orthochromatic), prints fade, lenses are soft, emulsion is grainy, and many scans went through JPEG.
Everything is batched and runs on the pictures' device, where the given generator, the one source of chance, is too.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .colour import KB, KG, KR
from .recipe import FilmStock

# ITU-T T.81 (JPEG) table K.1, the luminance quantisation at quality 50
_JPEG_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def expose(rgb: Tensor, stock: FilmStock, chance: torch.Generator) -> Tensor:
    """(N, 3, H, W) R'G'B' in 0..1 -> gray (N, 1, H, W) in 0..1, worn as `stock` says, each picture differently."""
    count = len(rgb)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, 1, 1, 1, generator=chance, device=rgb.device) * (high - low) + low

    def share(probability: float) -> Tensor:
        return torch.rand(count, 1, 1, 1, generator=chance, device=rgb.device) < probability

    standard = rgb.new_tensor((KR, KG, KB)).view(1, 3, 1, 1)
    plain = (rgb * standard).sum(1, keepdim=True)
    spectral = torch.where(share(stock.spectral), spectral_weights(count, rgb, chance), standard)
    gray = (rgb * spectral).sum(1, keepdim=True)
    gray = gray.clamp(0, 1) ** torch.exp(uniform(-stock.gamma, stock.gamma))
    black, white = uniform(0, stock.fade), uniform(1 - stock.fade, 1)
    gray = black + (white - black) * gray
    gray = blur(gray, uniform(0, stock.blur))
    gray = gray + grain(gray, uniform(0, stock.grain), chance)
    gray = torch.where(share(stock.jpeg), jpeg_wear(gray.clamp(0, 1), uniform(30, 90)), gray)
    return torch.where(share(stock.probability), gray, plain).clamp(0, 1)


def spectral_weights(count: int, like: Tensor, chance: torch.Generator) -> Tensor:
    """(count, 3, 1, 1) weights that sum to 1: from panchromatic (all of R, G, B) to orthochromatic (no red)."""
    weights = -torch.log(torch.rand(count, 3, 1, 1, generator=chance, device=like.device).clamp_min(1e-6))
    red = torch.rand(count, 1, 1, 1, generator=chance, device=like.device)
    weights = weights * torch.cat((red, torch.ones_like(red), torch.ones_like(red)), 1)
    return weights / weights.sum(1, keepdim=True)


def blur(gray: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (N, 1, H, W), its own sigma (N, 1, 1, 1) in pixels for each picture."""
    count, _, height, width = gray.shape
    reach = torch.arange(-3, 4, device=gray.device)
    kernel = torch.exp(-0.5 * (reach / sigma.clamp_min(1e-2)) ** 2).view(count, 1, -1)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    padded = F.pad(gray, (3, 3, 3, 3), mode="reflect").view(1, count, height + 6, width + 6)
    across = F.conv2d(padded, kernel.unsqueeze(2), groups=count)
    return F.conv2d(across, kernel.unsqueeze(3), groups=count).view(count, 1, height, width)


def grain(gray: Tensor, sigma: Tensor, chance: torch.Generator) -> Tensor:
    """Noise to add to (N, 1, H, W): strongest in the mid-tones, as silver grain is, and a little clumped."""
    noise = torch.randn(gray.shape, generator=chance, device=gray.device)
    clumped = F.avg_pool2d(F.pad(noise, (1, 1, 1, 1), mode="reflect"), 3, stride=1) * 3  # unit variance again
    coarse = torch.rand(len(gray), 1, 1, 1, generator=chance, device=gray.device)
    mix = (1 - coarse).sqrt() * noise + coarse.sqrt() * clumped
    mix = mix / (1 + 2 / 3 * ((1 - coarse) * coarse).sqrt()).sqrt()  # the two share a third of their variance
    return sigma * mix * (0.4 + 2.4 * gray.clamp(0, 1) * (1 - gray.clamp(0, 1)))


def jpeg_wear(gray: Tensor, quality: Tensor) -> Tensor:
    """What JPEG at `quality` (N, 1, 1, 1), 1..100, loses: 8x8 DCT, quantise, back. Sides are padded to eights."""
    count, _, height, width = gray.shape
    padded = F.pad(gray, (0, -width % 8, 0, -height % 8), mode="replicate")
    rows, columns = padded.shape[2] // 8, padded.shape[3] // 8
    n = torch.arange(8, device=gray.device, dtype=gray.dtype)
    dct = torch.cos(math.pi / 8 * (n + 0.5) * n.view(8, 1)) * 0.5  # orthonormal DCT-II
    dct[0] *= math.sqrt(0.5)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)  # the scaling of libjpeg
    table = (gray.new_tensor(_JPEG_LUMA) * scale).round().clamp_min(1).view(count, 1, 1, 8, 8) / 255
    blocks = padded.view(count, rows, 8, columns, 8).transpose(2, 3) - 128 / 255
    coefficients = (dct @ blocks @ dct.T / table).round() * table
    restored = (dct.T @ coefficients @ dct + 128 / 255).transpose(2, 3).reshape(count, 1, rows * 8, columns * 8)
    return restored[:, :, :height, :width]
