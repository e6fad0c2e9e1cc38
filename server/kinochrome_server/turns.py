"""Whose turn it is: what must be shared goes to whoever has had least of it, by weight.

Two things are shared in this way: the time of the workers (`Turns`), and that of a device that paints (`inference`).
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

FIRST_GUESS_S = 1.0
"""How long an errand takes, before the first is done."""
GUESS_MOVES = 0.25
"""How far one errand moves the guess at the next one's length."""

T = TypeVar("T")


@dataclass(frozen=True)
class Turn:
    """On whose account something is done."""

    of: str = ""
    """Of which job; what has the same name shares one account."""
    weight: int = 1
    """It gets so many times as much as one with weight 1; 1 or more."""

    def __post_init__(self) -> None:
        if self.weight < 1:
            raise ValueError(f"a turn's weight is 1 or more, not {self.weight}")


NOBODY = Turn()
"""Of what is nobody's in particular."""


class Shares:
    """How much each has had, divided by its weight.

    One that comes, or comes back, starts where the least served of those present stands: it is owed nothing for the
    time in which it wanted nothing. One that goes is remembered while it has had more than those that stay.
    """

    def __init__(self) -> None:
        self._had: dict[str, float] = {}
        self._present: set[str] = set()
        self._floor = 0.0

    def come(self, of: str) -> None:
        """It wants something from now on."""
        if of in self._present:
            return
        self._raise_floor()
        self._present.add(of)
        self._had[of] = max(self._had.get(of, 0.0), self._floor)

    def go(self, of: str) -> None:
        """It wants nothing any more."""
        self._raise_floor()
        self._present.discard(of)
        self._had = {name: had for name, had in self._had.items() if name in self._present or had > self._floor}

    def had(self, of: str) -> float:
        """Of one that is present."""
        return self._had[of]

    def charge(self, of: str, amount: float) -> None:
        """It has had so much, already divided by its weight; also after it has gone."""
        if of in self._had:
            self._had[of] += amount

    def _raise_floor(self) -> None:
        if self._present:
            self._floor = max(self._floor, min(self._had[name] for name in self._present))


@dataclass(eq=False)
class _Waiting(Generic[T]):
    item: T
    turn: Turn
    number: int


@dataclass(frozen=True, eq=False)
class Given:
    """A turn that somebody has now; `Turns.done` ends it."""

    turn: Turn
    begun: float
    guess: float
    """Seconds that it was expected to take."""


class Turns(Generic[T]):
    """Things to be done, for several; from any thread. Those on one account are given out in order."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._queues: dict[str, deque[_Waiting[T]]] = {}
        self._running: dict[str, list[Given]] = {}
        self._shares = Shares()
        self._numbers = count()
        self._guess = FIRST_GUESS_S
        self._closed = False

    @property
    def waiting(self) -> int:
        """Things that nobody does yet."""
        with self._changed:
            return sum(map(len, self._queues.values()))

    @property
    def running(self) -> int:
        """Things that are being done."""
        with self._changed:
            return sum(map(len, self._running.values()))

    @property
    def unfinished(self) -> int:
        """Things that wait or are being done, counted in one moment."""
        with self._changed:
            return sum(map(len, self._queues.values())) + sum(map(len, self._running.values()))

    def put(self, item: T, turn: Turn) -> bool:
        """False, and nothing is put, when closed."""
        with self._changed:
            if self._closed:
                return False
            self._shares.come(turn.of)
            self._queues.setdefault(turn.of, deque()).append(_Waiting(item, turn, next(self._numbers)))
            self._changed.notify()
            return True

    def take(self) -> tuple[T, Given] | None:
        """Wait for the next thing to be done; None when closed."""
        with self._changed:
            while not self._queues and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            now = self._clock()
            of = min(self._queues, key=lambda name: (self._standing(name, now), self._queues[name][0].number))
            queue = self._queues[of]
            waiting = queue.popleft()
            if not queue:
                del self._queues[of]
            given = Given(waiting.turn, now, self._guess)
            self._running.setdefault(of, []).append(given)
            return waiting.item, given

    def done(self, given: Given) -> None:
        """What was given is done, or given up."""
        with self._changed:
            of, took = given.turn.of, self._clock() - given.begun
            running = self._running[of]
            running.remove(given)
            if not running:
                del self._running[of]
            self._guess += GUESS_MOVES * (took - self._guess)
            self._shares.charge(of, took / given.turn.weight)
            self._go_if_idle(of)

    def sweep(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out what waits in vain."""
        with self._changed:
            swept: list[T] = []
            for of, queue in list(self._queues.items()):
                kept: deque[_Waiting[T]] = deque()
                for waiting in queue:
                    if unwanted(waiting.item):
                        swept.append(waiting.item)
                    else:
                        kept.append(waiting)
                self._queues[of] = kept
                if not kept:
                    del self._queues[of]
                    self._go_if_idle(of)
            return swept

    def close(self) -> list[T]:
        """Give nothing out any more; returns what still waits."""
        with self._changed:
            self._closed = True
            left = [waiting.item for queue in self._queues.values() for waiting in queue]
            self._queues.clear()
            self._changed.notify_all()
            return left

    def _standing(self, of: str, now: float) -> float:
        """What it has had, with what it is having: at least what that is expected to take."""
        having = sum(max(now - given.begun, given.guess) / given.turn.weight for given in self._running.get(of, ()))
        return self._shares.had(of) + having

    def _go_if_idle(self, of: str) -> None:
        if of not in self._queues and of not in self._running:
            self._shares.go(of)
