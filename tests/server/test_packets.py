"""Packets in files come back as they were."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinochrome_server.packets import Role, StoredPacket, read_packets, write_packet
from tests import films
from tests.films import Kind

TIME = st.none() | st.integers(-(1 << 62), 1 << 62)
PACKETS = st.builds(
    StoredPacket,
    st.sampled_from(Role),
    st.integers(0, 1000),
    TIME,
    TIME,
    st.integers(0, 1 << 40),
    st.fractions(min_value=Fraction(1, 10**9), max_value=10, max_denominator=10**9),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.binary(max_size=300),
    st.lists(st.tuples(st.integers(0, 30), st.binary(max_size=20)), max_size=3).map(tuple),
)


def fields(packet: StoredPacket) -> tuple[object, ...]:
    return tuple(getattr(packet, name) for name in StoredPacket.__slots__)


@given(st.lists(PACKETS, max_size=5))
def test_packets_come_back_as_they_went(packets: list[StoredPacket]) -> None:
    file = io.BytesIO()
    for packet in packets:
        write_packet(file, packet)
    file.seek(0)
    assert [fields(packet) for packet in read_packets(file)] == [fields(packet) for packet in packets]
    file.seek(0)
    heads = list(read_packets(file, with_data=False))
    assert [(head.role, head.pts, head.data) for head in heads] == [(p.role, p.pts, b"") for p in packets]


@given(PACKETS, st.integers(1, 200))
def test_a_file_that_breaks_off_is_not_taken_for_a_whole_one(packet: StoredPacket, cut: int) -> None:
    file = io.BytesIO()
    size = write_packet(file, packet)
    file.truncate(max(1, size - cut))
    file.seek(0)
    with pytest.raises(EOFError):
        list(read_packets(file))


def test_a_packet_for_libav_ends_in_padding_and_decodes_like_the_demuxed_one(tmp_path: Path) -> None:
    """Decoders read past a packet's end: PyAV's Packet(bytes) has no padding there, and MPEG-4 came out at random."""
    film = films.make(tmp_path, Kind("film.avi", codec="mpeg4", frames=40, gop=20))
    with av.open(str(film)) as one, av.open(str(film)) as other:
        for packet in one.demux(video=0):
            if not packet.size:
                continue
            stored = StoredPacket.of(cast(Any, packet), Role.OWN)
            rebuilt = stored.packet()
            assert bytes(rebuilt) == bytes(packet)
            assert (rebuilt.pts, rebuilt.dts, rebuilt.is_keyframe) == (packet.pts, packet.dts, packet.is_keyframe)
            ours = other.streams.video[0].codec_context.decode(rebuilt)
            theirs = packet.decode()
            assert [bytes(frame.planes[0]) for frame in ours] == [bytes(frame.planes[0]) for frame in theirs]


def test_side_data_survives() -> None:
    stored = StoredPacket(
        Role.OWN, 0, 0, 0, 1, Fraction(1, 25), True, False, False, b"x" * 10, ((0, b"palette!"), (11, b"skip"))
    )
    packet = stored.packet()
    packet.time_base = Fraction(1, 25)
    assert StoredPacket.of(packet, Role.OWN).side_data == stored.side_data
