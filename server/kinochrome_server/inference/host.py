"""Inference processes, as whoever gives the workers their tasks sees them."""

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

from .. import sandbox
from ..turns import Turn
from . import descriptors
from .batches import Batching
from .sessions import KEPT, Session
from .tickets import LARGEST

PATIENCE_S = 10.0
"""How long a process may take to answer a ping: it hears while the device works."""
MODULE = "kinochrome_server.inference.process_main"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How a device is used."""

    device: int = 0
    """Which GPU, as CUDA counts them."""
    batching: Batching = field(default_factory=Batching)
    threads: int = 1
    """Of an engine on the CPU."""
    kept: int = KEPT
    """Colorizers held ready on the device: one for each file, engine and seed."""
    module: str = MODULE
    """What the process runs."""


class Gone(Exception):
    """The process has ended, or does not listen."""


class Inference:
    """The process of one device, started when it is first wanted, and again when it died. From any thread."""

    def __init__(
        self, options: Options = Options(), on_batch: Callable[[int, int], None] = lambda frames, room: None
    ) -> None:
        """`on_batch`: told of each batch, from a thread of its own: its frames, and those that it has room for."""
        self._options, self._on_batch = options, on_batch
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._closed = False

    def process(self) -> "Process":
        """One that is alive. Raises Gone when this is closed, OSError when none can be started."""
        with self._lock:
            if self._closed:
                raise Gone("closed")
            if self._process is None or not self._process.is_alive:
                if self._process is not None:
                    self._process.end()
                self._process = Process(self._options, self._on_batch)
            return self._process

    @property
    def pid(self) -> int | None:
        """Of the process; None where there is none."""
        with self._lock:
            return self._process.pid if self._process and self._process.is_alive else None

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.end()


class Process:
    """A running inference process."""

    def __init__(self, options: Options, on_batch: Callable[[int, int], None]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._on_batch = on_batch
        self._numbers, self._sending = count(1), threading.Lock()
        self._pong = threading.Event()
        self.last_words = ""
        """Why it ended, where it knew."""
        settings = {
            "device": options.device,
            "most": options.batching.most,
            "delay_s": options.batching.delay_s,
            "threads": options.threads,
            "kept": options.kept,
        }
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        arguments = str(theirs.fileno()), json.dumps(settings)
        with theirs:
            self._process = subprocess.Popen(
                sandbox.command(sandbox.Terms.of_driver(), options.module, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,  # Ctrl-C is for us to handle
            )
        self._reader = threading.Thread(target=self._hear, name="inference", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def attach(self, line: socket.socket, memory: int) -> int:
        """Give it a worker's line and memory; returns the worker's number. Raises Gone."""
        number = next(self._numbers)
        self._send({"say": "attach", "worker": number}, [line.fileno(), memory])
        return number

    def work(self, worker: int, turn: Turn, session: Session) -> None:
        """From now on the worker paints with this session, on this account. Raises Gone."""
        self._send({"say": "work", "worker": worker, "turn": asdict(turn), "session": asdict(session)})

    def check(self) -> None:
        """End it if it is alive but does not answer."""
        self._pong.clear()
        with contextlib.suppress(Gone):
            self._send({"say": "ping"})
            if self._pong.wait(PATIENCE_S) or not self.is_alive:
                return
        if self.is_alive:
            log.warning("the inference process %d does not answer: it is ended", self.pid)
            self._process.kill()

    def how_it_ended(self) -> str:
        """In words; waits for the end, which must be near."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        code = self._process.returncode
        if code is None:
            return "it lost its line"
        return self.last_words or (f"signal {-code}" if code < 0 else f"exit code {code}")

    def end(self) -> None:
        """Kill it: nothing it holds is wanted."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        self._control.close()

    def _send(self, said: dict[str, Any], files: Sequence[int] = ()) -> None:
        try:
            with self._sending:
                descriptors.send(self._control, json.dumps(said).encode(), files)
        except OSError as error:
            raise Gone(str(error)) from None

    def _hear(self) -> None:
        while True:
            try:
                packet = self._control.recv(LARGEST)
            except OSError:
                return
            if not packet:
                return
            said = json.loads(packet)
            match said["say"]:
                case "pong":
                    self._pong.set()
                case "painted":
                    for frames, _ in said["batches"]:
                        self._on_batch(frames, said["room"])
                case "ended":
                    self.last_words = said["why"].strip().splitlines()[-1]
                    log.error("the inference process %d ends: %s", self.pid, said["why"])
