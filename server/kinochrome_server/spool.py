"""Films on their way through the server: an upload that is read as it grows, a sink that is sent as it grows."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .sources import GrowingSource

MESSAGE_SIZE = 256 * 1024  # bytes of media in one message: larger ones gain little, smaller ones cost calls


class Upload:
    """A film being uploaded into a file, while it is read as a `GrowingSource`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self.source = GrowingSource(path)

    def append(self, data: bytes) -> None:
        """Add the next bytes. Raises OSError of the disk."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def finish(self) -> None:
        """No more bytes will come: the film is whole."""
        self._file.close()
        self.source.finish()

    def abandon(self) -> None:
        """No more bytes will come, and the film is not whole: its readers give up."""
        self._file.close()
        self.source.abandon()


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
