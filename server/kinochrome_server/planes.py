"""Planes of pictures: their formats, the source's luma, and putting luma and new chroma together.

Luma is sacred: `luma_of` gives the decoded Y plane as it is, and `assemble` copies it byte for byte, or scales it
exactly to the deeper samples of an output that has no other.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

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

_YUV = re.compile(r"yuv4(20|22|44|40|11|10)p((9|10|12|14|16)le)?")  # what films are written in
_GRIDS = re.compile(r"yuv4(20|22|44)p((9|10|12|14|16)le)?")  # those of them that are chosen unasked

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
    field_order: str
    """The field shown first: "tff" (top), "bff" (bottom), or "" of whole frames."""
    has_alpha: bool
    working_format: str
    """The planar, little-endian format in which luma is read: the picture's own where it is one; its twin of the same
    grid and depth where samples are packed or big-endian; for RGB and palettes a YUV format of their depth, whose
    luma is computed once, here, in limited range."""
    is_rgb: bool
    """Whether the picture has no luma of its own."""


def picture_of(frame: VideoFrame, sample_aspect_ratio: Fraction | None, field_order: str = "") -> Picture:
    """Describe a decoded frame, of a stream of this aspect ratio and field order (`fields.marked` of the frame)."""
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
        field_order=field_order,
        has_alpha=format.has_palette or len(format.components) in (2, 4),
        working_format=working,
        is_rgb=rgb,
    )


def _working_format(format: VideoFormat, rgb: bool) -> str:
    if _PLANAR.fullmatch(format.name):
        return format.name
    bits = format.components[0].bits
    depth = "" if bits <= 8 else f"{next((deep for deep in (9, 10, 12, 14) if deep >= bits), 16)}le"
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


def output_format(picture: Picture, encodable: Iterable[str]) -> str | None:
    """The format that keeps the luma's depth and the source's chroma grid, out of those an encoder takes.

    Where the encoder lacks the depth, the next deeper one, which holds the luma exactly; where it lacks the grid, a
    finer one. Where the source has no grid (gray, RGB), 4:2:0, or 4:4:4 for odd sizes, which 4:2:0 encoders refuse.
    None when nothing holds the depth.
    """
    even = picture.width % 2 == 0 and picture.height % 2 == 0
    own = next(
        (
            grid
            for grid in ("420", "422", "444")
            if f"yuv{grid}p" in re.sub("yuv[aj]", "yuv", picture.working_format) and not picture.is_rgb
        ),
        "420",
    )
    choice = {(depth_of(name), name[3:6]): name for name in encodable if _GRIDS.fullmatch(name)}
    for depth in sorted({depth for depth, _ in choice if depth >= picture.depth}):
        wanted = [own, "444"] if even or (depth, "444") not in choice else ["444"]
        for grid in [*wanted, "422", "420"]:
            if (depth, grid) in choice:
                return choice[depth, grid]
    return None


def assemble(
    luma: Plane, chroma: tuple[Plane, Plane], format: str, depth: int = 0, full_range: bool = False
) -> VideoFrame:
    """A new frame of `format` from its three planes.

    Args:
        luma: (H, W). It is copied as it is or, where the format has another depth, brought to it by `at_depth`.
        chroma: two planes of the format's own grid and depth, copied as they are.
        format: the output's.
        depth: bits of a luma sample; 0 is the format's.
        full_range: whether luma uses all code values, which other depths stretch over all of theirs.
    """
    height, width = luma.shape
    frame = VideoFrame(width, height, format)
    out_depth = depth_of(format)
    planes = at_depth(luma, depth or out_depth, out_depth, full_range=full_range), *chroma
    for index, plane in enumerate(planes):
        _view(frame, index, out_depth)[:] = plane
    return frame


def at_depth(plane: Plane, depth: int, wanted: int, *, full_range: bool) -> Plane:
    """Luma of `depth` bits with samples of `wanted` bits, 8 to 16.

    ITU-T H.273 scales limited-range code values by powers of two, so deeper means shifted left; the full range's top
    is all ones at any depth, so there v becomes round(v·(2^wanted - 1)/(2^depth - 1)). Deeper luma is brought back
    exactly by the way down, which rounds to the nearest value.
    """
    if wanted == depth:
        return plane
    scaled: Plane = _scale(depth, wanted, full_range)[plane]
    return scaled


@cache
def _scale(depth: int, wanted: int, full_range: bool) -> Plane:
    """The new value of each old one."""
    values, top, new_top = np.arange(1 << depth, dtype=np.int64), (1 << depth) - 1, (1 << wanted) - 1
    if full_range:
        scaled = (values * new_top + top // 2) // top
    elif wanted > depth:
        scaled = values << (wanted - depth)
    else:
        scaled = (values + (1 << (depth - wanted - 1))) >> (depth - wanted)
    kept = scaled.clip(0, new_top)
    return kept.astype(np.uint8) if wanted == 8 else kept.astype(np.uint16)


def depth_of(format: str) -> int:
    """Bits of a luma sample of a pixel format."""
    return VideoFormat(format).components[0].bits


def sample_type(depth: int) -> type[np.uint8] | type[np.uint16]:
    """The array type of samples of `depth` bits."""
    return np.uint8 if depth == 8 else np.uint16


def chroma_shape(width: int, height: int, format: str) -> tuple[int, int]:
    """Height and width of the chroma planes of a picture."""
    described = VideoFormat(format, width, height)
    return described.chroma_height(), described.chroma_width()


def plane_of(frame: VideoFrame, index: int) -> Plane:
    """A plane of a planar, little-endian frame. A view: it lives as long as the frame."""
    return _view(frame, index, depth_of(frame.format.name))


def _view(frame: VideoFrame, index: int, depth: int) -> Plane:
    plane = frame.planes[index]
    lines: Plane = (
        np.frombuffer(memoryview(plane), np.uint8)
        if depth == 8
        else np.frombuffer(memoryview(plane), np.uint16)  # little-endian formats only, on little-endian machines
    )
    return lines.reshape(plane.height, -1)[:, : plane.width]  # lines are padded


def encodable_formats(encoder: str) -> list[str]:
    """Names of the planar YUV formats, little-endian and without transparency, that an encoder takes."""
    names = [format.name for format in av.Codec(encoder, "w").video_formats or []]
    return [name for name in names if _YUV.fullmatch(name)]
