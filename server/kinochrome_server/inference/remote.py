"""What a worker has in an engine's place: its line to the inference process."""

import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kinochrome_proto.errors import BY_REASON, BadColorizer, KinochromeError
from kinochrome_proto.manifest import Manifest

from .memory import RUNS, SLOTS, Memory, fits
from .tickets import FAULT, LARGEST, PAINTED, Answer, Request

LOST_S = 60.0
"""An inference process that gives no sign of life for so long is lost; it gives one every few seconds."""


class InferenceLost(Exception):
    """The inference process died, or hangs."""

    def __init__(self, was_running: bool) -> None:
        super().__init__("the inference process is lost")
        self.was_running = was_running
        """Whether it was painting pictures of ours just then: only then may they be what killed it."""


@dataclass(eq=False)
class _Ticket:
    slot: int
    answer: Answer | None = None


class Counter:
    """A worker's end. One thread's."""

    def __init__(self, line: socket.socket, memory: int, on_alive: Callable[[], None] = lambda: None) -> None:
        """
        Args:
            line: to the inference process.
            memory: descriptor of what is shared with it; taken over.
            on_alive: called when it says, while it is waited for, that it is alive.
        """
        self._line, self._memory, self._on_alive = line, Memory(memory), on_alive
        self._tickets: dict[int, _Ticket] = {}
        """Those not answered, by slot."""
        self._next = 0
        self._poll = select.poll()
        self._poll.register(line, select.POLLIN)

    def give(self, luma: npt.NDArray[np.uint8]) -> _Ticket:
        """Hand pictures in, (N, h, w). The ticket is good until SLOTS more are given. Raises InferenceLost."""
        # In turn: so tickets that nobody ever redeemed, of a segment broken off, need no looking after.
        slot, self._next = self._next, (self._next + 1) % SLOTS
        while slot in self._tickets:
            self._hear()
        count, height, width = luma.shape
        self._memory.luma(slot, count, height, width)[...] = luma
        ticket = self._tickets[slot] = _Ticket(slot)
        try:
            self._line.send(Request(slot, count, height, width).packed(), socket.MSG_NOSIGNAL)
        except OSError:
            raise self._lost() from None
        return ticket

    def redeem(self, ticket: _Ticket) -> Answer:
        """Wait until its pictures are painted. Raises InferenceLost."""
        while ticket.answer is None:
            self._hear()
        return ticket.answer

    def chroma(self, ticket: _Ticket, luma: tuple[int, int, int], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """A copy of what was painted: (N, 2, h, w) of `shape`, for `luma` of (N, H, W)."""
        return self._memory.chroma(ticket.slot, luma, shape).copy()

    def _hear(self) -> None:
        """Wait for one packet."""
        patience_ends = time.monotonic() + LOST_S
        while not self._poll.poll(1000):
            if time.monotonic() > patience_ends:
                raise self._lost()
        try:
            packet = self._line.recv(LARGEST)
        except OSError:
            packet = b""
        if not packet:
            raise self._lost()
        answer = Answer.unpacked(packet)
        if answer.kind in (PAINTED, FAULT):
            self._tickets.pop(answer.slot).answer = answer
        else:
            self._on_alive()

    def _lost(self) -> InferenceLost:
        return InferenceLost(any(self._memory.state(slot) == RUNS for slot in self._tickets))


class RemoteEngine:
    """Paints as an engine does, elsewhere."""

    ahead = SLOTS - 1
    """Groups of pictures that may be on their way while more are decoded."""

    def __init__(self, counter: Counter, manifest: Manifest, file: str) -> None:
        """`manifest`, `file`: of the colorizer that the inference process was told to run for this worker."""
        self.manifest = manifest
        self._counter, self._file = counter, file

    def begin(self, luma: npt.NDArray[np.uint8]) -> Callable[[], npt.NDArray[np.float32]]:
        """Have (N, h, w) thumbnails painted; what it returns waits for their chroma, as `Engine.run` gives it.

        Raises BadColorizer; what it returns raises what loading and running the colorizer raise, and InferenceLost.
        """
        count, height, width = luma.shape
        if not fits(count, height, width):
            raise BadColorizer(f"{self._file} works on pictures of {width}x{height}, too large for batches")
        ticket = self._counter.give(luma)
        stride = self.manifest.chroma_stride

        def painted() -> npt.NDArray[np.float32]:
            answer = self._counter.redeem(ticket)
            if answer.fault is not None:
                raise _error(answer.fault)
            return self._counter.chroma(ticket, (count, height, width), (height // stride, width // stride))

        return painted


def _error(fault: dict[str, str]) -> Exception:
    if "memory" in fault:
        return MemoryError()
    return BY_REASON.get(fault["reason"], KinochromeError)(fault["text"])
