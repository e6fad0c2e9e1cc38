"""Puts the index of a finished MP4 or MOV film in front of its media, so that it plays while it is still arriving.

A film that is written while it is made can only have its index (the `moov` box) at its end: until then nobody knows
what it will say. Ours look so when finished, after libav's hybrid fragments:

    ftyp  free  mdat [what was the first header and all fragments, headers and media]  moov

With the index in front a player over the network starts at once, and one pass from front to back reads the film. The
index tells by absolute positions where each chunk of media lies, so moving it means adding its length to all of them.

The film is copied into a second file rather than shifted in place. That needs its room on disk a second time, but
the first file stays whole throughout: when the disk fills or the copy is cut short, hours of colouring are not lost,
and the film as it was, index last, is still a right one to give a name to.

Boxes: ISO/IEC 14496-12 and Apple's QuickTime File Format. Standard library only.
"""

import errno
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

COPY_BLOCK = 4 << 20
"""Bytes copied at a time."""
LONGEST_INDEX = 256 << 20
"""Bytes of an index, at most: it is held in memory. A day of film with sound takes some 70 MB."""
LARGEST_32 = (1 << 32) - 1

_HARMLESS = frozenset({b"ftyp", b"free", b"skip", b"wide", b"mdat", b"moov"})
"""Boxes at the top of a file. Others, such as fragments and their tables, may hold positions of their own."""
_INSIDE = {
    b"moov": frozenset({b"trak"}),
    b"trak": frozenset({b"mdia"}),
    b"mdia": frozenset({b"minf"}),
    b"minf": frozenset({b"stbl", b"dinf"}),
    b"stbl": frozenset[bytes](),
    b"dinf": frozenset[bytes](),
}
"""The way to the tables of positions: containers, and which containers in them are entered."""
_WIDTHS = {b"stco": "I", b"co64": "Q"}
"""Tables of chunk positions and the array type of their entries."""


class _LeaveAlone(Exception):
    """The file is not one whose index can be moved, or need be."""


@dataclass(frozen=True)
class _Box:
    type: bytes
    start: int
    body: int
    """Where its header ends."""
    end: int


@dataclass(frozen=True)
class _Layout:
    """Where things lie in a file with its index last, in bytes."""

    front: int
    """Where the index is to go."""
    media: int
    """Start of the first media data."""
    index: _Box
    end: int


def put_index_in_front(source: BinaryIO, target: BinaryIO) -> bool:
    """Write the film in `source` to `target` with its index in front of its media. Nothing else changes.

    Args:
        source: a whole film, open for reading, able to seek; where it stands does not matter. It is only read.
        target: an empty file, open for writing. Not flushed: the caller does that before it gives the file its name.

    Returns False, with nothing written, where there is nothing to do or no safe way to do it: the index is in front
    already, the film is in fragments without an index of all of it, or the file is not one this code wholly
    understands (another format, damaged, positions in other boxes than stco and co64, media in other files).

    Raises OSError when reading or writing fails; `source` is as good as before then, `target` worthless.
    """
    try:
        layout = _layout(source)
        index = _moved_index(_read(source, layout.index.start, layout.index.end), layout)
    except _LeaveAlone:
        return False
    _copy(source, 0, layout.front, target)
    target.write(index)
    _copy(source, layout.front, layout.index.start, target)
    _copy(source, layout.index.end, layout.end, target)
    return True


def _layout(source: BinaryIO) -> _Layout:
    boxes = list(_top_boxes(source))
    if not {box.type for box in boxes} <= _HARMLESS:
        raise _LeaveAlone("boxes that may hold positions")
    indexes = [box for box in boxes if box.type == b"moov"]
    media = [box for box in boxes if box.type == b"mdat"]
    if len(indexes) != 1 or not media or indexes[0].start < media[0].start:
        raise _LeaveAlone("not one index behind media")
    if indexes[0].end - indexes[0].start > LONGEST_INDEX:
        raise _LeaveAlone("an index beyond all measure")
    front = boxes[0].end if boxes[0].type == b"ftyp" else 0  # QuickTime files of old have none
    return _Layout(front, media[0].body, indexes[0], boxes[-1].end)


def _top_boxes(source: BinaryIO) -> Iterator[_Box]:
    end = source.seek(0, 2)
    start = 0
    while start < end:
        source.seek(start)
        box = _box(source.read(16), start, end)
        yield box
        start = box.end


