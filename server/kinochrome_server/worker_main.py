"""The main module of a worker process: `python -m kinochrome_server.worker_main DESCRIPTOR`. See `pool`."""

import os
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

import cv2

from kinochrome_proto.errors import KinochromeError

from .pool import answer
from .worker import Bench


def main(descriptor: int) -> None:
    """Do the tasks that come over the descriptor, one at a time, until whoever gives them is gone."""
    threading.Thread(target=_live_no_longer_than_parent, daemon=True).start()
    cv2.setNumThreads(0)  # the cores are shared out by segments
    line: Connection[Any, Any] = Connection(descriptor)
    bench = Bench()
    while True:
        try:
            task, sparing = line.recv()
        except EOFError:
            return
        try:
            said = {"result": task.run(bench, lambda frames: answer(line, {"frames": frames}), sparing=sparing)}
        except KinochromeError as error:
            said = {"reason": error.reason, "text": str(error)}
        except MemoryError:
            said = {"memory": True}
        except OSError as error:
            said = {"errno": error.errno or 0, "text": error.strerror or str(error), "file": error.filename}
        except Exception:
            said = {"traceback": traceback.format_exc()}
        answer(line, said)


def _live_no_longer_than_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
