"""Films on their way in: each piece is checked, written and forced to the disk before it is acknowledged."""

import asyncio
import contextlib
import hashlib
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import google_crc32c

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire

from ..durable import to_disk
from ..sources import GrowingSource

MAX_PIECE = 1 << 20  # bytes of a film in one message
BATCH_BYTES = 1 << 20
"""Pieces that are forced to the disk together: a flush costs much the same for one byte and for a megabyte."""
BATCH_S = 0.05
"""Longest wait for more of them."""
MIN_PIECE = 4096
"""Bytes that an upload must bring within the idle time, or it counts as silent: a byte now and then is silence."""


class FilmFile:
    """A film's file while it is uploaded. Its methods block: call them in a thread, one at a time."""

    def __init__(self, source: GrowingSource, size: int, *, durable: bool) -> None:
        """Open the file, or make it; what lies behind `size` was never acknowledged and goes. Raises OSError."""
        self._path, self._durable = source.path, durable
        self._file = os.open(source.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.size = size
        self._digest = hashlib.sha256()
        self._hashed = 0
        try:
            os.ftruncate(self._file, size)
            if durable:
                to_disk(source.path.parent)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, pieces: list[bytes]) -> int:
        """Add them; when this returns they are on the disk. Gives the new size. Raises OSError, with nothing added."""
        end = self.size
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    count = os.pwrite(self._file, view, end)
                    view, end = view[count:], end + count
            if self._durable:
                os.fdatasync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.size)
            raise
        if self._hashed == self.size:
            for piece in pieces:
                self._digest.update(piece)
            self._hashed = end
        self.size = end
        return end

    def sha256(self, stop: threading.Event) -> bytes:
        """Of all of it. What was uploaded to an earlier server is read again. Raises Cancelled once `stop` is set."""
        while self._hashed < self.size and (data := os.pread(self._file, 1 << 20, self._hashed)):
            if stop.is_set():
                raise errors.Cancelled("the server is being stopped")
            self._digest.update(data)
            self._hashed += len(data)
        return self._digest.digest()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def streamable(file: GrowingSource, size: int) -> bool | None:
    """Whether a film can be read from its beginning on, before it is whole; None when more of it has to be seen.

    Args:
        file: the film.
        size: bytes of it that are there.

    MP4 can if its index comes first; Matroska, MPEG streams, FLV and Ogg always. Raises OSError.
    """
    with file.path.open("rb", buffering=0) as opened:
        head = opened.read(min(size, 1024))
        if len(head) < min(64, MIN_PIECE):
            return None
        if head.startswith((b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"FLV\x01", b"OggS")):
            return True
        if head[0] == 0x47 and (len(head) < 377 or (head[188] == 0x47 and head[376] == 0x47)):
            return True if len(head) >= 377 else None
        if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"):
            return False
        at = 0
        for _ in range(64):
            if at + 16 > size:
                return None
            opened.seek(at)
            box = opened.read(16)
            length, kind = int.from_bytes(box[:4], "big"), box[4:8]
            if kind == b"moov":
                return True
            if kind == b"mdat" or length == 0:
                return False
            if length == 1:
                length = int.from_bytes(box[8:16], "big")
            if length < 8:
                return False
            at += length
    return False


async def pieces(
    requests: AsyncIterator[Any],
    bytes_of: Callable[[Any, int], bytes],
    offset: int,
    idle_s: float,
    store: Callable[[list[bytes]], Awaitable[int]],
    ended: "asyncio.Future[errors.KinochromeError]",
) -> AsyncGenerator[int, None]:
    """Take an upload's messages until it ends; gives the bytes that are safe, each time there are more.

    Args:
        requests: the messages. One at most is read ahead.
        bytes_of: the checked bytes of a message that is to begin at an offset. Raises KinochromeError.
        offset: where the upload begins.
        idle_s: longest silence.
        store: makes pieces safe, and gives the film's size then.
        ended: given an error, the upload ends with it.

    Raises ServerUnreachable when the upload stands still, and what `bytes_of` and `store` raise.
    """
    incoming = aiter(requests)
    waiting: list[bytes] = []
    held = fresh = 0
    deadline = time.monotonic() + idle_s
    is_over = False
    following: asyncio.Task[Any] = asyncio.ensure_future(_next(incoming))
    try:
        while not is_over:
            patience = BATCH_S if waiting else max(0.0, deadline - time.monotonic())
            await asyncio.wait({following, ended}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise ended.result()
            if following.done():
                request = following.result()
                if request is None:
                    is_over = True
                else:
                    data = bytes_of(request, offset + held)
                    following = asyncio.ensure_future(_next(incoming))
                    if data:
                        waiting.append(data)
                        held += len(data)
                    fresh += len(data)
                    if fresh >= MIN_PIECE:
                        fresh, deadline = 0, time.monotonic() + idle_s
                    if held < BATCH_BYTES and time.monotonic() < deadline:
                        continue
            elif not waiting:
                raise errors.ServerUnreachable(
                    f"the upload stood still for {idle_s:g} s and was ended: carry on from where it stopped"
                ).retried_in(1)
            if waiting:
                offset = await store(waiting)
                waiting, held = [], 0
                yield offset
    finally:
        if not following.done():
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await following


async def _next(incoming: AsyncIterator[Any]) -> Any:
    """The next message; None when there is none."""
    return await anext(incoming, None)


def checked(request: wire.UploadFilmRequest, offset: int) -> bytes:
    """A piece's bytes. Raises WrongOffset, DamagedOnTheWay, BadSettings."""
    if len(request.data) > MAX_PIECE:
        raise errors.BadSettings(
            f"a piece of {len(request.data)} bytes is too large: at most {MAX_PIECE} in a message"
        ).at("data")
    if request.offset != offset:
        raise errors.WrongOffset(f"the upload is at byte {offset}, not {request.offset}: carry on from there").at(
            "offset"
        )
    if google_crc32c.value(request.data) != request.crc32c:
        raise errors.DamagedOnTheWay(
            f"the piece at byte {offset} arrived damaged: its checksum is another; send it again"
        )
    return request.data
