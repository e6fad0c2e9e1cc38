"""A real server process on a free loopback port."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KINOCHROME = Path(sys.executable).with_name("kinochrome")


@dataclass(frozen=True)
class Server:
    """A running server."""

    address: str
    spool: Path
    process: "subprocess.Popen[str]"


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Server]:
    """Start `kinochrome serve`, wait until it is ready, stop it in the end."""
    spool = folder / "spool"
    command = [str(KINOCHROME), "serve", "--listen", "127.0.0.1:0", "--spool", str(spool), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith("ready on "):
                    yield Server(line.removeprefix("ready on ").strip(), spool, process)
                    break
            else:
                raise AssertionError("the server did not start: " + "".join(said))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.stderr.read()
            process.wait(20)
