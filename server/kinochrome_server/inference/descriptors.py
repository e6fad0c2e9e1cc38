"""Packets with open files on a socket between processes. The standard library's functions forget their flags."""

import array
import socket
from collections.abc import Sequence


def send(line: socket.socket, packet: bytes, descriptors: Sequence[int] = ()) -> None:
    """Never waits. Raises OSError."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    line.sendmsg([packet], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive(line: socket.socket, largest: int, most: int) -> tuple[bytes, list[int]]:
    """A packet, empty at the end, and the descriptors that came with it. Never waits. Raises OSError."""
    size = array.array("i").itemsize
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    packet, ancillary, _, _ = line.recvmsg(largest, socket.CMSG_SPACE(most * size), flags)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) // size * size])
    return packet, list(descriptors)
