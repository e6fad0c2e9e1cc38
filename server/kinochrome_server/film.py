"""Reading films: opening them safely, what they are, and their packets cut into segments.

A film is read once, front to back, by `Film.segments`; what it yields holds the compressed packets, so workers
never seek. All bytes come through a file object: libav never learns a name and may open nothing else.
"""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Protocol

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinochrome_proto.errors import BadFilm

from .planes import Picture, picture_of
from .random_access import random_access
from .stated_size import stated_size

MIN_SEGMENT_FRAMES = 48
"""Keyframes nearer than this share a segment: each segment starts with an expensive key frame of its own."""

READ_SIZE = 1 << 20  # bytes a read through Python: 32 KiB, the default, costs six times the calls

# Containers of films, and nothing that can name other files (playlists, concat, SDP, image sequences).
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,gif,apng,ogg,asf,mxf,nut,ivf,rm,dv,"
    "h264,hevc,obu,mpegvideo,m4v,yuv4mpegpipe,mjpeg,vc1,wtv,bink,roq,smk"
)
_SAFE = {"protocol_whitelist": "none", "format_whitelist": _FORMATS}


class Source(Protocol):
    """Where a film's bytes come from. Each `open` gives an independent reader from the first byte."""

    @property
    def name(self) -> str:
        """For messages only."""

    def open(self) -> BinaryIO:
        """An independent reader."""

    def size(self) -> int | None:
        """Bytes of the whole film; None while that is not known."""


@dataclass(frozen=True)
class FileSource:
    """A film on this machine's disk."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def open(self) -> BinaryIO:
        return self.path.open("rb", buffering=0)

    def size(self) -> int | None:
        return self.path.stat().st_size


@dataclass
class Segment:
    """A run of frames that starts at a source keyframe: the unit of work."""

    index: int
    first_frame: int = 0
    """Video packets of the film before this segment: where it starts, in films that have no timestamps."""
    packets: list[Packet[Stream]] = field(default_factory=list)
    """Video packets in decoding order, the first a keyframe."""
    warm_up: list[Packet[Stream]] = field(default_factory=list)
    """Packets to decode first and show nothing of, when frames of this segment lean on the one before."""
    copied: list[Packet[Stream]] = field(default_factory=list)
    """Packets of the other streams that lie between these in the film, in file order."""


@dataclass(frozen=True)
class Facts:
    """What is known of a film before it is coloured."""

    picture: Picture
    """Size, format and colour of its decoded frames."""
    time_base: Fraction
    """Seconds per tick of every timestamp of the video stream."""
    frame_rate: Fraction
    """Nominal frames a second: for rate control and for frames without a timestamp."""
    frames_expected: int
    """As the container says; 0 when it does not say."""
    has_timestamps: bool
    """False for raw streams, whose frames are then counted at `frame_rate`."""


class Film:
    """An open film. Use as a context manager."""

    def __init__(self, source: Source) -> None:
        """Raises BadFilm when it cannot be opened, holds no video, or not one frame can be decoded."""
        self.source = source
        self.facts = _facts(source)
        self.file, self.container = _open(source)
        self.video = _video_stream(self.container, source)

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.container.close()
        self.file.close()

    def segments(self, *, lenient: bool, warn: Callable[[str], None]) -> Iterator[Segment]:
        """Read the film to its end, a segment at a time.

        Raises BadFilm where it breaks off or lacks its end, unless `lenient`: then what was readable is
        yielded and `warn` is told.
        """
        segment = Segment(0)
        end = _End(self.container)
        can_start = random_access(self.video)
        known = {stream.index for stream in self.container.streams}
        packets = iter(self.container.demux(*(stream for stream in self.container.streams)))
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self._broken(f"cannot be read past {end.seconds:.1f} s ({error.strerror})", lenient, warn)
                break
            if packet is None:
                break
            if packet.size == 0:
                continue
            end.see(packet)
            if packet.stream_index != self.video.index:
                if packet.stream_index in known:
                    segment.copied.append(packet)
                continue
            if len(segment.packets) >= MIN_SEGMENT_FRAMES and can_start(packet):
                yield segment
                first_frame = segment.first_frame + len(segment.packets)
                segment = Segment(segment.index + 1, first_frame, warm_up=segment.packets)
            segment.packets.append(packet)
        if cut := _cut_off(self.source):
            self._broken(cut, lenient, warn)
        elif missing := end.missing():
            self._broken(f"breaks off: it says it lasts {missing} than what is there", lenient, warn)
        yield segment

    def _broken(self, fault: str, lenient: bool, warn: Callable[[str], None]) -> None:
        if not lenient:
            raise BadFilm(f"{self.source.name} {fault}; --lenient colours what can be read")
        warn(f"{self.source.name} {fault}")


class _End:
    """Follows how far the packets reach, to tell a film that was cut off from one that is whole."""

    SLACK = 1.0  # seconds: durations in headers are often rounded, or count another stream's tail

    def __init__(self, container: InputContainer) -> None:
        # An estimate from the bit rate is no promise: only headers that state a duration are held to it.
        states_duration = container.format.name.split(",")[0] in ("mov", "matroska", "flv", "avi")
        self.declared = (container.duration or 0) / av.time_base if states_duration else 0.0
        self.start = (container.start_time or 0) / av.time_base
        self.seconds = 0.0

    def see(self, packet: Packet[Stream]) -> None:
        time = packet.pts if packet.pts is not None else packet.dts
        if time is not None:
            self.seconds = max(self.seconds, float((time + (packet.duration or 0)) * packet.time_base) - self.start)

    def missing(self) -> str:
        """How much longer the film says it is, in words; empty when it is whole."""
        lost = self.declared - self.seconds
        return f"{lost:.1f} s longer" if lost > self.SLACK else ""


def open_for_decoding(source: Source) -> tuple[BinaryIO, InputContainer, VideoStream]:
    """Another reader of the same film, for its decoder. The caller closes container and file."""
    file, container = _open(source)
    return file, container, _video_stream(container, source)


def _open(source: Source) -> tuple[BinaryIO, InputContainer]:
    file = source.open()
    try:
        container = av.open(
            _Nameless(file, source),
            "r",
            container_options=_SAFE,
            metadata_errors="surrogateescape",  # old tags are not UTF-8, and must not cost the film
            buffer_size=READ_SIZE,
        )
    except (av.error.FFmpegError, OSError) as error:
        file.seek(0)
        empty = not file.read(1)
        file.close()
        if empty:
            raise BadFilm(f"{source.name} is empty") from None
        if cut := _cut_off(source):
            raise BadFilm(f"{source.name} {cut}, and its index is lost: nothing of it can be read") from None
        text = getattr(error, "strerror", None) or str(error)
        fault = "" if "Invalid data" in text else f" ({text})"
        raise BadFilm(f"{source.name} is not a film, or of a kind that is not known here{fault}") from None
    return file, container


def _cut_off(source: Source) -> str:
    """In words, by how much the film's file is shorter than it says; empty when it is whole or does not say."""
    with source.open() as file:
        stated = stated_size(file)
        size = file.seek(0, io.SEEK_END)
    return f"is cut off: {size} of at least {stated} bytes are there" if stated and stated > size else ""


