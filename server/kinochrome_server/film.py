"""Films, read once, front to back, and cut into segments on the way."""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from kinochrome_proto.errors import BadFilm, BadSettings

from .facts import Facts
from .opening import cut_off, open_film, opened, video_stream
from .packets import Role, StoredPacket
from .random_access import random_access
from .segments import Cutter, Segment
from .sources import Source


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
        self.file, self.container = open_film(source)
        self.video = video_stream(self.container, source)
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
        cutter = Cutter(self, file_of)
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
                if cut := cut_off(self.source):
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
            self.file, self.container = open_film(self.source)
            self.video = video_stream(self.container, self.source)
        return iter(self.container.demux(*self.container.streams))

    def _broken(self, fault: str, lenient: bool, warn: Callable[[str], None]) -> None:
        if not lenient:
            raise BadFilm(f"{self.source.name} {fault}; --lenient colours what can be read")
        warn(f"{self.source.name} {fault}")


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
