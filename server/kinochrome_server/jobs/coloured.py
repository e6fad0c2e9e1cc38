"""The coloured film while it is written: told how far it has come, and what of it was written twice."""

import hashlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

from kinochrome_proto.errors import Cancelled


class ColouredFile(io.RawIOBase):
    """A new file whose growth somebody follows, and whose rewritten ranges are kept.

    What is appended stays as it is, but for those ranges: a muxer goes back, when the film is complete, to put the
    final figures into its header.
    """

    def __init__(
        self,
        path: Path,
        on_grown: Callable[[int], None],
        room: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Begin the file anew.

        Args:
            path: where it is.
            on_grown: told its size after each addition.
            room: called before each addition with the size to come; may wait, may raise.

        Raises OSError.
        """
        self._file = path.open("w+b", buffering=0)
        self._on_grown, self._room = on_grown, room
        self._at = self._size = 0
        self.patches: list[tuple[int, int]] = []
        """Offset and length of what was written before the end, in the order of writing, joined where it touches."""

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        view = memoryview(data).cast("B")
        end = self._at + len(view)
        if end > self._size:
            self._room(end)
        again = min(end, self._size) - self._at
        start = self._at
        while view:
            count = os.pwrite(self._file.fileno(), view, self._at)
            view, self._at = view[count:], self._at + count
        if again > 0:
            self._note(start, again)
        if end > self._size:
            self._size = end
            self._on_grown(end)
        return end - start

    def _note(self, start: int, length: int) -> None:
        if self.patches and sum(self.patches[-1]) == start:
            start, length = self.patches[-1][0], self.patches.pop()[1] + length
        self.patches.append((start, length))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def digest(self, cancelled: threading.Event) -> bytes:
        """SHA-256 of the file as it now is. Raises Cancelled."""
        digest = hashlib.sha256()
        at = 0
        while data := os.pread(self._file.fileno(), 1 << 20, at):
            if cancelled.is_set():
                raise Cancelled("cancelled")
            digest.update(data)
            at += len(data)
        return digest.digest()

    @property
    def size(self) -> int:
        return self._size

    def to_disk(self) -> None:
        """Wait until all of it is on the disk. Raises OSError."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