def _box(header: bytes, start: int, end: int, *, nested: bool = False) -> _Box:
    """The box whose first 16 bytes (fewer at the end of all) are `header`, in a room that ends at `end`."""
    if len(header) < 8:
        raise _LeaveAlone("bytes that are no box")
    size, kind = struct.unpack_from(">I4s", header)
    body = start + 8
    if size == 1:
        if len(header) < 16:
            raise _LeaveAlone("half a header")
        (size,) = struct.unpack_from(">Q", header, 8)
        body += 8
    elif size == 0 and not nested:
        size = end - start  # a last box may leave its size open
    if not body <= start + size <= end:
        raise _LeaveAlone("a box that does not fit")
    return _Box(kind, start, body, start + size)


def _moved_index(index: bytes, layout: _Layout) -> bytes:
    """The index as it must read when it stands in front.

    Its own length is what positions grow by, and it grows itself where they outgrow 32 bits: so it is made again
    until its length is the one reckoned with. A longer index never needs shorter tables, hence that comes to pass.
    """
    length = len(index)
    while True:
        moved = _rebuilt(memoryview(index), _box(index[:16], 0, len(index)), layout, length)
        if len(moved) == length:
            return moved
        length = len(moved)


def _rebuilt(index: memoryview, container: _Box, layout: _Layout, length: int) -> bytes:
    parts: list[bytes | memoryview] = []
    start = container.body
    while start < container.end:
        box = _box(bytes(index[start : min(start + 16, container.end)]), start, container.end, nested=True)
        body = index[box.body : box.end]
        if box.type in _INSIDE[container.type]:
            parts.append(_rebuilt(index, box, layout, length))
        elif container.type == b"stbl" and box.type in _WIDTHS:
            parts.append(_moved_table(box.type, body, layout, length))
        else:
            _check_leaf(box.type, body)
            parts.append(index[box.start : box.end])
        start = box.end
    return _boxed(container.type, *parts)


def _check_leaf(kind: bytes, body: memoryview) -> None:
    """Auxiliary samples, items of metadata and packed indexes tell positions too, and media may lie in other files."""
    if kind in (b"saio", b"cmov") or (kind in (b"meta", b"udta") and b"iloc" in bytes(body)):
        raise _LeaveAlone("positions in other places")
    if kind == b"dref":
        start = 8
        while start < len(body):
            entry = _box(bytes(body[start : start + 16]), start, len(body), nested=True)
            if entry.end < entry.body + 4 or not body[entry.body + 3] & 1:  # the flag of "in this very file"
                raise _LeaveAlone("media in another file")
            start = entry.end


def _moved_table(kind: bytes, body: memoryview, layout: _Layout, length: int) -> bytes:
    """A table of chunk positions, for an index of `length` bytes in front. Becomes co64 where stco is too narrow."""
    if len(body) < 8:
        raise _LeaveAlone("half a table")
    table = array(_WIDTHS[kind])
    (count,) = struct.unpack_from(">I", body, 4)
    if len(body) < 8 + count * table.itemsize:
        raise _LeaveAlone("half a table")
    table.frombytes(body[8 : 8 + count * table.itemsize])
    if sys.byteorder == "little":
        table.byteswap()
    # What lies before the index moves by its new length; what lies behind only by what the index grows.
    media, index_start, index_end, end = layout.media, layout.index.start, layout.index.end, layout.end
    growth = length - (index_end - index_start)
    moved = [at + length if at < index_start else at + growth for at in table]
    if any(not (media <= at < index_start or index_end <= at < end) for at in table):
        raise _LeaveAlone("positions where no media lies")
    wide = kind == b"co64" or max(moved, default=0) > LARGEST_32
    entries = array("Q" if wide else "I", moved)
    if sys.byteorder == "little":
        entries.byteswap()
    return _boxed(b"co64" if wide else b"stco", body[:8], entries.tobytes())


def _boxed(kind: bytes, *parts: bytes | memoryview) -> bytes:
    return b"".join((struct.pack(">I4s", 8 + sum(map(len, parts)), kind), *parts))


def _read(source: BinaryIO, start: int, end: int) -> bytes:
    source.seek(start)
    found = source.read(end - start)
    if len(found) < end - start:
        raise OSError(errno.EIO, "the film ended while it was being read")
    return found


def _copy(source: BinaryIO, start: int, end: int, target: BinaryIO) -> None:
    for at in range(start, end, COPY_BLOCK):
        target.write(_read(source, at, min(at + COPY_BLOCK, end)))
