"""Reading films: opening them safely, what they are, and their packets cut into segments.

A film is read once, front to back, by `Film.segments`; what it yields are files that hold the compressed packets, so
workers never seek. All bytes come through a file object: libav never learns a name and may open nothing else.
"""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

import contextlib
import hashlib
import io
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinochrome_proto.errors import BadFilm, BadSettings

from .fields import field_order_of, marked
from .packets import Role, StoredPacket, read_packets, write_packet
from .planes import Picture, luma_of, picture_of
from .random_access import random_access
from .sources import Source
from .stated_size import stated_size

MIN_SEGMENT_FRAMES = 96
"""Keyframes nearer than this share a segment: each starts with an expensive key frame, and paints frames of others."""
FIRST_SEGMENT_FRAMES = 24
"""The same for a film's first segment, which somebody waits for."""
WARM_UP = 12
"""Frames before a segment that go with it, so that cuts and steady colours are those of an unbroken run."""
LOOK_AHEAD = 16
"""Packets after a segment that go with it: enough for the frames that its stabiliser looks ahead, and reordering."""

READ_SIZE = 1 << 20  # bytes a read through Python: 32 KiB, the default, costs six times the calls

# Containers of films, and nothing that can name other files (playlists, concat, SDP, image sequences).
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,gif,apng,ogg,asf,mxf,nut,ivf,rm,dv,"
    "h264,hevc,obu,mpegvideo,m4v,yuv4mpegpipe,mjpeg,vc1,wtv,bink,roq,smk"
)
_SAFE = {"protocol_whitelist": "none", "format_whitelist": _FORMATS}

FIELD_FRAMES = 32
"""First frames in which fields are looked for that are not marked."""
FIELD_PIXELS = 32 * 1920 * 1088
"""Pixels that these frames may have in all: larger ones are fewer."""

MAX_PIXELS = 1 << 27
"""Of a frame: twice what the largest film scanners give. A few kilobytes can claim any size (decompression bombs)."""
MAX_SIDE = 1 << 15
MAX_STREAMS = 256
MAX_FRAMES = 50_000_000
"""Of a film: about three weeks at 24 a second."""


@dataclass(frozen=True)
class Clip:
    """The part of a film that is wanted, in seconds from its first moment."""

    start: Fraction = Fraction(0)
    stop: Fraction | None = None
    """None: to the end."""

    @property
    def is_whole(self) -> bool:
        return not self.start and self.stop is None

    def __str__(self) -> str:
        """As the command has it."""
        until = "" if self.stop is None else f" --to {float(self.stop):g} s"
        return f"--from {float(self.start):g} s{until}"


@dataclass(frozen=True)
class Segment:
    """A run of frames that starts at a source keyframe: the unit of work."""

    index: int
    file: Path
    """Its packets, with some of the video before and after, and those of the other streams that lie between."""
    begins: Fraction
    """When it starts, in films that have no timestamps: seconds on the output's clock."""
    packets: int
    """Of its video."""
    sha256: str
    """Of its video packets and of those before and after that go with it, hexadecimal."""
    seconds: float
    """When it starts, from the film's first moment."""
    wanted: tuple[int, int | None] | None = None
    """Of a clip whose packets do not tell when they are shown: the ticks from which on, and up to which, frames are
    its own. Others that decoding gives are treated as the neighbours'."""


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
    fields_marked: bool
    """Whether frames say of themselves that they are interlaced; otherwise fields were seen in them, or none."""
    has_timestamps: bool
    """False for raw streams, whose frames are then counted at `frame_rate`."""
    start: Fraction
    """Seconds on the film's own clock at its first moment."""
    duration: Fraction
    """Seconds, as the container says; 0 when it does not say."""

    @property
    def tick(self) -> int:
        """Ticks of a frame at the nominal rate."""
        return max(1, round(1 / (self.frame_rate * self.time_base)))

    def plain(self) -> dict[str, Any]:
        """The same in JSON's types, for the way between processes."""
        plain = asdict(self)
        for part in (plain, plain["picture"]):
            part.update({key: str(value) for key, value in part.items() if isinstance(value, Fraction)})
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Facts:
        picture = dict(plain["picture"])
        picture["sample_aspect_ratio"] = Fraction(picture["sample_aspect_ratio"])
        times = {key: Fraction(plain[key]) for key in ("time_base", "frame_rate", "start", "duration")}
        return cls(**{**plain, **times, "picture": Picture(**picture)})


