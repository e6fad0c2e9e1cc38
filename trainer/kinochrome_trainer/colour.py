"""Colour maths of the trainer, in torch. Pictures are (N, 3, H, W) R'G'B' in 0..1.

Networks see luma Y' in 0..1 and paint chroma (Cb, Cr) in -0.5..0.5, both of BT.601, full range:
that is what JPEG stills hold, it is linear, and gray is exactly (0, 0).
"""

import torch
from torch import Tensor

KR, KG, KB = 0.299, 0.587, 0.114  # BT.601 luma weights
CB_SCALE = 2 * (1 - KB)  # 1.772: B' - Y' = CB_SCALE * Cb
CR_SCALE = 2 * (1 - KR)  # 1.402: R' - Y' = CR_SCALE * Cr

CHROMA_ENCODING = "ycbcr-bt601-full"
"""The name under which exported files state this encoding."""

_D65 = (0.95047, 1.0, 1.08883)
_SRGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


def rgb_to_ycbcr(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) R'G'B' -> luma (N, 1, H, W) in 0..1 and chroma (N, 2, H, W) in -0.5..0.5 (BT.601)."""
    red, green, blue = rgb.unbind(1)
    luma = KR * red + KG * green + KB * blue
    return luma.unsqueeze(1), torch.stack(((blue - luma) / CB_SCALE, (red - luma) / CR_SCALE), 1)


def luma_of(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) R'G'B' -> (N, 1, H, W): Y' = KR·R' + KG·G' + KB·B'."""
    return (rgb * rgb.new_tensor((KR, KG, KB)).view(1, 3, 1, 1)).sum(1, keepdim=True)


def ycbcr_to_rgb(luma: Tensor, chroma: Tensor, *, clip: bool = True) -> Tensor:
    """The inverse of `rgb_to_ycbcr`; colours outside R'G'B' are clipped to 0..1, unless `clip` is off."""
    y, cb, cr = luma[:, 0], chroma[:, 0], chroma[:, 1]
    red, blue = y + CR_SCALE * cr, y + CB_SCALE * cb
    green = (y - KR * red - KB * blue) / KG
    rgb = torch.stack((red, green, blue), 1)
    return rgb.clamp(0, 1) if clip else rgb


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) sRGB in 0..1 -> CIE L*a*b* under D65, L* in 0..100 (IEC 61966-2-1, CIE 15)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("ij,njhw->nihw", rgb.new_tensor(_SRGB_TO_XYZ), linear)
    t = xyz / rgb.new_tensor(_D65).view(1, 3, 1, 1)
    f = torch.where(t > (6 / 29) ** 3, t.clamp_min(1e-8) ** (1 / 3), t / (3 * (6 / 29) ** 2) + 4 / 29)
    fx, fy, fz = f.unbind(1)
    return torch.stack((116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)), 1)
