"""Who is next: owners in turn, then the higher priority of an owner's own, then age."""

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
        """Of an owner's jobs, higher is begun first."""

    @property
    def queued_s(self) -> float:
        """When it joined the queue."""


JobT = TypeVar("JobT", bound=Waiting)


def in_turn(waiting: Iterable[JobT], running: Iterable[Waiting] = ()) -> Sequence[JobT]:
    """The waiting jobs in the order in which they will be begun if nothing else comes.

    The next is always one of the owner who has least in work or before it: ten films of one owner do not keep the first
    film of another waiting, whatever their priority. Of an owner's own that of the highest priority comes first, then
    the oldest.
    """
    before = Counter(job.owner for job in running)
    ranked: list[tuple[int, float, int, JobT]] = []
    for number, job in enumerate(sorted(waiting, key=lambda job: (-job.priority, job.queued_s))):
        ranked.append((before[job.owner], job.queued_s, number, job))
        before[job.owner] += 1
    return [job for *_, job in sorted(ranked, key=lambda entry: entry[:3])]