class Film:
    """An open film. Use as a context manager."""

    def __init__(self, source: Source, facts: Facts, clip: Clip = Clip()) -> None:
        """Raises BadFilm when it cannot be opened, BadSettings when it ends before the clip starts."""
        self.source, self.clip = source, clip
        if clip.stop is not None and clip.stop <= clip.start:
            raise BadSettings(f"--to {float(clip.stop):g} s does not come after --from {float(clip.start):g} s")
        if facts.duration and clip.start >= facts.duration:
            raise BadSettings(
                f"{source.name} ends at {float(facts.duration):g} s, before --from {float(clip.start):g} s"
            )
        self.file, self.container = _open(source)
        self.video = _video_stream(self.container, source)
        # Seconds by which times are moved: those of a clip are counted from where it starts, to the tick.
        self.shift = Fraction(0) if clip.is_whole else facts.start + clip.start
        self.shift -= self.shift % facts.time_base
        if not clip.is_whole and facts.duration:
            length = min(clip.stop or facts.duration, facts.duration) - clip.start
            facts = replace(facts, frames_expected=round(facts.frames_expected * length / facts.duration))
        self.facts = facts

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.container.close()
        self.file.close()

    def chapters(self) -> list[Any]:
        """Of the clip, with its times."""
        if self.clip.is_whole:
            return list(self.container.chapters())
        length = None if self.clip.stop is None else self.clip.stop - self.clip.start
        kept: list[Any] = []
        for chapter in self.container.chapters():
            time_base = Fraction(chapter["time_base"] or 1)
            start, end = (max(chapter[key] * time_base - self.shift, Fraction(0)) for key in ("start", "end"))
            if end > 0 and (length is None or start < length):
                end = end if length is None else min(end, length)
                kept.append({**chapter, "start": round(start / time_base), "end": round(end / time_base)})
        return kept

    @property
    def wanted(self) -> tuple[int, int | None] | None:
        """See `Segment.wanted`."""
        # AVI keeps times of decoding, raw streams none at all.
        if self.clip.is_whole or (self.facts.has_timestamps and self.container.format.name != "avi"):
            return None
        first, last = self.clip.start, self.clip.stop
        start, stop = (
            None if time is None else math.ceil((self.facts.start + time - self.shift) / self.facts.time_base)
            for time in (first, last)
        )
        return start or 0, stop

    def picture_in(self, index: int) -> bytes:
        """The picture in a stream that holds one, such as a cover."""
        with opened(self.source) as (container, _):
            for packet in container.demux(container.streams[index]):
                if packet.size:
                    return bytes(packet)
        return b""

    def segments(
        self, file_of: Callable[[str], Path], *, lenient: bool, warn: Callable[[str], None]
    ) -> Iterator[Segment]:
        """Read the film to its end, a segment at a time; whoever takes one deletes its file.

        Args:
            file_of: gives a file for a name.
            lenient: yield what is readable of a film that breaks off, and tell `warn`, instead of raising BadFilm.
        """
        cutter = _Cutter(self, file_of)
        end = _End(self.container)
        clock = _Clock(self.source.name, warn)
        try:
            for packet in self._packets(lenient, warn):
                if self.clip.is_whole:
                    end.see(packet)
                stored = StoredPacket.of(packet, Role.COPIED)
                clock.mend(stored)
                starts = packet.stream_index == self.video.index and cutter.can_start(packet)
                yield from cutter.add(stored, starts)
                if cutter.is_past_clip:
                    break
            else:
                if cut := _cut_off(self.source):
                    self._broken(cut, lenient, warn)
                elif self.clip.is_whole and (missing := end.missing()):
                    self._broken(f"breaks off: it says it lasts {missing} than what is there", lenient, warn)
            yield from cutter.finish()
        finally:
            cutter.close()

    def shifted(self, packet: StoredPacket) -> StoredPacket:
        """The same packet, in the clip's time."""
        if self.shift:
            ticks = round(self.shift / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - ticks
            packet.dts = None if packet.dts is None else packet.dts - ticks
        return packet

    def _packets(self, lenient: bool, warn: Callable[[str], None]) -> Iterator[Packet[Stream]]:
        """Of all streams, in file order."""
        reached = 0.0
        packets = self._from_clip()
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise
                self._broken(f"cannot be read past {reached:.1f} s ({error.strerror})", lenient, warn)
                return
            if packet is None:
                return
            if packet.size == 0:
                continue
            if packet.pts is not None:
                reached = max(reached, float(packet.pts * packet.time_base))
            yield packet

    def _from_clip(self) -> Iterator[Packet[Stream]]:
        """Packets from a keyframe at or before the clip's start on; a preview costs only its own time."""
        wanted = self.facts.start + self.clip.start
        can_start = random_access(self.video)
        if self.clip.start and self.facts.has_timestamps and self.source.size() is not None:
            for margin in (1, 10, 60, 600):  # seeking is inexact in some containers: then from further back
                if margin >= self.clip.start:
                    break
                try:
                    self.container.seek(
                        round((wanted - margin) / self.facts.time_base), stream=self.video, backward=True
                    )
                    packets = iter(self.container.demux(*self.container.streams))
                    skipped: deque[Packet[Stream]] = deque()
                    for packet in packets:
                        skipped.append(packet)
                        if packet.stream_index == self.video.index and packet.size and can_start(packet):
                            break
                    first = skipped[-1].pts if skipped and skipped[-1].pts is not None else None
                except av.error.FFmpegError:
                    break
                if first is not None and first * self.facts.time_base <= wanted:
                    return chain(skipped, packets)
            self.close()
            self.file, self.container = _open(self.source)
            self.video = _video_stream(self.container, self.source)
        return iter(self.container.demux(*self.container.streams))

    def _broken(self, fault: str, lenient: bool, warn: Callable[[str], None]) -> None:
        if not lenient:
            raise BadFilm(f"{self.source.name} {fault}; --lenient colours what can be read")
        warn(f"{self.source.name} {fault}")


class _Cutter:
    """Cuts a film's packets into segments, each in a file of its own with what its worker needs of its neighbours."""

    def __init__(self, film: Film, file_of: Callable[[str], Path]) -> None:
        self._film, self._file_of = film, file_of
        self.can_start = random_access(film.video)
        self._current: _SegmentFile | None = None
        self._waiting: _SegmentFile | None = None
        """The segment before, which still wants packets of the current one to look ahead."""
        self._seen = 0
        """Video packets of the film so far."""
        clip, facts = film.clip, film.facts
        self._start = facts.start + clip.start if clip.start else None
        self._wanted = film.wanted
        self._stop = None if clip.stop is None else facts.start + clip.stop
        self._past = 0
        self.is_past_clip = False

    def add(self, packet: StoredPacket, starts: bool) -> Iterator[Segment]:
        """Take the next packet; `starts` says whether a segment may start with it."""
        if packet.stream != self._film.video.index:
            if self._within(packet.time):
                self._file().write(self._film.shifted(packet))
            return
        facts = self._film.facts
        time = packet.time if facts.has_timestamps else facts.start + self._seen / facts.frame_rate
        self._seen += 1
        if self._seen > MAX_FRAMES:
            raise BadFilm(f"{self._film.source.name} has more than {MAX_FRAMES:,} frames: cut it first")
        packet.role = Role.OWN
        if self._wanted:
            reach = LOOK_AHEAD / facts.frame_rate  # frames are shown that much sooner than decoded, at most
            if self._stop is not None and time is not None and time >= self._stop + reach:
                packet.role = Role.AFTER
        elif not self._within(time):
            packet.role = Role.BEFORE if self._is_before(time) else Role.AFTER
        self._past += packet.role == Role.AFTER
        self.is_past_clip = self._past > 3 * LOOK_AHEAD
        begins = (self._seen - 1) / facts.frame_rate - self._film.shift
        self._film.shifted(packet)
        current = self._file()
        if starts and self._is_before(time) and (self._wanted or not current.packets):
            current.forget()  # of what is before a clip, the last group of pictures will do
        enough = MIN_SEGMENT_FRAMES if current.index else FIRST_SEGMENT_FRAMES
        if starts and packet.role == Role.OWN and current.packets >= enough:
            if self._waiting:
                yield self._waiting.finish(self._wanted)
            self._waiting = current
            self._current = None
            current = self._file(self._waiting)
        current.write(packet, starts, begins)
        if self._waiting and self._waiting.look_ahead(packet):
            yield self._waiting.finish(self._wanted)
            self._waiting = None

    def finish(self) -> Iterator[Segment]:
        """What is left at the film's end."""
        if self._waiting:
            yield self._waiting.finish(self._wanted)
            self._waiting = None
        yield self._file().finish(self._wanted)
        self._current = None

    def close(self) -> None:
        """Delete what nobody took."""
        for file in (self._waiting, self._current):
            if file:
                file.discard()

    def _file(self, before: _SegmentFile | None = None) -> _SegmentFile:
        if self._current is None:
            index = before.index + 1 if before else 0
            self._current = _SegmentFile(index, self._file_of(f"{index:06d}.segment"))
            if before:
                before.hand_on(self._current)
        return self._current

    def _is_before(self, time: Fraction | None) -> bool:
        return self._start is not None and time is not None and time < self._start

    def _within(self, time: Fraction | None) -> bool:
        return not self._is_before(time) and not (self._stop is not None and time is not None and time >= self._stop)


class _SegmentFile:
    """A segment while its packets are gathered."""

    def __init__(self, index: int, path: Path) -> None:
        self.index, self.path = index, path
        self.file: BinaryIO = path.open("w+b")
        self.packets = self._after = self._size = 0
        self._begins = Fraction(0)
        self._digest = hashlib.sha256()
        self._starts: list[tuple[int, int]] = []
        """(Bytes, video packets) before each packet at which decoding may start."""
        self._seconds: Fraction | None = None

    def write(self, packet: StoredPacket, starts: bool = False, begins: Fraction = Fraction(0)) -> None:
        """Add a packet; `begins` is when it is decoded, as frames are counted."""
        if packet.role == Role.OWN:
            if not self.packets:
                self._begins = begins
            if starts:
                self._starts.append((self._size, self.packets))
            if self._seconds is None:
                self._seconds = packet.time
            self.packets += 1
        self._note(packet)
        self._size += write_packet(self.file, packet)

    def forget(self) -> None:
        """Drop the video before the segment, gathered so far; what was the segment's own is now before it."""
        self.file.seek(0)
        kept = [packet for packet in read_packets(self.file) if packet.role in (Role.COPIED, Role.OWN)]
        self.file.seek(0)
        self.file.truncate()
        self.packets = self._size = 0
        self._digest, self._starts, self._seconds = hashlib.sha256(), [], None
        for packet in kept:
            if packet.role == Role.OWN:
                packet.role = Role.BEFORE
            self.write(packet)

    def _note(self, packet: StoredPacket) -> None:
        """Take what the segment's colours depend on into its digest."""
        if packet.role != Role.COPIED:
            self._digest.update(f"{packet.role} {packet.pts} {packet.dts} {len(packet.data)} ".encode() + packet.data)

    def look_ahead(self, packet: StoredPacket) -> bool:
        """Take a packet of the next segment; say whether that is enough."""
        packet = replace(packet, role=Role.AFTER)
        self._note(packet)
        write_packet(self.file, packet)
        self._after += 1
        return self._after >= LOOK_AHEAD

    def hand_on(self, following: _SegmentFile) -> None:
        """Give the next segment the end of this one to warm up with."""
        start = next((place for place, count in reversed(self._starts) if self.packets - count >= WARM_UP), 0)
        self.file.flush()
        self.file.seek(start)
        for packet in read_packets(self.file):
            if packet.role == Role.OWN:
                packet.role = Role.BEFORE
                following.write(packet)
        self.file.seek(0, io.SEEK_END)

    def finish(self, wanted: tuple[int, int | None] | None) -> Segment:
        self.file.close()
        digest, seconds = self._digest.hexdigest(), float(self._seconds or 0)
        return Segment(self.index, self.path, self._begins, self.packets, digest, seconds, wanted)

    def discard(self) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)


