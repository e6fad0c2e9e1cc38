"""Colouring one segment: a pure function of its packets, the colorizer and the encoding.

packets → frames → luma → thumbnails → chroma of a batch → full planes → encoder → Chunk
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import av.error
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinochrome_proto.errors import BadFilm, Cancelled

from . import chroma
from .codecs import Encoding
from .engine import CpuEngine
from .film import Segment, Source, open_for_decoding
from .planes import Plane, assemble, luma_of

BATCH = 8
"""Frames that go through the colorizer at once, and that a worker holds at a time."""


@dataclass(frozen=True)
class EncodedPacket:
    """A packet of the coloured stream, in the film's time base."""

    data: bytes
    pts: int
    duration: int
    is_keyframe: bool


@dataclass
class Chunk:
    """A coloured, encoded segment."""

    index: int
    frames: int = 0
    packets: list[EncodedPacket] = field(default_factory=list)
    """In decoding order; the first a keyframe."""
    warnings: list[str] = field(default_factory=list)


class Worker:
    """Colours segments of one film, one at a time. Each thread has its own: decoders are not thread-safe."""

    def __init__(
        self,
        source: Source,
        engine: CpuEngine,
        geometry: chroma.Geometry,
        encoding: Encoding,
        *,
        lenient: bool,
        cancelled: threading.Event,
        on_frames: Callable[[int], None],
    ) -> None:
        self.source, self.engine, self.geometry, self.encoding = source, engine, geometry, encoding
        self.lenient, self.cancelled, self.on_frames = lenient, cancelled, on_frames
        self.file: BinaryIO
        self.container: InputContainer
        self.video: VideoStream
        self.file, self.container, self.video = open_for_decoding(source)
        self.decoder = self.video.codec_context
        self._prime()

    def _prime(self) -> None:
        """Show the decoder the film's first packet, which may tell what no later one does.

        x264 names its version only there, and libav decodes 4:4:4 of versions before 151 differently; MPEG-4
        encoders name theirs likewise. Without it, every segment but the first can decode to something else.
        """
        with contextlib.suppress(av.error.FFmpegError):  # a damaged first packet is reported with its segment
            for packet in self.container.demux(self.video):
                if packet.size:
                    self.decoder.decode(packet)
                    break

    def close(self) -> None:
        self.container.close()
        self.file.close()

    def colorize(self, segment: Segment) -> Chunk:
        """Raises BadFilm when a frame cannot be decoded (unless lenient), Cancelled."""
        chunk = Chunk(segment.index)
        encoder = self.encoding.open()
        durations = {packet.pts: packet.duration or 0 for packet in segment.packets}
        batch: list[tuple[VideoFrame, Plane]] = []
        for frame in self._decode(segment, chunk):
            batch.append((frame, luma_of(frame, self.geometry.picture)))
            if len(batch) == BATCH:
                self._paint(batch, encoder, durations, chunk)
                batch.clear()
        if batch:
            self._paint(batch, encoder, durations, chunk)
        if chunk.frames:
            self._take(encoder.encode(None), durations, chunk)
        return chunk

    def _decode(self, segment: Segment, chunk: Chunk) -> Iterator[VideoFrame]:
        """The segment's frames in showing order, each with a timestamp."""
        self.decoder.flush_buffers()
        first = segment.packets[0].pts if segment.packets else None
        leading = first is not None and any(p.pts is not None and p.pts < first for p in segment.packets)
        if leading:
            # An open group of pictures: its first frames are shown before its keyframe, and lean on the frames
            # before that. Those belong to the segment before and are decoded for their sake only.
            own = {packet.pts for packet in segment.packets}
            for packet in segment.warm_up:
                yield from (f for f in self._frames(packet, chunk, warming_up=True) if f.pts in own)
        elif segment.packets and segment.packets[0].is_keyframe is False:
            chunk.warnings.append("the film does not start with a keyframe: its first frames may be damaged")
        for packet in segment.packets:
            frames = self._frames(packet, chunk)
            yield from (f for f in frames if not leading or f.pts in own)
        yield from self._frames(None, chunk)

    def _frames(self, packet: Any, chunk: Chunk, warming_up: bool = False) -> list[VideoFrame]:
        if self.cancelled.is_set():
            raise Cancelled("cancelled")
        try:
            return self.decoder.decode(packet)
        except (av.error.InvalidDataError, av.error.EOFError) as error:
            if warming_up or isinstance(error, av.error.EOFError):
                return []
            time = float(packet.pts * packet.time_base) if packet is not None and packet.pts is not None else None
            where = f"at {time:.2f} s" if time is not None else "somewhere"
            if not self.lenient:
                raise BadFilm(
                    f"{self.source.name}: a frame {where} cannot be decoded; --lenient colours the others"
                ) from None
            chunk.warnings.append(f"{self.source.name}: a frame {where} cannot be decoded and is left out")
            return []

    def _paint(
        self,
        batch: list[tuple[VideoFrame, Plane]],
        encoder: VideoCodecContext,
        durations: dict[int | None, int],
        chunk: Chunk,
    ) -> None:
        small = np.stack([chroma.thumbnail(luma, self.geometry) for _, luma in batch])
        for (frame, luma), thumbnail, painted in zip(batch, small, self.engine.run(small), strict=True):
            planes = chroma.chroma_planes(painted, thumbnail, luma, self.geometry)
            coloured = assemble(luma, planes, self.geometry.format)
            coloured.pts, coloured.time_base = frame.pts, self.encoding.facts.time_base
            self._take(encoder.encode(coloured), durations, chunk)
        chunk.frames += len(batch)
        self.on_frames(len(batch))

    def _take(self, packets: list[Any], durations: dict[int | None, int], chunk: Chunk) -> None:
        for packet in packets:
            chunk.packets.append(
                EncodedPacket(bytes(packet), packet.pts, durations.get(packet.pts, 0), packet.is_keyframe)
            )
