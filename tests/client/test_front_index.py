"""The index moves in front of the media, and a reader finds everything as it was."""

import io
import random
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinochrome_client import front_index
from kinochrome_client.front_index import put_index_in_front
from kinochrome_server.codecs import CONTAINERS
from tests import films
from tests.films import Kind

GIB = 1 << 30

PLAIN = {
    "mp4": Kind("film.mp4"),
    "mov": Kind("film.mov", audio="pcm_s16le"),
    "b-frames": Kind("film.mp4", options={"bf": "3"}, gop=60),
    "edit lists": Kind("film.mp4", pts=range(30, 90), audio="aac"),
    "all kinds of tracks": Kind(
        "film.mp4", audio="aac", languages=("eng", "fra", "deu"), subtitle="mov_text", chapters=True
    ),
}
GROWN = {
    "mp4": Kind("film.mp4", frames=130, gop=50, audio="aac", languages=("eng", "fra"), subtitle="mov_text"),
    "chapters": Kind("film.mp4", frames=60, chapters=True),
    "late start": Kind("film.mkv", frames=60, pts=range(2000, 2000 + 40 * 60, 40), time_base=Fraction(1, 1000)),
}


def remux(film: Path, out: Path, options: dict[str, str]) -> None:
    """The same packets, in a container written with these options."""
    with av.open(str(film)) as source, av.open(str(out), "w", container_options=options) as output:
        output.metadata.update(source.metadata)
        copies = {
            stream.index: output.add_stream_from_template(stream, opaque=True)
            for stream in source.streams
            if stream.type != "data"  # chapters, which the muxer makes anew
        }
        output.set_chapters(source.chapters())
        for packet in source.demux():
            if packet.size and packet.stream_index in copies:
                packet.stream = copies[packet.stream_index]
                output.mux(packet)


def moved(file: Path) -> Path:
    out = file.with_name(f"moved-{file.name}")
    with file.open("rb") as source, out.open("w+b") as target:
        assert put_index_in_front(source, target)
    return out


def left_alone(content: bytes) -> bool:
    target = io.BytesIO()
    done = put_index_in_front(io.BytesIO(content), target)
    assert done or not target.getvalue()
    return not done


def read_by_libav(file: Path) -> dict[str, Any]:
    """All that libav finds in a film, but for where it lies."""
    with av.open(str(file)) as container:
        return {
            "tags": dict(container.metadata),
            "duration": container.duration,
            "start": container.start_time,
            "chapters": container.chapters(),
            "streams": [
                (
                    stream.type,
                    stream.codec_context and (stream.codec_context.name, stream.codec_context.extradata),
                    stream.time_base,
                    stream.start_time,
                    stream.duration,
                    stream.frames,
                    stream.disposition,
                    dict(stream.metadata),
                )
                for stream in container.streams
            ],
            "packets": sorted(
                (
                    packet.stream_index,
                    packet.dts,
                    packet.pts,
                    packet.duration,
                    packet.is_keyframe,
                    packet.is_discard,
                    packet.is_disposable,
                    bytes(packet),
                )
                for packet in container.demux()
                if packet.size and packet.dts is not None and packet.pts is not None
            ),
        }


def boxes(content: bytes) -> list[tuple[str, bytes]]:
    """Names and bodies of the boxes in a row."""
    found, at = [], 0
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        header = 8
        if size == 1:
            (size,), header = struct.unpack_from(">Q", content, at + 8), 16
        found.append((kind.decode(), content[at + header : at + size]))
        at += size
    return found


def positions(container: bytes) -> Iterator[tuple[str, list[int]]]:
    """The tables of chunk positions anywhere in a row of boxes."""
    for kind, body in boxes(container):
        if kind in ("moov", "trak", "mdia", "minf", "stbl"):
            yield from positions(body)
        elif kind in ("stco", "co64"):
            (count,) = struct.unpack_from(">I", body, 4)
            yield kind, list(struct.unpack_from(f">{count}{'I' if kind == 'stco' else 'Q'}", body, 8))


