"""Memory that a worker and the inference process share: slots for pictures on their way, with their chroma."""

import fcntl
import mmap
import os

import numpy as np
import numpy.typing as npt

SLOTS = 2
"""So a worker decodes while its last group of pictures is painted."""
SLOT_BYTES = 64 << 20
"""Pages that nobody touches take no memory."""
SIZE = SLOTS * SLOT_BYTES
_HEADER = 64
_CHROMA_BYTES = 2 * np.dtype(np.float32).itemsize  # for a sample of luma, at most: that of a stride of 1
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

WAITS, RUNS = 0, 1
"""How a slot's pictures stand."""


def create() -> int:
    """A descriptor of fresh memory, of a size that nobody can change: a page taken away would kill who reads it."""
    descriptor = os.memfd_create("kinochrome", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, SIZE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def fits(count: int, height: int, width: int) -> bool:
    """Whether a slot holds so many pictures and whatever chroma they may get."""
    return _HEADER + count * height * width * (1 + _CHROMA_BYTES) + _HEADER <= SLOT_BYTES


class Memory:
    """It, in this process."""

    def __init__(self, descriptor: int) -> None:
        """Takes the descriptor over. Raises ValueError when it is not memory of this kind."""
        try:
            if os.fstat(descriptor).st_size != SIZE or fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise ValueError("this is no memory that may be shared")
            self._bytes = np.frombuffer(mmap.mmap(descriptor, SIZE), np.uint8)
        finally:
            os.close(descriptor)

    def luma(self, slot: int, count: int, height: int, width: int) -> npt.NDArray[np.uint8]:
        """(N, h, w), the slot's own. The sizes must fit."""
        start = slot * SLOT_BYTES + _HEADER
        return self._bytes[start : start + count * height * width].reshape(count, height, width)

    def chroma(self, slot: int, luma: tuple[int, int, int], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """(N, 2, h, w) of that `shape`, the slot's own, behind `luma` of (N, H, W). No larger than luma."""
        (count, height, width), (rows, columns) = luma, shape
        start = slot * SLOT_BYTES + _HEADER + -(-count * height * width // _HEADER) * _HEADER
        size = count * rows * columns * _CHROMA_BYTES
        return self._bytes[start : start + size].view(np.float32).reshape(count, 2, rows, columns)

    def set_state(self, slot: int, state: int) -> None:
        self._bytes[slot * SLOT_BYTES] = state

    def state(self, slot: int) -> int:
        return int(self._bytes[slot * SLOT_BYTES])
