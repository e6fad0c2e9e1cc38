"""Frames and what comes of them some frames later."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

F = TypeVar("F")
R = TypeVar("R")


def delayed(
    frames: Iterable[F], push: Callable[[F], Iterable[R]], flush: Callable[[], Iterable[R]]
) -> Iterator[tuple[F, R]]:
    """Each frame with its result, in order.

    Args:
        frames: what goes in.
        push: takes a frame, gives the results that are ready by then, of the oldest frames that have none yet.
        flush: gives the rest.
    """
    waiting: deque[F] = deque()
    for frame in frames:
        waiting.append(frame)
        for result in push(frame):
            yield waiting.popleft(), result
    for result in flush():
        yield waiting.popleft(), result
