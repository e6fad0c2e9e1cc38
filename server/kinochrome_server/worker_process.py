"""A worker process, as whoever gives it tasks sees it: what it is told, what it says, and how it ends."""

import contextlib
import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from kinochrome_proto.errors import BY_REASON, Cancelled, KinochromeError

from . import sandbox
from .inference import memory
from .inference.host import Process
from .inference.sessions import Session
from .lines import LOOKS_S, Line
from .sandbox import Held, Terms
from .turns import Turn

SILENCE_S = 300.0
"""A worker that says nothing for so long hangs: it is ended like one that died."""
ENDS_S = 1.0
"""How long a worker that closed its line may take to end by itself."""
STAGES = ("decode", "colour", "encode")
"""What a segment's time goes to; see `worker.Clock`."""


class Task(Protocol):
    """What a worker can do; a frozen dataclass that can be pickled.

    One with an attribute `session`, an `inference.sessions.Session`, may have the inference process paint.
    """

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

    def __init__(self, what: str, how: str = "", *, killed: bool = False) -> None:
        super().__init__(what)
        self.what, self.how = what, how
        """In words: "it crashed its worker", "signal 11"."""
        self.killed = killed
        """Whether somebody else ended it, a person or the system: no crash of its own ends like that."""


class InferenceDied(Exception):
    """A worker lost the inference process in mid-task."""

    def __init__(self, was_running: bool) -> None:
        super().__init__("the inference process died")
        self.was_running = was_running
        """Whether it was painting pictures of this task just then."""


@dataclass(frozen=True)
class Watching:
    """What is told of what workers do, from their threads; the defaults tell nobody."""

    batch: Callable[[int, int], None] = lambda frames, room: None
    """Of each batch that went through a colorizer: its frames, and those that it had room for."""
    stage: Callable[[str, float], None] = lambda name, seconds: None
    """Of each segment: one of STAGES, and how long it took."""
    death: Callable[[], None] = lambda: None
    """Of each worker that died in mid-task, or hung."""


UNWATCHED = Watching()


class WorkerProcess:
    """A worker and the line to it. One thread's."""

    def __init__(self, terms: Terms, watching: Watching, on_held: Callable[[Held], None]) -> None:
        """`on_held`: told once how far this system confines it."""
        self._watching, self._on_held = watching, on_held
        self._served_by: tuple[Process, int] | None = None
        """The inference process that knows this worker, and by which number."""
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair()
            self._to_desk, counter = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(theirs)
            stack.enter_context(counter)
            self._memory = memory.create()
            self._line = Line(ours)
            descriptors = [theirs.fileno(), counter.fileno(), self._memory]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            # Not multiprocessing: it would import the caller's main module again, which embedding services may not
            # bear. Its libraries' threads would only wait for each other: the cores are shared out by segments.
            self._process = subprocess.Popen(
                sandbox.command(terms, "kinochrome_server.worker_main", *map(str, descriptors)),
                stdin=subprocess.PIPE,  # never written to: its end tells the worker that we are gone, however we went
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=descriptors,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us to handle
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def painted_by(self, inference: Process, turn: Turn, session: Session) -> bool:
        """Have its pictures painted by an inference process, on this account; False when another one has its line.

        Raises `host.Gone`.
        """
        if self._served_by is None:
            number = inference.attach(self._to_desk, self._memory)
            self._served_by = inference, number
            self._to_desk.close()  # so the worker hears when the inference process dies
        known, number = self._served_by
        if known is not inference:
            return False
        inference.work(number, turn, session)
        return True

    def do(
        self,
        task: Task,
        *,
        sparing: bool,
        remote: bool,
        tell: Callable[[int], None],
        unwanted: Callable[[], bool],
    ) -> dict[str, Any]:
        """Have a task done; after anything raised but what the task raised, the worker is ended.

        Args:
            task: what.
            sparing: as `Task.run` takes it.
            remote: whether the inference process paints for it.
            tell: told of frames done.
            unwanted: asked all LOOKS_S; once it says yes, Cancelled is raised.

        Raises what the task raised, WorkerDied, InferenceDied, Cancelled.
        """
        try:
            said = self._answer(task, sparing, remote, tell, unwanted)
        except (EOFError, ConnectionError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDS_S)  # that it ends is heard before how
            killed = self._process.returncode in (-signal.SIGKILL, -signal.SIGTERM)  # not by us, which comes now
            self.end()
            self._watching.death()
            raise WorkerDied("it crashed its worker", self._how_it_ended(), killed=killed) from None
        except WorkerDied:
            self.end()
            self._watching.death()
            raise
        except BaseException:
            self.end()  # it may still be talking of this task: the next one must not hear it
            raise
        if "result" in said:
            result: dict[str, Any] = said["result"]
            return result
        raise _error(said)

    def _answer(
        self,
        task: Task,
        sparing: bool,
        remote: bool,
        tell: Callable[[int], None],
        unwanted: Callable[[], bool],
    ) -> dict[str, Any]:
        """What the worker says of the task in the end."""

        def check() -> None:
            if unwanted():
                raise Cancelled("cancelled")
            if time.monotonic() - heard > SILENCE_S:
                raise WorkerDied(f"a worker said nothing for {SILENCE_S:.0f} s over it")

        heard = time.monotonic()
        self._line.send(pickle.dumps((task, sparing, remote)), check)
        while True:
            message = self._line.receive(LOOKS_S)
            check()
            if message is None:
                continue
            heard = time.monotonic()
            try:
                said = _read(message)
            except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
                raise WorkerDied("a worker said what makes no sense over it", str(error)) from None
            match said:
                case {"held": held}:
                    self._on_held(held)
                case {"frames": 0}:
                    pass  # it is alive
                case {"frames": frames}:
                    tell(frames)
                case {"lost": was_running}:
                    raise InferenceDied(was_running)
                case _:
                    for name, seconds in said.get("stages", {}).items():
                        self._watching.stage(name, seconds)
                    for frames, room in said.get("batches", ()):
                        self._watching.batch(frames, room)
                    return said

    def end(self) -> None:
        """Kill it: nothing it holds is wanted."""
        self._line.close()
        self._to_desk.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _read(message: bytes) -> dict[str, Any]:
    """What a worker says, as far as anything is made of it here. Raises all sorts of errors when it makes no sense."""
    said = json.loads(message)
    if "held" in said:
        said["held"] = sandbox.held_from(said["held"])
    if "frames" in said:
        said["frames"] = int(said["frames"])
    if "lost" in said:
        said["lost"] = said["lost"] is True
    if "errno" in said:
        said["errno"] = int(said["errno"])
    if "stages" in said:
        spent = {name: float(said["stages"][name]) for name in STAGES if name in said["stages"]}
        said["stages"] = {name: max(0.0, seconds) for name, seconds in spent.items() if math.isfinite(seconds)}
        batches = [(int(frames), int(room)) for frames, room in said["batches"]]
        said["batches"] = [(frames, room) for frames, room in batches if 0 < frames <= room]
    if not isinstance(said.get("result", {}), dict):
        raise ValueError("a result that is none")
    return dict(said)


def _error(said: dict[str, Any]) -> Exception:
    """The error that a worker tells of."""
    if "reason" in said:
        return BY_REASON.get(str(said["reason"]), KinochromeError)(str(said.get("text")))
    if "errno" in said:
        file = [str(said["file"])] if said.get("file") else []
        return OSError(said["errno"], str(said.get("text")), *file)
    if "memory" in said:
        return MemoryError()
    return RuntimeError(f"a worker failed:\n{said.get('traceback')}")