@pytest.mark.parametrize("kind", PLAIN.values(), ids=PLAIN)
def test_a_film_reads_the_same_after_the_move(kind: Kind, tmp_path: Path) -> None:
    file = films.make(tmp_path, kind)
    order = [kind for kind, _ in boxes(file.read_bytes())]
    assert order.index("moov") > order.index("mdat")
    out = moved(file)
    order = [kind for kind, _ in boxes(out.read_bytes())]
    assert order[:2] == ["ftyp", "moov"] and "mdat" in order
    assert out.stat().st_size == file.stat().st_size
    assert read_by_libav(out) == read_by_libav(file)


@pytest.mark.parametrize("ending", ["mp4", "mov"])
@pytest.mark.parametrize("kind", GROWN.values(), ids=GROWN)
def test_a_film_written_as_the_pipeline_writes_reads_the_same_after_the_move(
    kind: Kind, ending: str, tmp_path: Path
) -> None:
    file = tmp_path / f"grown.{ending}"
    options = CONTAINERS[ending].options_for(kind.time_base, [films.SAMPLE_RATE])
    remux(films.make(tmp_path, kind), file, options)
    assert [kind for kind, _ in boxes(file.read_bytes())][-1] == "moov"
    assert file.read_bytes().count(b"moof") > 1  # the fragments it grew by
    out = moved(file)
    assert [kind for kind, _ in boxes(out.read_bytes())][:2] == ["ftyp", "moov"]
    assert read_by_libav(out) == read_by_libav(file)


def test_the_outcome_is_what_libav_writes_when_asked_for_the_index_in_front(tmp_path: Path) -> None:
    film = films.make(tmp_path, PLAIN["all kinds of tracks"])
    last, first = tmp_path / "last.mp4", tmp_path / "first.mp4"
    remux(film, last, {"fflags": "+bitexact"})
    remux(film, first, {"fflags": "+bitexact", "movflags": "+faststart"})
    assert moved(last).read_bytes() == first.read_bytes()


@pytest.mark.parametrize("flags", ["+faststart", "+frag_keyframe+empty_moov", "+frag_keyframe"])
def test_an_index_in_front_and_bare_fragments_are_left_alone(flags: str, tmp_path: Path) -> None:
    file = tmp_path / "film.mp4"
    remux(films.make(tmp_path, Kind("source.mkv")), file, {"movflags": flags})
    assert left_alone(file.read_bytes())


def box(kind: str, *parts: bytes, large: bool = False, open_end: bool = False) -> bytes:
    body = b"".join(parts)
    if large:
        return struct.pack(">I4sQ", 1, kind.encode(), 16 + len(body)) + body
    return struct.pack(">I4s", 0 if open_end else 8 + len(body), kind.encode()) + body


def table(found: list[int], wide: bool) -> bytes:
    entries = struct.pack(f">{len(found)}{'Q' if wide else 'I'}", *found)
    return box("co64" if wide else "stco", struct.pack(">II", 0, len(found)), entries)


def track(chunks: list[int], wide: bool = False, here: int = 1, extra: bytes = b"") -> bytes:
    url = box("url ", struct.pack(">I", here))
    place = box("dinf", box("dref", struct.pack(">II", 0, 1), url))
    return box("trak", box("mdia", box("minf", place, box("stbl", box("stsd", b"any"), table(chunks, wide), extra))))


HEAD = box("ftyp", b"isom\0\0\2\0")


