"""A film's packets cut into segments: files that hold the compressed packets, so workers never seek."""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kinochrome_proto.errors import BadFilm

from .packets import Role, StoredPacket, read_packets, write_packet
from .random_access import random_access

if TYPE_CHECKING:
    from .film import Film

MIN_SEGMENT_FRAMES = 96
"""Keyframes nearer than this share a segment: each starts with an expensive key frame, and paints frames of others."""
FIRST_SEGMENT_FRAMES = 24
"""The same for a film's first segments, which somebody waits for."""
FIRST_SEGMENTS = 2
"""A fragment of an MP4 is written when the next one begins, so two segments must be there for any of it to be seen."""
WARM_UP = 12
"""Frames before a segment that go with it, so that cuts and steady colours are those of an unbroken run."""
LOOK_AHEAD = 16
"""Packets after a segment that go with it: enough for the frames that its stabiliser looks ahead, and reordering."""
MAX_FRAMES = 50_000_000
"""Of a film: about three weeks at 24 a second."""


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


class Cutter:
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
        enough = FIRST_SEGMENT_FRAMES if current.index < FIRST_SEGMENTS else MIN_SEGMENT_FRAMES
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
