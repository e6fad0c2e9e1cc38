"""Whole messages over a stream socket between a process and its worker, neither of which may hold up the other.

A worker handles bytes from strangers: what it says is bounded, and whoever listens never waits for the rest of it.
"""

import select
import socket
import struct
import time
from collections.abc import Callable

LARGEST = 64 << 20
"""Bytes of a message: the stills of a look in a task, the findings of a long segment in an answer."""
LOOKS_S = 0.05
"""Between looks whether the message is still wanted."""
_LENGTH = struct.Struct("!I")
_PIECE = 1 << 16


class Garbled(ConnectionError):
    """The other side sends what is no message."""


class Line:
    """One end. Not for several threads at once."""

    def __init__(self, end: socket.socket, largest: int = LARGEST) -> None:
        self._end, self._largest = end, largest
        self._got = bytearray()
        self._can_read, self._can_write = select.poll(), select.poll()
        self._can_read.register(end, select.POLLIN)
        self._can_write.register(end, select.POLLOUT)

    def send(self, message: bytes, check: Callable[[], None] = lambda: None) -> None:
        """Send a message, however slowly the other side reads.

        Args:
            message: its bytes.
            check: called all LOOKS_S while the other side does not read; may raise, and the line is of no use then.

        Raises ConnectionError when the other side is gone, ValueError when the message is too large.
        """
        if len(message) > self._largest:
            raise ValueError(f"a message of {len(message)} bytes: {self._largest} at most")
        rest = memoryview(_LENGTH.pack(len(message)) + message)
        while rest:
            try:
                rest = rest[self._end.send(rest, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                check()
                self._can_write.poll(1000 * LOOKS_S)

    def receive(self, timeout_s: float | None = None) -> bytes | None:
        """The next message; None when it is not there, whole, in time.

        Raises EOFError when the other side is gone, Garbled, ConnectionError.
        """
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        while (message := self._whole()) is None:
            # Not anew with every byte: one that trickles must not keep its listener from all else.
            if not self._can_read.poll(None if ends is None else max(0.0, 1000 * (ends - time.monotonic()))):
                return None
            try:
                piece = self._end.recv(_PIECE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            if not piece:
                raise EOFError
            self._got += piece
        return message

    def close(self) -> None:
        self._end.close()

    def _whole(self) -> bytes | None:
        """The message at the front of what has come, if all of it is there."""
        if len(self._got) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._got)
        if length > self._largest:
            raise Garbled(f"a message of {length} bytes was announced: {self._largest} at most")
        end = _LENGTH.size + length
        if len(self._got) < end:
            return None
        message = bytes(self._got[_LENGTH.size : end])
        del self._got[:end]
        return message
