"""Worker processes: decoders, colorizers and encoders run apart, so that what kills one costs one try of one task.

Tasks go to a worker as pickles; what comes back is JSON, for a worker handles bytes from strangers and is not trusted.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Any, Protocol

from kinochrome_proto.errors import BY_REASON, BadFilm, Cancelled, KinochromeError

SILENCE_S = 300.0
"""A worker that says nothing for so long hangs: it is ended like one that died."""
TRIES = 2


class Task(Protocol):
    """What a worker can do; a frozen dataclass that can be pickled."""

    @property
    def subject(self) -> str:
        """What it is about, for messages: "film.mp4, at 12.0 s"."""

    def run(self, bench: Any, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        """Called in the worker.

        Args:
            bench: a `worker.Bench`, the same for all tasks of a worker.
            tell: to be called with the frames done since the last call, now and then.
            sparing: whether an earlier try found too little memory: use as little as can be.

        Returns plain JSON values. May raise KinochromeError, OSError, MemoryError.
        """


class WorkerDied(Exception):
    """A worker ended in mid-task, or had to be ended."""


@dataclass
class _Errand:
    """A task on its way."""

    task: Task
    on_frames: Callable[[int], None]
    cancelled: threading.Event
    done: "Future[dict[str, Any]]" = field(default_factory=Future)


class WorkerPool:
    """Some worker processes. Use as a context manager. They start when there is work, and serve any number of films."""

    def __init__(self, count: int | None = None) -> None:
        """`count`: workers; by default one per core."""
        self.count = count or usable_cores()
        self._errands: queue.SimpleQueue[_Errand | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers; tasks still running raise Cancelled."""
        with self._lock:
            self._closing.set()
        for _ in self._threads:
            self._errands.put(None)
        for thread in self._threads:
            thread.join()

    def submit(
        self,
        task: Task,
        cancelled: threading.Event | None = None,
        on_frames: Callable[[int], None] = lambda count: None,
    ) -> "Future[dict[str, Any]]":
        """Give a task to the next free worker.

        Args:
            task: what to do.
            cancelled: once set, the task is not begun, or its worker is ended; its future raises Cancelled.
            on_frames: told, from another thread, how many more frames are done; a negative number takes some back.

        The future raises what the task raised; BadFilm when it killed its worker TRIES times.
        """
        errand = _Errand(task, on_frames, cancelled or threading.Event())
        with self._lock:
            if self._closing.is_set():
                errand.done.set_exception(Cancelled("cancelled"))
                return errand.done
            self._errands.put(errand)
            if not self._idle.acquire(blocking=False) and len(self._threads) < self.count:
                thread = threading.Thread(target=self._serve, name=f"worker-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return errand.done

    def _serve(self) -> None:
        seat = _Seat(self._closing)
        try:
            while (errand := self._errands.get()) is not None:
                if not errand.done.set_running_or_notify_cancel():
                    continue
                try:
                    result = seat.do(errand)
                except BaseException as error:
                    self._idle.release()
                    errand.done.set_exception(error)
                else:
                    self._idle.release()
                    errand.done.set_result(result)
        finally:
            seat.leave()


class _Seat:
    """Where one worker sits, and the next when it dies."""

    def __init__(self, closing: threading.Event) -> None:
        self._closing = closing
        self._worker: _Worker | None = None

    def do(self, errand: _Errand) -> dict[str, Any]:
        """Have the task done, in TRIES tries. Raises what it raised, BadFilm, Cancelled."""
        sparing = False

        def unwanted() -> bool:
            return errand.cancelled.is_set() or self._closing.is_set()

        for attempt in range(1, TRIES + 1):
            if unwanted():
                raise Cancelled("cancelled")
            if self._worker is None or not self._worker.is_alive:
                self.leave()
                self._worker = _Worker()
            told = 0

            def tell(count: int) -> None:
                nonlocal told
                told += count
                errand.on_frames(count)

            try:
                return self._worker.do(errand.task, sparing, tell, unwanted)
            except WorkerDied as death:
                fault = f"{errand.task.subject}: {death}"
            except MemoryError:
                self.leave()  # what it holds in caches and arenas may be what the next try needs
                fault = f"{errand.task.subject}: there is not enough memory to colour it here"
            errand.on_frames(-told)
            sparing = True  # a worker that died may have been killed for its memory
            if attempt == TRIES:
                raise BadFilm(fault)
        raise AssertionError("unreachable")

    def leave(self) -> None:
        """End the worker, if there is one."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None


class _Worker:
    """A worker process and the line to it."""

    def __init__(self) -> None:
        self._line, theirs = Pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        # Not multiprocessing: it would import the caller's main module again, which embedding services may not bear.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kinochrome_server.worker_main", str(theirs.fileno())],
            stdin=subprocess.PIPE,  # never written to: its end tells the worker that we are gone, however we went
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=environment,
            start_new_session=True,  # Ctrl-C is for us to handle
        )
        theirs.close()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None and not self._line.closed

    def do(
        self, task: Task, sparing: bool, tell: Callable[[int], None], unwanted: Callable[[], bool]
    ) -> dict[str, Any]:
        """Raises what the task raised, WorkerDied, and Cancelled once `unwanted` says so."""
        try:
            said = self._answer(task, sparing, tell, unwanted)
        except (EOFError, ConnectionError):
            self.end()
            raise WorkerDied(f"it crashed its worker {TRIES} times ({self._how_it_ended()})") from None
        except BaseException:
            self.end()  # it may still be talking of this task: the next one must not hear it
            raise
        if "result" in said:
            result: dict[str, Any] = said["result"]
            return result
        raise _error(said)

    def _answer(
        self, task: Task, sparing: bool, tell: Callable[[int], None], unwanted: Callable[[], bool]
    ) -> dict[str, Any]:
        """What the worker says of the task in the end."""
        heard = time.monotonic()
        self._line.send((task, sparing))
        while True:
            while not self._line.poll(0.05):
                if unwanted():
                    raise Cancelled("cancelled")
                if time.monotonic() - heard > SILENCE_S:
                    raise WorkerDied(f"a worker said nothing for {SILENCE_S:.0f} s over it, {TRIES} times")
            heard = time.monotonic()
            said: dict[str, Any] = json.loads(self._line.recv_bytes())
            if "frames" not in said:
                return said
            if said["frames"]:
                tell(said["frames"])

    def end(self) -> None:
        """Kill it: nothing it holds is wanted."""
        self._line.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _error(said: dict[str, Any]) -> Exception:
    """The error that a worker tells of."""
    if "reason" in said:
        return BY_REASON.get(said["reason"], KinochromeError)(said["text"])
    if "errno" in said:
        return OSError(said["errno"], said["text"], *([said["file"]] if said["file"] else []))
    if "memory" in said:
        return MemoryError()
    return RuntimeError(f"a worker failed:\n{said.get('traceback')}")


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def answer(line: "Connection[Any, Any]", said: dict[str, Any]) -> None:
    """Of the worker: say something to whoever gave the task."""
    line.send_bytes(json.dumps(said).encode())