@given(
    chunks=st.lists(st.lists(st.integers(0, 990), max_size=8), min_size=1, max_size=4),
    wide=st.booleans(),
    large=st.booleans(),
    open_end=st.booleans(),
    head=st.booleans(),
    behind=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_position_leads_to_the_same_bytes(
    chunks: list[list[int]], wide: bool, large: bool, open_end: bool, head: bool, behind: bool
) -> None:
    media = random.Random(1).randbytes(1000)
    start = (HEAD if head else b"") + box("wide")
    front = start + box("mdat", media, large=large)
    first = front.index(media)
    tracks = [track([first + at for at in found], wide) for found in chunks]
    more = [] if open_end or not behind else [box("free", b"?"), box("mdat", b"more media")]
    film = front + box("moov", box("mvhd", b"any"), *tracks, open_end=open_end) + b"".join(more)
    if more:  # a chunk behind the index, too: the same length, now that the film's own is known
        last = film.index(b"more media")
        tracks[0] = track([first + at for at in chunks[0][:-1]] + [last] * bool(chunks[0]), wide)
        film = front + box("moov", box("mvhd", b"any"), *tracks) + b"".join(more)
    target = io.BytesIO()
    assert put_index_in_front(io.BytesIO(film), target)
    out = target.getvalue()
    assert len(out) == len(film)
    names = [kind for kind, _ in boxes(out)]
    assert names.index("moov") == (1 if head else 0)
    before = [
        at for _, found in positions(film.replace(struct.pack(">I", 0) + b"moov", _sized_moov(film))) for at in found
    ]
    after = [at for _, found in positions(out) for at in found]
    assert [out[at : at + 10] for at in after] == [film[at : at + 10] for at in before]
    assert len(after) == sum(map(len, chunks))


def _sized_moov(film: bytes) -> bytes:
    """The header of a last box that leaves its size open, with its size."""
    start = film.rindex(b"moov") - 4
    return struct.pack(">I4s", len(film) - start, b"moov")


ZEROS = bytes(64 << 20)


class Sparse(io.RawIOBase):
    """A file of some bytes at some positions, and zeros between, that takes no room. What is zero is not written."""

    def __init__(self, length: int = 0, pieces: dict[int, bytes] | None = None) -> None:
        self.length, self.pieces, self.at = length, dict(pieces or {}), 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.length)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, size: int = -1) -> bytes:
        size = max(0, min(size, self.length - self.at))
        found = bytearray(ZEROS[:size])
        for start, piece in self.pieces.items():
            low, high = max(start, self.at), min(start + len(piece), self.at + size)
            if low < high:
                found[low - self.at : high - self.at] = piece[low - start : high - start]
        self.at += size
        return bytes(found)

    def write(self, content: Any) -> int:
        if content != ZEROS[: len(content)]:
            self.pieces[self.at] = bytes(content)
        self.at += len(content)
        self.length = max(self.length, self.at)
        return len(content)


def long_film(*tracks: list[int]) -> tuple[Sparse, int]:
    """A film whose chunks begin where told, the k-th of all with the letter k; and the length of its index."""
    index = box("moov", *map(track, tracks))
    starts = [at for found in tracks for at in found]
    end = max(starts) + 100
    head = HEAD + struct.pack(">I4sQ", 1, b"mdat", end - len(HEAD))
    letters = {at: bytes([65 + rank]) for rank, at in enumerate(starts)}
    return Sparse(end + len(index), {0: head, **letters, end: index}), len(index)


INDEX = len(box("moov", track([0, 0]), track([0])))
"""Length of the index of the films below, with positions of 32 bits."""


