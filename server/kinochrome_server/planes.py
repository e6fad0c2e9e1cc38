"""Planes of pictures: their formats, the source's luma, and putting luma and new chroma together.

Luma is sacred: `luma_of` gives the decoded Y plane as it is, and `assemble` copies it byte for byte.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

Plane = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

# Code points of ITU-T H.273, table 4: matrix coefficients
RGB, BT709, UNSPECIFIED, FCC, BT470BG, SMPTE170M, SMPTE240M, BT2020 = 0, 1, 2, 4, 5, 6, 7, 9
LIMITED, FULL = 1, 2  # libav's code points of colour range; 0 is unspecified

# Formats whose plane 0 holds luma samples alone, one after the other, little-endian.
_PLANAR = re.compile(r"yuv[aj]?4(20|22|44|40|11|10)p((9|10|12|14|16)le)?|gray((9|10|12|14|16)le)?")

LUMA_WEIGHTS: dict[int, tuple[float, float]] = {
    BT709: (0.2126, 0.0722),
    FCC: (0.30, 0.11),
    BT470BG: (0.299, 0.114),
    SMPTE170M: (0.299, 0.114),
    SMPTE240M: (0.212, 0.087),
    BT2020: (0.2627, 0.0593),
}
"""(KR, KB) of each matrix that chroma can be made for."""


@dataclass(frozen=True)
class Picture:
    """Size, format and colour of a film's frames, as decoded."""

    width: int
    height: int
    pix_fmt: str
    depth: int
    """Bits of a luma sample."""
    sample_aspect_ratio: Fraction
    rotation: int
    """Counter-clockwise degrees by which a player turns the picture."""
    full_range: bool
    matrix: int
    """Matrix coefficients that the output is made for and tagged with: the source's, or the usual for its size."""
    primaries: int
    transfer: int
    interlaced: bool
    has_alpha: bool
    working_format: str
    """The planar, little-endian format in which luma is read: the picture's own where it is one; its twin of the same
    grid and depth where samples are packed or big-endian; for RGB and palettes a YUV format of their depth, whose
    luma is computed once, here, in limited range."""
    is_rgb: bool
    """Whether the picture has no luma of its own."""


def picture_of(frame: VideoFrame, sample_aspect_ratio: Fraction | None) -> Picture:
    """Describe a decoded frame, of a stream of this aspect ratio."""
    format = frame.format
    rgb = format.is_rgb or format.has_palette or format.is_bit_stream
    matrix = frame.colorspace
    if matrix not in LUMA_WEIGHTS or rgb:
        matrix = BT709 if frame.height > 576 or frame.width > 1024 else SMPTE170M  # what players assume
    working = _working_format(format, rgb)
    gray = not rgb and len(format.components) == 1
    full = frame.color_range == FULL or format.name.startswith("yuvj") or (gray and frame.color_range != LIMITED)
    return Picture(
        width=frame.width,
        height=frame.height,
        pix_fmt=format.name,
        depth=VideoFormat(working).components[0].bits,
        sample_aspect_ratio=sample_aspect_ratio or Fraction(1),
        rotation=frame.rotation,
        full_range=full and not rgb,
        matrix=matrix,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
        interlaced=frame.interlaced_frame,
        has_alpha=format.has_palette or len(format.components) in (2, 4),
        working_format=working,
        is_rgb=rgb,
    )


def _working_format(format: VideoFormat, rgb: bool) -> str:
    if _PLANAR.fullmatch(format.name):
        return format.name
    bits = format.components[0].bits
    depth = "" if bits <= 8 else f"{next(deep for deep in (9, 10, 12, 14, 16, 32) if deep >= bits)}le"
    if rgb:
        return f"yuv444p{depth}"
    if len(format.components) <= 2:  # gray, perhaps with transparency
        return f"gray{depth}"
    across, down = 64 // (format.chroma_width(64) or 64), 64 // (format.chroma_height(64) or 64)
    grid = {(2, 2): "420", (2, 1): "422", (1, 1): "444", (4, 1): "411", (1, 2): "440"}.get((across, down), "444")
    return f"yuv{grid}p{depth}"


def luma_of(frame: VideoFrame, picture: Picture) -> Plane:
    """The luma plane (H, W), uint8 or, above 8 bits, uint16. A view: it lives as long as the frame."""
    if picture.is_rgb:
        frame = frame.reformat(format=picture.working_format, dst_colorspace=picture.matrix, dst_color_range=LIMITED)
    elif picture.working_format != picture.pix_fmt:
        frame = frame.reformat(format=picture.working_format)  # samples are moved, not changed
    return _view(frame, 0, picture.depth)


def output_format(picture: Picture, encodable: list[str]) -> str | None:
    """The format that keeps the luma's depth and the source's chroma grid, out of those an encoder takes.

    Where the encoder has no such grid, a finer one; where the source has none (gray, RGB), 4:2:0, or 4:4:4 for
    odd sizes, which 4:2:0 encoders refuse. None when nothing keeps the depth.
    """
    suffix = "" if picture.depth == 8 else f"p{picture.depth}le"
    even = picture.width % 2 == 0 and picture.height % 2 == 0
    own = next(
        (
            grid
            for grid in ("420", "422", "444")
            if f"yuv{grid}p" in re.sub("yuv[aj]", "yuv", picture.working_format) and not picture.is_rgb
        ),
        "420",
    )
    wanted = [own, "444"] if even or "yuv444p" not in encodable else ["444"]
    for grid in [*wanted, "422", "420"]:
        name = f"yuv{grid}{suffix or 'p'}"
        if name in encodable:
            return name
    return None


def assemble(luma: Plane, chroma: tuple[Plane, Plane], format: str) -> VideoFrame:
    """A new frame of `format` from its three planes, each copied as it is."""
    height, width = luma.shape
    frame = VideoFrame(width, height, format)
    depth = 8 if luma.dtype == np.uint8 else 16
    for index, plane in enumerate((luma, *chroma)):
        _view(frame, index, depth)[:] = plane
    return frame


def chroma_shape(width: int, height: int, format: str) -> tuple[int, int]:
    """Height and width of the chroma planes of a picture."""
    described = VideoFormat(format, width, height)
    return described.chroma_height(), described.chroma_width()


def _view(frame: VideoFrame, index: int, depth: int) -> Plane:
    plane = frame.planes[index]
    lines: Plane = (
        np.frombuffer(memoryview(plane), np.uint8)
        if depth == 8
        else np.frombuffer(memoryview(plane), np.uint16)  # little-endian formats only, on little-endian machines
    )
    return lines.reshape(plane.height, -1)[:, : plane.width]  # lines are padded


def encodable_formats(encoder: str) -> list[str]:
    """Names of the pixel formats an encoder takes."""
    return [format.name for format in av.Codec(encoder, "w").video_formats or []]
