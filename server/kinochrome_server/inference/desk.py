"""What an inference process does: takes pictures from all workers, paints them in batches, and says when they are done.

Two threads: one hears workers and whoever started the process, the other has the device to itself, loading included,
for drivers bear no second thread while a graph of kernels is captured. What hangs or leaves the device broken ends the
process: it is started again, fresh.
"""

import contextlib
import json
import os
import selectors
import socket
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from kinochrome_proto.errors import BadColorizer, KinochromeError, Unusable

from ..engines.interface import Engine
from ..turns import NOBODY, Turn
from . import descriptors
from .batches import Batcher, Batching, Picture, gathered
from .memory import RUNS, SLOTS, WAITS, Memory, fits
from .sessions import Open, Session, Sessions
from .tickets import ALIVE, FAULT, LARGEST, LONGEST_SIDE, MOST, PAINTED, Answer, Request

TICK_S = 0.25
ALIVE_S = 5.0
"""Between signs of life to workers that wait."""
HANG_S = 120.0
"""A batch that takes longer hangs."""
LOADING_HANG_S = 1800.0
"""The same where a colorizer is loaded first: an engine may have to be built."""
HUNG, BROKEN, FAILED = 3, 4, 5
"""Exit codes."""


@dataclass(eq=False)
class _Worker:
    """A worker's line, and on whose account it works."""

    number: int
    line: socket.socket
    memory: Memory
    turn: Turn = NOBODY
    session: Session | None = None
    orders: "dict[int, _Order]" = field(default_factory=dict)
    """By slot."""

    def answer(self, answer: Answer) -> None:
        try:
            self.line.send(answer.packed(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            self._hang_up()  # gone, or not listening

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)  # the other thread hears it, and lets go


@dataclass(eq=False)
class _Order:
    """A request on its way."""

    worker: _Worker
    request: Request
    left: int
    """Pictures that are not painted yet."""

    @property
    def size(self) -> tuple[int, int, int]:
        return self.request.count, self.request.height, self.request.width


class Desk:
    """See the module."""

    def __init__(self, control: socket.socket, load: Open, batching: Batching, kept: int) -> None:
        """
        Args:
            control: the line to whoever started this, a packet a message.
            load: loads a session.
            batching: how batches are filled.
            kept: sessions that are held ready.
        """
        self._control, self._batching = control, batching
        self._sessions = Sessions(load, kept)
        self._batcher = Batcher(batching)
        self._changed = threading.Condition()
        """Guards what follows, and the batcher."""
        self._workers: dict[int, _Worker] = {}
        self._painted: list[tuple[int, float]] = []
        """(frames, seconds) of batches that nobody was told of."""
        self._hangs_at: float | None = None
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Until whoever started this is gone."""
        self._selector.register(self._control, selectors.EVENT_READ)
        threading.Thread(target=self._have_painted, name="device", daemon=True).start()
        signed = time.monotonic()
        while True:
            ready = [key.data for key, _ in self._selector.select(TICK_S) if key.data is not None]
            # First what workers are to do: their requests come after it.
            if not self._hear_control():
                return
            for worker in ready:
                if worker.number in self._workers:
                    self._hear(worker)
            now = time.monotonic()
            self._report()
            if self._hangs_at is not None and now > self._hangs_at:
                self._end(HUNG, "a batch hangs on the device")
            if now - signed > ALIVE_S:
                signed = now
                for worker in self._workers.values():
                    if worker.orders:
                        worker.answer(Answer(ALIVE))

    # The line to whoever started this

    def _hear_control(self) -> bool:
        """False when it is gone."""
        while True:
            try:
                packet, files = descriptors.receive(self._control, LARGEST, 2)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not packet:
                return False
            said = json.loads(packet)
            match said["say"]:
                case "attach":
                    line, memory = files
                    worker = _Worker(said["worker"], socket.socket(fileno=line), Memory(memory))
                    self._workers[worker.number] = worker
                    self._selector.register(worker.line, selectors.EVENT_READ, worker)
                case "work":
                    if found := self._workers.get(said["worker"]):
                        found.turn, found.session = Turn(**said["turn"]), Session(**said["session"])
                case "ping":
                    self._tell({"say": "pong"})

    def _report(self) -> None:
        with self._changed:
            painted, self._painted = self._painted[:200], self._painted[200:]
        if painted:
            self._tell({"say": "painted", "batches": painted, "room": self._batching.most})

    def _tell(self, said: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it is gone, which is heard next, or does not listen: figures may be lost
            descriptors.send(self._control, json.dumps(said).encode())

    def _end(self, code: int, why: str) -> NoReturn:
        self._tell({"say": "ended", "why": why[:1000]})
        os._exit(code)

    # Workers

    def _hear(self, worker: _Worker) -> None:
        try:
            packet = worker.line.recv(LARGEST, socket.MSG_DONTWAIT)
            if not packet:
                raise EOFError
            self._take(worker, Request.unpacked(packet))
        except BlockingIOError:
            pass
        except (EOFError, OSError, ValueError):
            self._let_go(worker)

    def _take(self, worker: _Worker, request: Request) -> None:
        """Raises ValueError for what a sound worker does not send."""
        sides = request.height, request.width
        if worker.session is None:
            raise ValueError("it has no work")
        if request.slot >= SLOTS or request.slot in worker.orders:
            raise ValueError(f"slot {request.slot}")
        if not (1 <= request.count <= MOST and all(1 <= side <= LONGEST_SIDE for side in sides)):
            raise ValueError(f"sizes: {request}")
        if not fits(request.count, *sides):
            raise ValueError(f"too large: {request}")
        order = _Order(worker, request, request.count)
        worker.memory.set_state(request.slot, WAITS)
        kind = (worker.session, *sides)
        now = time.monotonic()
        with self._changed:
            worker.orders[request.slot] = order
            for index in range(request.count):
                self._batcher.add(Picture(kind, worker.turn, order, index, float(sides[0] * sides[1])), now)
            self._changed.notify()

    def _let_go(self, worker: _Worker) -> None:
        self._selector.unregister(worker.line)
        del self._workers[worker.number]
        with self._changed:
            self._batcher.drop(lambda picture: picture.owner.worker is worker)
        worker.line.close()

    # The device

    def _have_painted(self) -> None:
        try:
            while True:
                self._paint(self._next_batch())
        except BaseException:
            self._end(FAILED, traceback.format_exc())

    def _next_batch(self) -> list[Picture]:
        with self._changed:
            self._hangs_at = None
            while True:
                due, now = self._batcher.due(), time.monotonic()
                if due is not None and due <= now:
                    self._hangs_at = now + HANG_S
                    return self._batcher.take(now)
                self._changed.wait(None if due is None else due - now)

    def _paint(self, batch: list[Picture]) -> None:
        session, height, width = batch[0].kind
        assert isinstance(session, Session)
        orders = list(gathered(batch))
        for order, _ in orders:
            order.worker.memory.set_state(order.request.slot, RUNS)
        luma = np.zeros((self._batching.most, height, width), np.uint8)
        for order, places in orders:
            given = order.worker.memory.luma(order.request.slot, *order.size)
            for place, index in places:
                luma[place] = given[index]
        try:
            engine = self._engine(session, height, width)
            begun = time.monotonic()
            chroma = self._run(engine, luma)
            took = time.monotonic() - begun
        except MemoryError:
            self._refuse(orders, {"memory": True})
            return
        except KinochromeError as error:
            self._refuse(orders, {"reason": error.reason, "text": str(error)[:1000]})
            return
        for order, places in orders:
            slot = order.request.slot
            painted = order.worker.memory.chroma(slot, order.size, chroma.shape[2:])
            for place, index in places:
                painted[index] = chroma[place]
            order.worker.memory.set_state(slot, WAITS)
            order.left -= len(places)
            if not order.left:
                self._answer(order, Answer(PAINTED, slot))
        with self._changed:
            self._painted.append((len(batch), took))

    def _engine(self, session: Session, height: int, width: int) -> Engine:
        """Raises KinochromeError, MemoryError."""
        self._hangs_at = time.monotonic() + LOADING_HANG_S
        engine = self._sessions.engine(session)
        self._hangs_at = time.monotonic() + HANG_S
        if height % engine.manifest.size_multiple or width % engine.manifest.size_multiple:
            raise BadColorizer(
                f"{session.colorizer} takes multiples of {engine.manifest.size_multiple}, not {width}x{height}"
            )
        return engine

    def _run(self, engine: Engine, luma: "np.ndarray[Any, np.dtype[np.uint8]]") -> "np.ndarray[Any, Any]":
        """Raises BadColorizer, MemoryError."""
        try:
            chroma = engine.run(luma)
        except Unusable as error:
            # Whatever is run on a device in such a state fails: a fresh process may get a fresh one.
            self._end(BROKEN, str(error))
        count, height, width = luma.shape
        stride = engine.manifest.chroma_stride
        if chroma.shape != (count, 2, height // stride, width // stride) or chroma.dtype != np.float32:
            raise BadColorizer(f"a colorizer gave {chroma.dtype} chroma of {chroma.shape} for {luma.shape}")
        return chroma

    def _refuse(self, orders: list[tuple[Any, list[tuple[int, int]]]], fault: dict[str, Any]) -> None:
        """What is left of these orders is not painted."""
        owners = {id(order) for order, _ in orders}
        with self._changed:
            self._batcher.drop(lambda picture: id(picture.owner) in owners)
        if "memory" in fault:
            self._sessions.forget()  # what it holds may be what the next try needs
        for order, _ in orders:
            self._answer(order, Answer(FAULT, order.request.slot, fault))

    def _answer(self, order: _Order, answer: Answer) -> None:
        with self._changed:
            order.worker.orders.pop(order.request.slot, None)
        order.worker.answer(answer)


def serve(control: socket.socket, load: Callable[[Session], Engine], batching: Batching, kept: int) -> None:
    """Serve until whoever holds the other end of the control line is gone."""
    Desk(control, load, batching, kept).serve()
