"""The main module of a worker process: `... worker_main LINE COUNTER MEMORY`, three descriptors. See `worker_process`.

`sandbox` runs it, so whatever it imports and handles is confined already.
"""

import json
import os
import pickle
import socket
import sys
import threading
import traceback
from dataclasses import asdict
from typing import Any

import cv2

from kinochrome_proto.errors import KinochromeError

from . import sandbox
from .inference.remote import Counter, InferenceLost
from .lines import Line
from .worker import Bench


def main(line_descriptor: int, counter_descriptor: int, memory: int) -> None:
    """Do the tasks that come over the line, one at a time, until whoever gives them is gone."""
    threading.Thread(target=_live_no_longer_than_parent, daemon=True).start()
    cv2.setNumThreads(0)  # the cores are shared out by segments
    line = Line(socket.socket(fileno=line_descriptor))

    def answer(said: dict[str, Any]) -> None:
        line.send(json.dumps(said).encode())

    def tell(frames: int) -> None:
        answer({"frames": frames})

    if sandbox.HELD:
        answer({"held": asdict(sandbox.HELD)})
    bench = Bench(Counter(socket.socket(fileno=counter_descriptor), memory, on_alive=lambda: tell(0)))
    while True:
        try:
            # From whoever started us, and from nobody else: so it may be a pickle.
            task, sparing, bench.remote = pickle.loads(line.receive() or b"")
        except (EOFError, ConnectionError):
            return
        try:
            said: dict[str, Any] = {"result": task.run(bench, tell, sparing=sparing), **bench.clock.figures()}
        except InferenceLost as lost:
            said = {"lost": lost.was_running}
        except KinochromeError as error:
            said = {"reason": error.reason, "text": str(error)}
        except MemoryError:
            said = {"memory": True}
        except OSError as error:
            said = {"errno": error.errno or 0, "text": error.strerror or str(error), "file": error.filename}
        except Exception:
            said = {"traceback": traceback.format_exc()}
        bench.clock.reset()
        answer(said)


def _live_no_longer_than_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
