"""Who is next: higher priority first, then owners in turn, then age."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar


class Waiting(Protocol):
    """Of a job, what its turn depends on."""

    @property
    def owner(self) -> str:
        """Whose it is."""

    @property
    def priority(self) -> int:
        """Higher is begun first."""

    @property
    def queued_s(self) -> float:
        """When it joined the queue."""


JobT = TypeVar("JobT", bound=Waiting)


def in_turn(waiting: Iterable[JobT], running: Iterable[Waiting] = ()) -> Sequence[JobT]:
    """The waiting jobs in the order in which they will be begun if nothing else comes.

    Of equal priority, the next is always one of the owner who has least in work or before it, then the oldest: ten
    films of one owner do not keep the first film of another waiting.
    """
    in_work = Counter(job.owner for job in running)
    order: list[JobT] = []
    by_priority: dict[int, list[JobT]] = {}
    for job in waiting:
        by_priority.setdefault(job.priority, []).append(job)
    for priority in sorted(by_priority, reverse=True):
        ranked: list[tuple[int, float, int, JobT]] = []
        before = Counter(in_work)
        for number, job in enumerate(sorted(by_priority[priority], key=lambda job: job.queued_s)):
            ranked.append((before[job.owner], job.queued_s, number, job))
            before[job.owner] += 1
        in_work = before
        order += [job for *_, job in sorted(ranked, key=lambda entry: entry[:3])]
    return order
