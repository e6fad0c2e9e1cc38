"""Planes of pictures: their formats, the source's luma, and putting luma and new chroma together.

Luma is sacred: `luma_of` gives the decoded Y plane as it is, and `assemble` copies it byte for byte.
"""

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

Plane = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

# Code points of ITU-T H.273, table 4: matrix coefficients
RGB, BT709, UNSPECIFIED, FCC, BT470BG, SMPTE170M, SMPTE240M, BT2020 = 0, 1, 2, 4, 5, 6, 7, 9
LIMITED, FULL = 1, 2  # libav's code points of colour range; 0 is unspecified

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
    has_luma_plane: bool
    """False for RGB and palette pictures, whose luma is computed once, here, in limited range."""

    @property
    def working_format(self) -> str:
        """The planar format in which the picture's luma is read."""
        return self.pix_fmt if self.has_luma_plane else "yuv444p"


def picture_of(frame: VideoFrame, stream: VideoStream) -> Picture:
    """Describe a decoded frame; the stream knows the aspect ratio and what the frame leaves open."""
    format = frame.format
    has_luma = not format.is_rgb and not format.has_palette and not format.is_bit_stream and _is_planar_yuv(format)
    matrix = frame.colorspace
    if matrix not in LUMA_WEIGHTS or not has_luma:
        matrix = BT709 if frame.height > 576 or frame.width > 1024 else SMPTE170M  # what players assume
    gray = len(format.components) == 1
    full = frame.color_range == FULL or format.name.startswith("yuvj") or (gray and frame.color_range != LIMITED)
    return Picture(
        width=frame.width,
        height=frame.height,
        pix_fmt=format.name,
        depth=format.components[0].bits if has_luma else 8,
        sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
        rotation=frame.rotation,
        full_range=full and has_luma,
        matrix=matrix,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
        interlaced=frame.interlaced_frame,
        has_alpha=format.has_palette or len(format.components) in (2, 4),
        has_luma_plane=has_luma,
    )


def _is_planar_yuv(format: VideoFormat) -> bool:
    """Whether plane 0 holds luma samples alone, little-endian."""
    components = format.components
    alone = all(component.plane != 0 for component in components[1:])
    return alone and not format.is_big_endian and components[0].bits >= 8


def luma_of(frame: VideoFrame, picture: Picture) -> Plane:
    """The luma plane (H, W), uint8 or, above 8 bits, uint16. A view: it lives as long as the frame."""
    if not picture.has_luma_plane:
        frame = frame.reformat(format=picture.working_format, dst_colorspace=picture.matrix, dst_color_range=LIMITED)
    return _view(frame, 0, picture.depth)


def output_format(picture: Picture, encodable: list[str]) -> str | None:
    """The format that keeps the luma's depth and the source's chroma grid, out of those an encoder takes.

    Where the encoder has no such grid, a finer one; where the source has none (gray, RGB), 4:2:0, or 4:4:4 for
    odd sizes, which 4:2:0 encoders refuse. None when nothing keeps the depth.
    """
    suffix = "" if picture.depth == 8 else f"p{picture.depth}le"
    even = picture.width % 2 == 0 and picture.height % 2 == 0
    own = next((grid for grid in ("420", "422", "444") if f"yuv{grid}p" in picture.pix_fmt.replace("j", "")), "420")
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
