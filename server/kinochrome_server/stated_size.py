"""How long a film's file says it is, by its container's outermost structure: tells a cut-off film from a whole one.

libav reads a cut-off Matroska or AVI file to its last byte and says nothing.
"""

import io
import struct
from typing import BinaryIO

_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067  # Matroska element identifiers (RFC 9559)
_MP4_FIRST = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof")
_MAX_PARTS = 1_000_000  # top-level parts looked at: a file of more is read no further


def stated_size(file: BinaryIO) -> int | None:
    """The size in bytes that the container states, or None when it states none. Leaves the position anywhere."""
    file.seek(0)
    head = file.read(12)
    if len(head) < 12:
        return None
    if head[4:8] in _MP4_FIRST:
        return _mp4(file)
    if head[:4] == b"RIFF":
        return _riff(file)
    if int.from_bytes(head[:4]) == _EBML:
        return _matroska(file)
    return None


def _mp4(file: BinaryIO) -> int | None:
    """Top-level boxes, each with its size (ISO/IEC 14496-12, 4.2)."""
    position = end = 0
    for _ in range(_MAX_PARTS):
        file.seek(position)
        head = file.read(16)
        if len(head) < 8 or not all(32 <= letter < 127 for letter in head[4:8]):
            break  # the end, or what somebody appended that is no box
        size = int.from_bytes(head[:4])
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:])
        if size < 8:  # 0: the box reaches to the end of the file, wherever that is
            break
        position = end = position + size
    return end or None


def _riff(file: BinaryIO) -> int | None:
    """One RIFF chunk, or several in AVI files over a gigabyte (OpenDML)."""
    position = 0
    for _ in range(_MAX_PARTS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8 or head[:4] != b"RIFF":
            break
        (size,) = struct.unpack("<I", head[4:])
        if size == 0:  # written by a recorder that never came back to fill it in
            return None
        position += 8 + size + size % 2
    return position or None


def _matroska(file: BinaryIO) -> int | None:
    """The EBML header and the segment; live recordings leave the segment's size open."""
    file.seek(0)
    position = 0
    for _ in range(16):
        file.seek(position)
        identifier = _vint(file, keep_marker=True)
        size = _vint(file, keep_marker=False)
        if identifier is None or size is None:
            return None
        position = file.seek(0, io.SEEK_CUR) + size
        if identifier == _SEGMENT:
            return position
    return None


def _vint(file: BinaryIO, *, keep_marker: bool) -> int | None:
    """A variable-size integer of EBML (RFC 8794, section 4); None when it says "unknown" or the file ends."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    if len(rest) < length - 1:
        return None
    value = int.from_bytes(first + rest)
    if keep_marker:
        return value
    value -= 1 << (7 * length)
    return None if value == (1 << (7 * length)) - 1 else value
