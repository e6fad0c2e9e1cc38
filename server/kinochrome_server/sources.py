"""Where films come from: a file, or one that is still being written. Both can be sent to another process."""

import io
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from kinochrome_proto.errors import Cancelled

POLL_S = 0.02  # seconds between looks at a file that grows


class Source(Protocol):
    """A film's bytes. Each `open` gives an independent reader from the first byte."""

    @property
    def name(self) -> str:
        """For messages only."""

    def open(self) -> BinaryIO:
        """An independent reader. Raises OSError."""

    def size(self) -> int | None:
        """Bytes of the whole film; None while that is not known."""

    def abandon(self) -> None:
        """Nobody wants the film any more: readers that wait for its bytes raise Cancelled."""


@dataclass(frozen=True)
class FileSource:
    """A film on this machine's disk."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def open(self) -> BinaryIO:
        return self.path.open("rb", buffering=0)

    def size(self) -> int | None:
        return self.path.stat().st_size

    def abandon(self) -> None:
        pass


@dataclass(frozen=True)
class GrowingSource:
    """A film that another process or thread is still writing to a file; its readers wait for bytes to come.

    A reader may seek: a film whose index lies at its end is read once all of it is there, one that can be
    streamed is read as it comes. Neither needs to be told apart. Two empty files beside it say how it stands.
    """

    path: Path

    @property
    def name(self) -> str:
        return "film"  # what the client calls it is used nowhere

    def open(self) -> BinaryIO:
        return cast(BinaryIO, _GrowingReader(self))

    def size(self) -> int | None:
        return self.path.stat().st_size if self._complete.exists() else None

    def finish(self) -> None:
        """No more bytes will come: the film is whole."""
        self._complete.touch()

    def carry_on(self) -> None:
        """It is not whole after all."""
        self._complete.unlink(missing_ok=True)

    def abandon(self) -> None:
        self._abandoned.touch()

    def wait(self, position: int | None) -> int:
        """Wait for a byte at `position`, or, with None, for the end; return the size so far."""
        while True:
            complete = self._complete.exists()  # asked before the size: a size read after it is the whole one
            size = self.path.stat().st_size
            if complete or (position is not None and size > position):
                return size
            if self._abandoned.exists():
                raise Cancelled("cancelled")
            time.sleep(POLL_S)

    @property
    def _complete(self) -> Path:
        return self.path.with_suffix(".complete")

    @property
    def _abandoned(self) -> Path:
        return self.path.with_suffix(".abandoned")


@dataclass(frozen=True)
class Watched:
    """A film for this process alone, whose readers raise Cancelled once an event is set: demuxing may take long."""

    source: Source
    cancelled: threading.Event

    @property
    def name(self) -> str:
        return self.source.name

    def open(self) -> BinaryIO:
        return cast(BinaryIO, _WatchedReader(self.source.open(), self.cancelled))

    def size(self) -> int | None:
        return self.source.size()

    def abandon(self) -> None:
        self.source.abandon()


class _WatchedReader(io.RawIOBase):
    def __init__(self, file: BinaryIO, cancelled: threading.Event) -> None:
        self._file, self._cancelled = file, cancelled

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._cancelled.is_set():
            raise Cancelled("cancelled")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


class _GrowingReader(io.RawIOBase):
    def __init__(self, source: GrowingSource) -> None:
        self._source, self._file, self._position = source, source.path.open("rb", buffering=0), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        there = self._source.wait(self._position if size >= 0 else None) - self._position
        data = os.pread(self._file.fileno(), max(0, there if size < 0 else min(size, there)), self._position)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence)
        self._position = (self._source.wait(None) if base is None else base) + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._file.close()
        super().close()
