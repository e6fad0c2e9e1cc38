"""Packets in files: how segments reach the workers and chunks come back, through any number of kills.

One record after another, each a fixed header, side data, and the packet's bytes. A file is read front to back without
holding more than one packet, so a segment may be as long as the film.
"""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import BinaryIO, Protocol, get_args

from av.packet import Packet, PacketSideData, PktSideDataT
from av.stream import Stream

_HEADER = struct.Struct("<BBHqqqqqIH")
_SIDE = struct.Struct("<BI")
_NO_TIME = -(1 << 63)  # as libav's AV_NOPTS_VALUE
_KEYFRAME, _UNSHOWN, _CORRUPT = 1, 2, 4
_SIDE_DATA = get_args(PktSideDataT)


class Role(IntEnum):
    """What a packet is to the segment whose file it is in."""

    BEFORE = 0
    """Of the video before the segment: decoded so that decoder and stabiliser arrive with state, and not shown."""
    OWN = 1
    """Of the segment's video."""
    AFTER = 2
    """Of the video after the segment: decoded so that the stabiliser can look ahead, and not shown."""
    COPIED = 3
    """Of another stream."""


@dataclass(slots=True, eq=False)
class StoredPacket:
    """A packet apart from any container. Times are in `time_base`."""

    role: Role
    stream: int
    pts: int | None
    dts: int | None
    duration: int
    time_base: Fraction
    is_keyframe: bool
    is_unshown: bool
    """An edit list says that it is decoded and not shown."""
    is_corrupt: bool
    """The container says that part of it is lost."""
    data: bytes
    side_data: tuple[tuple[int, bytes], ...] = ()
    """(Place in PyAV's list of types, content): palettes, samples to skip and the like."""

    @classmethod
    def of(cls, packet: Packet[Stream], role: Role) -> StoredPacket:
        """A demuxed packet, copied."""
        return cls(
            role,
            packet.stream_index,
            packet.pts,
            packet.dts,
            packet.duration or 0,
            Fraction(packet.time_base) if packet.time_base else Fraction(1, 1_000_000),
            packet.is_keyframe,
            packet.is_discard,
            packet.is_corrupt,
            bytes(packet),
            tuple((_SIDE_DATA.index(side.data_type), bytes(side)) for side in packet.iter_sidedata()),
        )

    def packet(self) -> Packet[Stream]:
        """A packet for libav, of no stream yet."""
        # Not Packet(self.data): that only points at the bytes, and decoders read past a packet's end. MPEG-4 then came
        # out differently from run to run, by what lay behind. A packet made by size ends in libav's zeros.
        packet: Packet[Stream] = Packet(len(self.data))
        if self.data:
            packet.update(self.data)
        packet.time_base = self.time_base
        packet.pts, packet.dts, packet.duration = self.pts, self.dts, self.duration
        packet.is_keyframe = self.is_keyframe
        for kind, content in self.side_data:
            side = PacketSideData(kind, len(content))  # type: ignore[call-arg]  # its stub lacks the constructor
            side.update(content)
            packet.set_sidedata(side)
        return packet

    @property
    def time(self) -> Fraction | None:
        """Seconds at which it is shown or, where that is not known, decoded."""
        ticks = self.pts if self.pts is not None else self.dts
        return None if ticks is None else ticks * self.time_base


class _Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


def write_packet(file: _Writable, packet: StoredPacket) -> int:
    """Append one; return the bytes it takes."""
    parts = [
        _HEADER.pack(
            packet.role,
            packet.is_keyframe * _KEYFRAME | packet.is_unshown * _UNSHOWN | packet.is_corrupt * _CORRUPT,
            packet.stream,
            _NO_TIME if packet.pts is None else packet.pts,
            _NO_TIME if packet.dts is None else packet.dts,
            packet.duration,
            packet.time_base.numerator,
            packet.time_base.denominator,
            len(packet.data),
            len(packet.side_data),
        )
    ]
    for kind, content in packet.side_data:
        parts += [_SIDE.pack(kind, len(content)), content]
    parts.append(packet.data)
    record = b"".join(parts)
    file.write(record)
    return len(record)


def read_packets(file: BinaryIO, *, with_data: bool = True) -> Iterator[StoredPacket]:
    """All packets from the file's position on. Raises EOFError in the middle of one.

    Args:
        file: what `write_packet` wrote.
        with_data: whether to read their bytes, or only what is said of them.
    """
    while head := file.read(_HEADER.size):
        if len(head) < _HEADER.size:
            raise _broken_off()
        role, flags, stream, pts, dts, duration, numerator, denominator, size, sides = _HEADER.unpack(head)
        side_data = []
        for _ in range(sides):
            kind, length = _SIDE.unpack(_exactly(file, _SIDE.size))
            side_data.append((kind, _exactly(file, length)))
        if with_data:
            data = _exactly(file, size)
        else:
            data = b""
            file.seek(size, 1)
        yield StoredPacket(
            Role(role),
            stream,
            None if pts == _NO_TIME else pts,
            None if dts == _NO_TIME else dts,
            duration,
            Fraction(numerator, denominator),
            bool(flags & _KEYFRAME),
            bool(flags & _UNSHOWN),
            bool(flags & _CORRUPT),
            data,
            tuple(side_data),
        )


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise _broken_off()
    return data


def _broken_off() -> EOFError:
    return EOFError("a packet file breaks off")
