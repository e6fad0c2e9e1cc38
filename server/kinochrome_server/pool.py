"""Worker processes: decoders, colorizers and encoders run apart, so that what kills one costs one try of one task.

Tasks go to a worker as pickles; what comes back is JSON, for a worker handles bytes from strangers and is not trusted.
Several jobs share the workers by turns (`turns`); colorizers of devices other than the CPU are run for all workers by
one process (`inference`).
"""

import logging
import os
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from kinochrome_proto.errors import BadFilm, Cancelled, KinochromeError, ServerFailed, Unusable

from .about import about
from .inference.host import Gone, Inference, Process
from .inference.sessions import Session
from .sandbox import WORKER, Held, Terms
from .turns import NOBODY, Turn, Turns
from .worker_process import UNWATCHED, InferenceDied, Task, Watching, WorkerDied, WorkerProcess

__all__ = ["GATHERED", "Task", "Terms", "Turn", "Watching", "WorkerPool", "usable_cores"]

TRIES = 2
KILLINGS = 6
"""After so many times that somebody else ended the worker of a task, it is given up: the system may do so for want of
memory, a person by mistake, and neither says anything about the film."""
INNOCENT_TRIES = 5
"""Of a task that lost the inference process while that painted for others."""
GATHERED = frozenset({"cuda", "tensorrt", "tensorrt-native"})
"""Engines that the inference process runs. The CPU's cores are the workers' own: there, each paints for itself."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Errand:
    """A task on its way."""

    task: Task
    on_frames: Callable[[int], None]
    cancelled: threading.Event
    turn: Turn
    done: "Future[dict[str, Any]]" = field(default_factory=Future)


class WorkerPool:
    """Some worker processes. Use as a context manager. They start when there is work, and serve any number of films."""

    def __init__(
        self,
        count: int | None = None,
        *,
        terms: Terms = WORKER,
        gathers: Collection[str] = GATHERED,
        inference: Inference | None = None,
        watching: Watching = UNWATCHED,
    ) -> None:
        """
        Args:
            count: workers; by default one per core.
            terms: what a worker may do; how much of that this system enforces is logged.
            gathers: engines, by name, that one inference process runs for all workers.
            inference: that process, ended with the pool; by default one on the first device.
            watching: told of what goes on.
        """
        self.count = count or usable_cores()
        self._terms, self._gathers, self._watching = terms, frozenset(gathers), watching
        self._inference = inference or Inference(on_batch=watching.batch)
        self._turns: Turns[_Errand] = Turns()
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self.held: Held | None = None
        """How far this system confines the workers; None before the first has started."""

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def busy(self) -> int:
        """Workers that have a task."""
        return self._turns.running

    @property
    def waiting(self) -> int:
        """Tasks that wait for a worker."""
        return self._turns.waiting

    @property
    def inference_pid(self) -> int | None:
        """Of the inference process; None where there is none."""
        return self._inference.pid

    def close(self) -> None:
        """End all workers; tasks still running raise Cancelled."""
        with self._lock:
            self._closing.set()
            left = self._turns.close()
        for errand in left:
            _give_up(errand)
        for thread in self._threads:
            thread.join()
        self._inference.close()

    def submit(
        self,
        task: Task,
        cancelled: threading.Event | None = None,
        on_frames: Callable[[int], None] = lambda count: None,
        *,
        turn: Turn = NOBODY,
    ) -> "Future[dict[str, Any]]":
        """Give a task to a worker, when it is its turn.

        Args:
            task: what to do.
            cancelled: once set, the task is not begun, or its worker is ended; its future raises Cancelled.
            on_frames: told, from another thread, how many more frames are done; a negative number takes some back.
            turn: for which job. Of jobs that wait, the one goes first whose tasks had least of the workers' time, by
                weight; tasks of one job go in order.

        The future raises what the task raised; BadFilm when it crashed its worker TRIES times, Unusable when it crashed
        the inference process so often, ServerFailed when its worker was killed KILLINGS times.
        """
        errand = _Errand(task, on_frames, cancelled or threading.Event(), turn)
        with self._lock:
            if not self._turns.put(errand, turn):
                _give_up(errand)
            elif len(self._threads) < min(self.count, self._turns.unfinished):
                thread = threading.Thread(target=self._serve, name=f"worker-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return errand.done

    def _serve(self) -> None:
        seat = _Seat(self._new_worker, self._inference, self._gathers)
        try:
            while taken := self._turns.take():
                errand, given = taken
                if not errand.done.set_running_or_notify_cancel():
                    self._turns.done(given)
                    continue
                try:
                    with about(errand.turn.of, ""):
                        result = seat.do(errand, self._is_unwanted)
                except BaseException as error:
                    self._turns.done(given)  # before anybody hears of it, and sends more
                    errand.done.set_exception(error)
                else:
                    self._turns.done(given)
                    errand.done.set_result(result)
        finally:
            seat.leave()

    def _is_unwanted(self, errand: _Errand) -> bool:
        """Asked all the time by every thread that has an errand: so what waits in vain, when all have, is found too."""
        for other in self._turns.sweep(lambda waiting: waiting.cancelled.is_set()):
            _give_up(other)
        return errand.cancelled.is_set() or self._closing.is_set()

    def _new_worker(self) -> WorkerProcess:
        return WorkerProcess(self._terms, self._watching, self._note_held)

    def _note_held(self, held: Held) -> None:
        with self._lock:
            known, self.held = self.held, held
        if known != held:
            log.log(logging.WARNING if held.missing else logging.INFO, "workers: %s", held.words())


def _give_up(errand: _Errand) -> None:
    if errand.done.set_running_or_notify_cancel():
        errand.done.set_exception(Cancelled("cancelled"))


class _Seat:
    """Where one worker sits, and the next when it dies."""

    def __init__(self, new_worker: Callable[[], WorkerProcess], inference: Inference, gathers: Collection[str]) -> None:
        self._new_worker, self._inference, self._gathers = new_worker, inference, gathers
        self._worker: WorkerProcess | None = None

    def do(self, errand: _Errand, is_unwanted: Callable[[_Errand], bool]) -> dict[str, Any]:
        """Have the task done, in TRIES tries. Raises what it raised, BadFilm, Unusable, ServerFailed, Cancelled."""
        session: Session | None = getattr(errand.task, "session", None)
        if session is not None and session.engine not in self._gathers:
            session = None
        sparing, tries, innocent_tries, killings = False, 0, 0, 0
        while True:
            if is_unwanted(errand):
                raise Cancelled("cancelled")
            told = 0

            def tell(count: int) -> None:
                nonlocal told
                told += count
                errand.on_frames(count)

            fault: KinochromeError
            inference: Process | None = None
            try:
                if session is not None:
                    inference = self._inference.process()
                worker = self._seated(inference, errand.turn, session)
                return worker.do(
                    errand.task,
                    sparing=sparing,
                    remote=inference is not None,
                    tell=tell,
                    unwanted=lambda: is_unwanted(errand),
                )
            except WorkerDied as death:
                sparing = True  # it may have been killed for its memory
                if death.killed:
                    killings += 1
                    fault = ServerFailed(
                        f"{errand.task.subject}: its worker was killed {KILLINGS} times: is there too little memory?"
                    )
                else:
                    tries += 1
                    how = f" ({death.how})" if death.how else ""
                    fault = BadFilm(f"{errand.task.subject}: {death.what} {TRIES} times{how}")
            except MemoryError:
                self.leave()  # what it holds in caches and arenas may be what the next try needs
                tries += 1
                sparing = True
                fault = BadFilm(f"{errand.task.subject}: there is not enough memory to colour it here")
            except (InferenceDied, Gone) as death:
                self.leave()  # its line leads nowhere
                if isinstance(death, InferenceDied) and not death.was_running and innocent_tries < INNOCENT_TRIES:
                    innocent_tries += 1
                else:
                    tries += 1
                if inference is None or session is None:  # the pool is being closed
                    raise Cancelled("cancelled") from None
                inference.check()
                fault = Unusable(
                    f"--engine {session.engine}: the process that runs it died {TRIES} times over "
                    f"{errand.task.subject} ({inference.how_it_ended()})"
                )
            errand.on_frames(-told)
            if tries == TRIES or killings == KILLINGS:
                raise fault

    def _seated(self, inference: Process | None, turn: Turn, session: Session | None) -> WorkerProcess:
        """A worker that is alive, and whose line leads to the inference process if that paints. Raises Gone."""
        if self._worker is None or not self._worker.is_alive:
            self.leave()
            self._worker = self._new_worker()
        if inference is not None and session is not None and not self._worker.painted_by(inference, turn, session):
            self.leave()
            self._worker = self._new_worker()
            self._worker.painted_by(inference, turn, session)
        return self._worker

    def leave(self) -> None:
        """End the worker, if there is one."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))
