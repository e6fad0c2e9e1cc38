"""Which pictures go through a colorizer together, and when."""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from ..turns import Shares, Turn

Kind = tuple[Hashable, int, int]
"""What pictures must share to go together: the session, height and width."""


@dataclass(frozen=True)
class Batching:
    """How batches are filled."""

    most: int = 16
    """Pictures of a batch. Every batch has so many, filled up with black ones: a picture's chroma must not depend, by a
    rounding, on how many others went with it."""
    delay_s: float = 0.005
    """How long the first picture waits for others, where they do not fill a batch at once."""


@dataclass(eq=False)
class Picture:
    """One that waits."""

    kind: Kind
    turn: Turn
    owner: Any
    """Whose it is: what all its pictures have in common."""
    index: int
    """Which of its owner's."""
    cost: float
    """What it takes of the device, in any unit."""


@dataclass
class _Queue:
    """What waits of one kind, by whose it is."""

    pictures: dict[str, deque[tuple[float, Picture]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.pictures.values()))

    @property
    def oldest(self) -> float:
        return min(queue[0][0] for queue in self.pictures.values())


class Batcher:
    """Gathers pictures into batches. Not for several threads at once.

    A batch is due when there are pictures enough, or the first of its kind has waited long enough. Of those that are
    due, the one goes first in which there is a picture of whoever has had least of the device; it is filled up in the
    same order.
    """

    def __init__(self, batching: Batching) -> None:
        self._batching = batching
        self._queues: dict[Kind, _Queue] = {}
        self._shares = Shares()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, picture: Picture, now: float) -> None:
        """`now`: seconds of any clock that never goes back."""
        self._shares.come(picture.turn.of)
        queue = self._queues.setdefault(picture.kind, _Queue())
        queue.pictures.setdefault(picture.turn.of, deque()).append((now, picture))

    def due(self) -> float | None:
        """When the next batch is due, by the clock; None when nothing waits."""
        return min((self._due(queue) for queue in self._queues.values()), default=None)

    def take(self, now: float) -> list[Picture]:
        """The next batch that is due, of one kind; empty when there is none."""
        ready = [kind for kind, queue in self._queues.items() if self._due(queue) <= now]
        if not ready:
            return []
        kind = min(ready, key=lambda kind: min(map(self._shares.had, self._queues[kind].pictures)))
        queue = self._queues[kind].pictures
        batch: list[Picture] = []
        while queue and len(batch) < self._batching.most:
            of = min(queue, key=lambda name: (self._shares.had(name), queue[name][0][0]))
            _, picture = queue[of].popleft()
            batch.append(picture)
            self._shares.charge(of, picture.cost / picture.turn.weight)
            if not queue[of]:
                del queue[of]
        self._tidy({picture.turn.of for picture in batch})
        return batch

    def drop(self, unwanted: Callable[[Picture], bool]) -> None:
        """Nobody waits for these any more."""
        names: set[str] = set()
        for queue in self._queues.values():
            for of, waiting in list(queue.pictures.items()):
                kept = deque(entry for entry in waiting if not unwanted(entry[1]))
                if len(kept) < len(waiting):
                    names.add(of)
                    queue.pictures[of] = kept
                    if not kept:
                        del queue.pictures[of]
        self._tidy(names)

    def _due(self, queue: _Queue) -> float:
        return queue.oldest + (0.0 if len(queue) >= self._batching.most else self._batching.delay_s)

    def _tidy(self, names: set[str]) -> None:
        """After some of these were taken away."""
        self._queues = {kind: queue for kind, queue in self._queues.items() if queue.pictures}
        present = set(chain.from_iterable(queue.pictures for queue in self._queues.values()))
        for of in names - present:
            self._shares.go(of)


def gathered(batch: list[Picture]) -> Iterator[tuple[Any, list[tuple[int, int]]]]:
    """The owners in a batch, each with (place in the batch, index) of its pictures."""
    places: dict[int, tuple[Any, list[tuple[int, int]]]] = {}
    for place, picture in enumerate(batch):
        places.setdefault(id(picture.owner), (picture.owner, []))[1].append((place, picture.index))
    yield from places.values()
