"""A real server process on a free loopback port."""

import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

KINOCHROME = Path(sys.executable).with_name("kinochrome")
READY_S = 60
"""Longest wait for a server to come up."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    address: str
    spool: Path
    process: "subprocess.Popen[str]"
    said: list[str] = field(default_factory=list)
    """Lines of its log so far."""

    def kill(self) -> None:
        """As a crash would: nothing is said, nothing put away."""
        self.process.kill()
        self.process.wait(20)

    def stop(self) -> int:
        """As an operator would; gives its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def left(self) -> list[str]:
        """Of jobs, what lies in the spool."""
        return sorted(str(path.relative_to(self.spool)) for path in (self.spool / "jobs").rglob("*"))


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Server]:
    """Start `kinochrome serve` on the spool in `folder`, wait until it is ready, stop it in the end."""
    spool = folder / "spool"
    command = [str(KINOCHROME), "serve", "--listen", "127.0.0.1:0", "--spool", str(spool), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        said: list[str] = []
        ready: queue.SimpleQueue[str] = queue.SimpleQueue()

        def listen() -> None:
            # All the time: a server whose log nobody reads stands still once the pipe is full.
            assert process.stderr is not None
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"\bready on (\S+:\d+)", line):
                    ready.put(found[1])
            ready.put("")

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            address = ready.get(timeout=READY_S)
            if not address:
                raise AssertionError("the server did not start: " + "".join(said))
            yield Server(address, spool, process, said)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            finally:
                listener.join(10)