class _Clock:
    """Keeps times rising where a film's clock jumps back, as in recordings joined end to end."""

    BACK_S = 1.0  # less is reordering, or damage of single packets

    def __init__(self, name: str, warn: Callable[[str], None]) -> None:
        self._name, self._warn = name, warn
        self._newest: dict[int, Fraction] = {}
        self._added: dict[int, Fraction] = {}
        self._latest = Fraction(0)

    def mend(self, packet: StoredPacket) -> None:
        """Move a packet to where it belongs after earlier jumps. All streams jump by the same amount."""
        stream = packet.stream
        added = self._added.get(stream, Fraction(0))
        # Times of decoding alone tell of jumps: those of showing go back and forth with B-frames.
        if packet.dts is not None:
            time, newest = packet.dts * packet.time_base, self._newest.get(stream)
            if newest is not None and time + added < newest - self.BACK_S:
                if added == self._latest or time + self._latest < newest - self.BACK_S:
                    self._latest = newest + packet.duration * packet.time_base - time
                    self._warn(
                        f"{self._name}: its clock jumps back after {float(newest):.1f} s; times carry on from there"
                    )
                added = self._added[stream] = self._latest
            self._newest[stream] = max(newest, time + added) if newest is not None else time + added
        if added:
            move = round(added / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + move
            packet.dts = None if packet.dts is None else packet.dts + move


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


@contextlib.contextmanager
def opened(source: Source) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A film's container and the stream that is coloured. Raises BadFilm."""
    file, container = _open(source)
    with file, container:
        yield container, _video_stream(container, source)


def _open(source: Source) -> tuple[BinaryIO, InputContainer]:
    file = source.open()
    try:
        container = av.open(
            _Nameless(file, source),
            "r",
            container_options=_SAFE,
            options={"max_pixels": str(MAX_PIXELS), "threads": "1"},  # of the decoders that look at the first frames
            metadata_errors="surrogateescape",  # old tags are not UTF-8, and must not cost the film
            buffer_size=READ_SIZE,
        )
    except (av.error.FFmpegError, OSError) as error:
        if isinstance(error, MemoryError):
            raise
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
    if len(container.streams) > MAX_STREAMS:
        count = len(container.streams)
        container.close()
        file.close()
        raise BadFilm(f"{source.name} has {count} streams, more than {MAX_STREAMS}: remux those that matter first")
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
                container.close()
                raise BadFilm(f"{source.name}: its video codec is unknown here")
            return stream
    container.close()
    raise BadFilm(f"{source.name} holds no video stream: there is nothing to colour")


def probe(source: Source) -> Facts:
    """Look at a film's headers and first frame. Raises BadFilm when there is nothing in it to colour.

    Decoders run here: call it in a process that may die.
    """
    with opened(source) as (container, video):
        if video.time_base is None:
            raise BadFilm(f"{source.name}: its video stream has no time base")
        rate = video.guessed_rate or video.average_rate or Fraction(25)
        if not 0 < rate <= 1000:
            rate = Fraction(25)
        check_size(source, video.width, video.height)
        video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        video.codec_context.thread_count = 1
        frames = _first_frames(container, video, source)
        frame = frames[0]
        check_size(source, frame.width, frame.height)
        order = marked(frame)
        picture = picture_of(frame, video.sample_aspect_ratio, order)
        alike = [other for other in frames if (other.width, other.height) == (frame.width, frame.height)]
        if not order and (seen := field_order_of(luma_of(other, picture) for other in alike)):
            picture = replace(picture, field_order=seen)
        duration = Fraction(container.duration or 0, av.time_base)
        return Facts(
            picture=picture,
            fields_marked=bool(order),
            time_base=video.time_base,
            frame_rate=rate,
            frames_expected=video.frames or round(duration * rate),
            has_timestamps=frame.pts is not None,
            start=Fraction(container.start_time or 0, av.time_base),
            duration=duration,
        )


def check_size(source: Source, width: int, height: int) -> None:
    """Raises BadFilm for frames larger than any film's."""
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadFilm(f"{source.name}: its frames claim {width}x{height}, more than {MAX_PIXELS // 10**6} megapixels")


def _first_frames(container: InputContainer, video: VideoStream, source: Source) -> list[VideoFrame]:
    """At least one, and of small pictures enough to see fields in."""
    frames: list[VideoFrame] = []
    try:
        for packet in container.demux(video):
            try:
                frames += [frame for frame in packet.decode() if isinstance(frame, VideoFrame)]
            except av.error.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise
                continue  # damaged at its start: a later frame may do; strict runs refuse it when they decode it
            if frames and len(frames) >= min(FIELD_FRAMES, FIELD_PIXELS // max(1, frames[0].width * frames[0].height)):
                break
    except av.error.FFmpegError as error:  # of the demuxer
        if isinstance(error, MemoryError):
            raise
    if not frames:
        raise BadFilm(f"{source.name}: not one frame of its video can be decoded")
    return frames