@pytest.mark.parametrize(
    "last, other, kinds",
    [
        (4 * GIB - 1, GIB, ["stco", "stco"]),
        (4 * GIB, GIB, ["co64", "stco"]),
        (4 * GIB + 5, GIB, ["co64", "stco"]),
        (4 * GIB, 4 * GIB - 9, ["co64", "stco"]),
        # the eight bytes that the first track's wider table adds push the second track's over, too
        (4 * GIB, 4 * GIB - 8, ["co64", "co64"]),
    ],
    ids=["below", "at", "beyond", "two beside", "one after the other"],
)
def test_positions_that_outgrow_32_bits_get_64(last: int, other: int, kinds: list[str]) -> None:
    """`last`, `other`: where chunks of the two tracks would begin if the index kept its length."""
    before = [100, last - INDEX, other - INDEX]
    film, length = long_film(before[:2], before[2:])
    assert length == INDEX
    layout = front_index._layout(film)  # type: ignore[arg-type]
    film.seek(layout.index.start)
    index = front_index._moved_index(film.read(length), layout)
    found = list(positions(index))
    assert [kind for kind, _ in found] == kinds
    assert [at for _, table in found for at in table] == [at + len(index) for at in before]


@pytest.mark.slow
def test_a_film_beyond_4_gib_moves_whole() -> None:
    film, length = long_film([100, 4 * GIB - 200], [200])
    target = Sparse()
    assert put_index_in_front(film, target)  # type: ignore[arg-type]
    assert target.length == film.length + 8
    target.seek(len(HEAD))
    (first, second) = positions(target.read(length + 8))
    for rank, at in enumerate([*first[1], *second[1]]):
        target.seek(at)
        assert target.read(1) == bytes([65 + rank])


def test_what_is_not_wholly_understood_is_left_alone() -> None:
    media = box("mdat", b"media")
    at = len(HEAD) + 8
    index = box("moov", track([at]))
    assert not left_alone(HEAD + media + index)
    assert left_alone(b"")
    assert left_alone(b"\x1aE\xdf\xa3 a Matroska film, say, or any other text")
    assert left_alone(HEAD + index + media)
    assert left_alone(HEAD + media)
    assert left_alone(HEAD + media + index[:-1])
    assert left_alone(HEAD + media + index + b"\0\0\0")
    assert left_alone(HEAD + media + index + index)
    assert left_alone(HEAD + media + index + box("moof"))
    assert left_alone(HEAD + media + index + box("mfra"))
    assert left_alone(HEAD + media + box("moov", box("cmov", b"packed")))
    assert left_alone(HEAD + media + box("moov", track([at], here=0)))
    assert left_alone(HEAD + media + box("moov", track([at], extra=box("saio", bytes(12)))))
    assert left_alone(HEAD + media + box("moov", track([at]), box("meta", box("iloc", b"places"))))
    assert left_alone(HEAD + media + box("moov", track([at - 1])))
    assert left_alone(HEAD + media + box("moov", track([at + 5])))
    assert left_alone(HEAD + media + box("moov", track([1 << 40], wide=True)))


def test_damage_never_raises() -> None:
    media = box("mdat", b"media")
    film = HEAD + media + box("moov", track([len(HEAD) + 8]), track([len(HEAD) + 9], wide=True))
    spoilt = [film[:at] + bytes([value]) + film[at + 1 :] for at in range(len(film)) for value in (0, 1, 127, 255)]
    refused = [left_alone(content) for content in (*spoilt, *(film[:at] for at in range(len(film))))]
    assert any(refused) and not all(refused)


def test_a_disk_that_fills_leaves_the_first_file_whole() -> None:
    class Full(io.BytesIO):
        def write(self, content: Any, /) -> int:
            if self.tell() + len(content) > 100:
                raise OSError(28, "No space left on device")
            return super().write(content)

    film = HEAD + box("mdat", bytes(1000)) + box("moov", track([len(HEAD) + 8]))
    source = io.BytesIO(film)
    with pytest.raises(OSError, match="No space"):
        put_index_in_front(source, Full())
    assert source.getvalue() == film


def test_a_film_that_shrinks_meanwhile_is_an_error_and_not_a_short_film() -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            return found[:-1] if len(found) > 500 else found

    film = HEAD + box("mdat", bytes(1000)) + box("moov", track([len(HEAD) + 8]))
    with pytest.raises(OSError, match="ended while"):
        put_index_in_front(Shrinking(film), io.BytesIO())
