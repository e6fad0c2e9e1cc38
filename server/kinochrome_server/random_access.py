"""Where decoding may start: not every packet that is flagged as a keyframe is such a place.

libav flags H.264 recovery points as keyframes. With intra refresh these are ordinary P pictures, from which the image
builds up over the next half second: a decoder that starts there gives fewer frames, and wrong ones.
"""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

import re
from collections.abc import Callable, Iterator

from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

_SLICE, _IDR_SLICE = 1, 5  # NAL unit types of H.264 (ITU-T H.264, table 7-1)
_I_SLICES = (2, 4, 7, 9)  # slice types I and SI (table 7-6)
_START_CODE = re.compile(rb"\x00\x00\x01")


def random_access(video: VideoStream) -> Callable[[Packet[Stream]], bool]:
    """A test of whether a segment of this stream may start at a packet."""
    context = video.codec_context
    if context.codec.canonical_name != "h264":
        return lambda packet: packet.is_keyframe
    extradata = context.extradata or b""
    length_size = (extradata[4] & 3) + 1 if len(extradata) > 4 and extradata[0] == 1 else 0

    def starts(packet: Packet[Stream]) -> bool:
        if not packet.is_keyframe:
            return False
        for unit in _units(bytes(packet), length_size):
            kind = unit[0] & 0x1F if unit else 0
            if kind == _IDR_SLICE:
                return True
            if kind == _SLICE:  # of a recovery point: its first slice tells the picture's kind well enough
                return _slice_type(unit) in _I_SLICES
        return False

    return starts


def _units(data: bytes, length_size: int) -> Iterator[bytes]:
    """NAL units, by length prefixes (MP4, Matroska) or, with 0, by start codes (Annex B)."""
    if not length_size:
        places = [match.end() for match in _START_CODE.finditer(data)]
        yield from (data[start : start + 16] for start in places)  # the slice header's beginning is all one needs
        return
    position = 0
    while position + length_size < len(data):
        size = int.from_bytes(data[position : position + length_size])
        position += length_size
        yield data[position : position + min(size, 16)]
        position += size


def _slice_type(unit: bytes) -> int:
    """The second Exp-Golomb number of a slice header (7.3.3): first_mb_in_slice comes before it."""
    bits = "".join(f"{byte:08b}" for byte in unit[1:])
    value = position = 0
    for _ in range(2):
        zeros = bits.find("1", position) - position
        if zeros < 0 or position + 2 * zeros + 1 > len(bits):
            return -1
        value = int(bits[position + zeros : position + 2 * zeros + 1], 2) - 1
        position += 2 * zeros + 1
    return value
