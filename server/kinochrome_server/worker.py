"""Colouring one segment: a pure function of its packets, the colorizer and the encoding.

packets → frames → luma → thumbnails → chroma of a batch → full planes → encoder → Chunk
"""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
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


_HIDDEN_FRAMES = ("vp8", "vp9", "av1")  # packets of these may hold frames that are never shown


class _OutOfOrder(Exception):
    """Frames came in another order than their times."""


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
        facts = encoding.facts
        self.tick = max(1, round(1 / (facts.frame_rate * facts.time_base)))
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
        """Raises BadFilm when a frame cannot be decoded (unless lenient), Cancelled.

        A segment is decoded from its first packet on, and again in another way where that turns out not to do:
        the film then is one whose frames lean on earlier ones, or whose packets carry times of decoding.
        """
        times = [packet.pts for packet in segment.packets if packet.pts is not None and not packet.is_discard]
        first = segment.packets[0].pts if segment.packets else None
        warm_up = first is not None and any(time < first for time in times)  # an open group of pictures
        by_rank = False
        while True:
            can_warm_up = bool(segment.warm_up and times) and not warm_up
            chunk = Chunk(segment.index)
            try:
                self._attempt(segment, chunk, times, warm_up=warm_up, by_rank=by_rank)
                lost = len(times) - chunk.frames
            except _OutOfOrder:
                self.on_frames(-chunk.frames)
                by_rank = True
                continue
            except BadFilm:
                if not can_warm_up:
                    raise
                lost = len(times)
            if can_warm_up and lost > 0:
                self.on_frames(-chunk.frames)
                warm_up = True
                continue
            if lost > 0 and self.decoder.codec.canonical_name not in _HIDDEN_FRAMES:
                chunk.warnings.append(
                    f"{self.source.name}: {lost} packets{self._at(segment.packets[0])} and after gave no frame"
                )
            return chunk

    def _attempt(self, segment: Segment, chunk: Chunk, times: list[int], *, warm_up: bool, by_rank: bool) -> None:
        encoder = self.encoding.open()
        durations = {packet.pts: packet.duration or self.tick for packet in segment.packets}
        batch: list[tuple[VideoFrame, Plane]] = []
        frames = self._decode(segment, chunk, warm_up=warm_up)
        for frame in self._timed(frames, segment, times, by_rank=by_rank):
            batch.append((frame, luma_of(frame, self.geometry.picture)))
            if len(batch) == BATCH:
                self._paint(batch, encoder, durations, chunk)
                batch.clear()
        if batch:
            self._paint(batch, encoder, durations, chunk)
        if chunk.frames:
            self._take(encoder.encode(None), durations, chunk)

    def _decode(self, segment: Segment, chunk: Chunk, *, warm_up: bool) -> Iterator[VideoFrame]:
        """The segment's frames in showing order."""
        self.decoder.flush_buffers()
        own = {packet.pts for packet in segment.packets}
        if warm_up:
            # Frames of the segment before are decoded for the sake of those that lean on them, and not shown.
            for packet in segment.warm_up:
                yield from (frame for frame in self._frames(packet, chunk, warming_up=True) if frame.pts in own)
        for packet in segment.packets:
            yield from (frame for frame in self._frames(packet, chunk) if not warm_up or frame.pts in own)
        yield from self._frames(None, chunk)

    def _timed(
        self, frames: Iterator[VideoFrame], segment: Segment, times: list[int], *, by_rank: bool
    ) -> Iterator[VideoFrame]:
        """The same frames, each with a timestamp later than the one before."""
        facts = self.encoding.facts
        ranked = sorted(times)
        last: int | None = None
        for index, frame in enumerate(frames):
            self._check(frame)
            if not facts.has_timestamps:
                frame.pts = round((segment.first_frame + index) / (facts.frame_rate * facts.time_base))
            elif by_rank:
                # AVI keeps times of decoding only: in the order of showing, they are those times in order.
                frame.pts = ranked[index] if index < len(ranked) else (last or 0) + self.tick
            elif frame.pts is None:
                frame.pts = last + self.tick if last is not None else ranked[0] if ranked else 0
            if last is not None and frame.pts <= last and not by_rank and len(set(times)) == len(times):
                raise _OutOfOrder
            last = frame.pts
            yield frame

    def _check(self, frame: VideoFrame) -> None:
        picture = self.geometry.picture
        if (frame.width, frame.height, frame.format.name) != (picture.width, picture.height, picture.pix_fmt):
            raise BadFilm(
                f"{self.source.name}: its picture changes from {picture.width}x{picture.height} {picture.pix_fmt} to "
                f"{frame.width}x{frame.height} {frame.format.name}{self._at(frame)}: split it there first"
            )

    def _frames(self, packet: Packet[Stream] | None, chunk: Chunk, warming_up: bool = False) -> list[VideoFrame]:
        if self.cancelled.is_set():
            raise Cancelled("cancelled")
        try:
            return self.decoder.decode(packet)
        except av.error.EOFError:
            return []
        except av.error.FFmpegError:
            if warming_up:
                return []
            where = self._at(packet)
            if not self.lenient:
                raise BadFilm(
                    f"{self.source.name}: a frame{where} cannot be decoded; --lenient colours the others"
                ) from None
            chunk.warnings.append(f"{self.source.name}: a frame{where} cannot be decoded and is left out")
            return []

    def _at(self, moment: Packet[Stream] | VideoFrame | None) -> str:
        if moment is None or moment.pts is None:
            return ""
        return f" at {float(moment.pts * self.encoding.facts.time_base):.2f} s"

    def _paint(
        self,
        batch: list[tuple[VideoFrame, Plane]],
        encoder: VideoCodecContext,
        durations: dict[int | None, int],
        chunk: Chunk,
    ) -> None:
        small = np.stack([chroma.thumbnail(luma, self.geometry) for _, luma in batch])
        turns = self.geometry.turns  # the colorizer sees the film as it is shown
        chroma_batch = np.rot90(self.engine.run(np.rot90(small, turns, (1, 2))), -turns, (2, 3))
        for (frame, luma), thumbnail, painted in zip(batch, small, chroma_batch, strict=True):
            planes = chroma.chroma_planes(painted, thumbnail, luma, self.geometry)
            coloured = assemble(luma, planes, self.geometry.format)
            coloured.pts, coloured.time_base = frame.pts, self.encoding.facts.time_base
            self._take(encoder.encode(coloured), durations, chunk)
        chunk.frames += len(batch)
        self.on_frames(len(batch))

    def _take(self, packets: list[Any], durations: dict[int | None, int], chunk: Chunk) -> None:
        for packet in packets:
            chunk.packets.append(
                EncodedPacket(bytes(packet), packet.pts, durations.get(packet.pts, self.tick), packet.is_keyframe)
            )
