"""Takes films apart: frames with their planes and times, packets of copied streams, tags."""

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame


@dataclass(frozen=True)
class Picture:
    """A decoded frame."""

    time: Fraction | None
    """Seconds, exactly."""
    planes: list[npt.NDArray[np.generic]]
    """As decoded; for RGB sources, of the frame brought to yuv444p as the pipeline does."""
    depth: int
    full_range: bool
    matrix: int
    rotation: int
    patched: bool
    """Whether parts of it were lost, and are the decoder's guess."""

    @property
    def luma(self) -> npt.NDArray[np.generic]:
        return self.planes[0]

    def chroma_strength(self) -> float:
        """Mean distance of chroma from neutral, in 8-bit code values."""
        middle, scale = 1 << (self.depth - 1), 1 << (self.depth - 8)
        return float(np.mean([np.abs(plane.astype(float) - middle).mean() for plane in self.planes[1:3]])) / scale


def pictures(file: Path) -> list[Picture]:
    """All frames of the first video stream, decoded front to back by one decoder."""
    found = []
    with av.open(str(file), metadata_errors="surrogateescape") as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            time = frame.pts * stream.time_base if frame.pts is not None and stream.time_base else None
            found.append(_picture(frame, time))
    return found


def _picture(frame: VideoFrame, time: Fraction | None) -> Picture:
    colorspace, full = frame.colorspace, frame.color_range == 2 or frame.format.name.startswith("yuvj")
    rotation, patched = frame.rotation, frame.is_corrupt
    if frame.format.is_rgb or frame.format.has_palette:
        matrix = 1 if frame.height > 576 or frame.width > 1024 else 6
        frame, full = frame.reformat(format="yuv444p", dst_colorspace=matrix, dst_color_range=1), False
    bits = frame.format.components[0].bits
    planes = []
    for plane in frame.planes:
        dtype: type[np.uint8] | type[np.uint16] = np.uint8 if bits == 8 else np.uint16
        lines = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)
        planes.append(lines[:, : plane.width].copy())
    return Picture(time, planes, bits, full, colorspace, rotation, patched)


@dataclass(frozen=True)
class Track:
    """A copied stream."""

    type: str
    language: str | None
    disposition: int
    packets: list[str]
    """A hash of each packet's bytes."""
    times: list[float]


def tracks(file: Path, *types: str) -> list[Track]:
    """The streams of these types (audio, subtitle), with their packets."""
    with av.open(str(file), metadata_errors="surrogateescape") as container:
        found = {
            stream.index: Track(stream.type, stream.language, int(stream.disposition), [], [])
            for stream in container.streams
            if stream.type in types
        }
        for packet in container.demux():
            if bytes(packet) == b"\0\0":
                continue  # MP4's timed text, between two texts
            if packet.size and packet.stream_index in found and packet.pts is not None and packet.time_base:
                track = found[packet.stream_index]
                track.packets.append(hashlib.sha256(_unframed(bytes(packet))).hexdigest())
                track.times.append(float(packet.pts * packet.time_base))
    return list(found.values())


def _unframed(packet: bytes) -> bytes:
    """AAC without its ADTS header, which MPEG-TS has and other containers have not."""
    return packet[7:] if packet[:2] in (b"\xff\xf1", b"\xff\xf9") else packet


def video_packets(file: Path) -> list[tuple[Fraction, bytes]]:
    """(time, bytes) of every packet of the first video stream, in file order."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        return [
            (packet.pts * stream.time_base, bytes(packet))
            for packet in container.demux(stream)
            if packet.size and packet.pts is not None and stream.time_base
        ]


def seconds(file: Path) -> float:
    """Duration as the container says."""
    with av.open(str(file), metadata_errors="surrogateescape") as container:
        return (container.duration or 0) / av.time_base
