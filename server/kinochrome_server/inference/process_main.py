"""The main module of an inference process: `python -m kinochrome_server.inference.process_main DESCRIPTOR SETTINGS`."""

import json
import os
import socket
import sys

from .batches import Batching
from .desk import serve
from .sessions import Open, opener


def main(load: Open | None = None) -> None:
    """Serve over the descriptor. `load`: what loads sessions in place of the engines themselves, for tests."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    batching = Batching(settings["most"], settings["delay_s"])
    serve(control, load or opener(settings["device"], batching.most, settings["threads"]), batching, settings["kept"])
    os._exit(0)  # the device's thread may be in the middle of a batch that nobody wants


if __name__ == "__main__":
    main()
