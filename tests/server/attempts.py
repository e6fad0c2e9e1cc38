"""Tasks of a worker that a film has taken over. Apart from the tests: a worker imports this module."""

import contextlib
import os
import resource
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinochrome_server import sandbox


@dataclass(frozen=True)
class Attempt:
    """A task of a worker that a film has taken over."""

    what: str
    at: str = ""
    """A file, a port or a process, as it needs one."""

    @property
    def subject(self) -> str:
        return "film.mp4"

    def run(self, bench: Any, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        match self.what:
            case "internet":
                socket.create_connection(("127.0.0.1", int(self.at)), 5).close()
            case "unix":
                with socket.socket(socket.AF_UNIX) as line:
                    line.connect(self.at)
            case "fork":
                children = 0
                with contextlib.suppress(PermissionError):
                    while children < 50:
                        if os.fork() == 0:
                            os._exit(0)
                        children += 1
                return {"children": children}
            case "program":
                subprocess.run(["/bin/true"], check=True)
            case "threads":
                threads = [threading.Thread(target=lambda: None) for _ in range(8)]
                for thread in threads:
                    thread.start()
                    thread.join()
            case "signal":
                os.kill(int(self.at), 0)
            case "reach into":
                open(f"/proc/{self.at}/mem", "rb").close()
            case "huge":
                with open(self.at, "wb") as file:
                    file.truncate(sandbox.FILE_SIZE + 1)
            case "memory":
                bytearray(sandbox.ADDRESS_SPACE)
            case "write":
                Path(self.at).write_text("here")
            case "read":
                return {"text": Path(self.at).read_text()}
            case "core":
                return {"core": resource.getrlimit(resource.RLIMIT_CORE)[1]}
            case "privileges":
                lines = Path("/proc/self/status").read_text().splitlines()
                return dict(line.split(":\t") for line in lines if line.startswith(("NoNewPrivs", "Seccomp:")))
        return {}