class _Nameless(io.RawIOBase):
    """Hides the file's name: libav would choose a demuxer by it, and resolve playlists against it."""

    def __init__(self, file: BinaryIO, source: Source) -> None:
        self._file, self._source = file, source

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self._source.size() is None:
            # libav seeks from the end only to ask for the size, for an estimate that it can do without; waiting
            # for the end of an upload here would keep every film from being coloured while it comes.
            return -1
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def _video_stream(container: InputContainer, source: Source) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails):
            if stream.codec_context is None:
                raise BadFilm(f"{source.name}: its video codec is unknown here")
            return stream
    container.close()
    raise BadFilm(f"{source.name} holds no video stream: there is nothing to colour")


def _facts(source: Source) -> Facts:
    file, container = _open(source)
    with file, container:
        video = _video_stream(container, source)
        if video.time_base is None:
            raise BadFilm(f"{source.name}: its video stream has no time base")
        rate = video.guessed_rate or video.average_rate or Fraction(25)
        if not 0 < rate <= 1000:
            rate = Fraction(25)
        frame = _first_frame(container, video, source)
        return Facts(
            picture=picture_of(frame, video.sample_aspect_ratio),
            time_base=video.time_base,
            frame_rate=rate,
            frames_expected=video.frames or round((container.duration or 0) / av.time_base * rate),
            has_timestamps=frame.pts is not None,
        )


def _first_frame(container: InputContainer, video: VideoStream, source: Source) -> VideoFrame:
    try:
        for packet in container.demux(video):
            try:
                for frame in packet.decode():
                    if isinstance(frame, VideoFrame):
                        return frame
            except av.error.FFmpegError:
                continue  # damaged at its start: a later frame may do; strict runs refuse it when they decode it
    except av.error.FFmpegError:  # of the demuxer
        pass
    raise BadFilm(f"{source.name}: not one frame of its video can be decoded")
