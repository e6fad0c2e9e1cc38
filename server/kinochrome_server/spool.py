"""Films on their way through the server: a source that grows as it is uploaded, a sink that is sent as it grows."""

import hashlib
import io
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from kinochrome_proto.errors import Cancelled

MESSAGE_SIZE = 256 * 1024  # bytes of media in one message: larger ones gain little, smaller ones cost calls


class Upload:
    """A film being uploaded into a file; a `Source` whose readers wait for bytes that have not come yet.

    A reader may seek: a film whose index lies at its end is read once all of it is there, one that can be
    streamed is read as it comes. Neither needs to be told apart.
    """

    def __init__(self, path: Path, cancelled: threading.Event) -> None:
        """Once `cancelled` is set, readers that wait raise Cancelled."""
        self._path, self._cancelled = path, cancelled
        self._file = path.open("wb", buffering=0)
        self._size, self._complete = 0, False
        self._changed = threading.Condition()

    @property
    def name(self) -> str:
        return "film"  # what the client calls it is used nowhere

    def size(self) -> int | None:
        with self._changed:
            return self._size if self._complete else None

    def append(self, data: bytes) -> None:
        """Add the next bytes."""
        self._file.write(data)
        with self._changed:
            self._size += len(data)
            self._changed.notify_all()

    def finish(self) -> None:
        """No more bytes will come: the film is whole."""
        self._file.close()
        with self._changed:
            self._complete = True
            self._changed.notify_all()

    def open(self) -> BinaryIO:
        return cast(BinaryIO, _GrowingReader(self, self._path))

    def wait(self, position: int | None) -> int:
        """Wait for a byte at `position`, or, with None, for the end; return the size so far."""
        with self._changed:
            while not self._cancelled.is_set():
                if self._complete or (position is not None and self._size > position):
                    return self._size
                self._changed.wait(0.1)
        raise Cancelled("cancelled")


class _GrowingReader(io.RawIOBase):
    def __init__(self, upload: Upload, path: Path) -> None:
        self._upload, self._file, self._position = upload, path.open("rb", buffering=0), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        there = self._upload.wait(self._position if size >= 0 else None) - self._position
        data = os.pread(self._file.fileno(), max(0, there if size < 0 else min(size, there)), self._position)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence)
        self._position = (self._upload.wait(None) if base is None else base) + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True)
class Run:
    """Bytes of the coloured film at their place in the file."""

    offset: int
    data: bytes


class SentFile(io.RawIOBase):
    """A file that also hands on everything written to it, rewritten headers included."""

    def __init__(self, path: Path, send: Callable[[Run], None]) -> None:
        """`send` may block: that is how a slow client slows the pipeline down."""
        self._file, self._send = path.open("w+b", buffering=0), send

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        offset = self._file.tell()
        for start in range(0, len(data), MESSAGE_SIZE):
            piece = data[start : start + MESSAGE_SIZE]
            self._file.write(piece)
            self._send(Run(offset + start, piece))
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def digest(self) -> tuple[int, bytes]:
        """Size and SHA-256 of the file as it now is."""
        self._file.seek(0)
        digest = hashlib.file_digest(self._file, "sha256").digest()
        return self._file.seek(0, io.SEEK_END), digest

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
