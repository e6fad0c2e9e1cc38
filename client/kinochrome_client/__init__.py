"""The `kinochrome` command, and the client of a server as a library.

    from kinochrome_client import Client, Settings

    with Client("127.0.0.1:50551") as client:
        client.colorize("old.mp4", "new.mp4", settings=Settings(codec="h265"), on_progress=print)

Where to start: `client.AsyncClient` (a server's client; `Client` is the same without asyncio), `transfer` (how a film
goes there and back over a line that breaks), `cli` (the verbs), `output` (how a film gets its name only once it is
whole). Errors are those of `kinochrome_proto.errors`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kinochrome_proto.kinochrome.v1.colorizer_pb2 import Look, Settings

    from .blocking import Client
    from .client import AsyncClient
    from .jobs import Coloured, Job, Progress, State

__all__ = ["AsyncClient", "Client", "Coloured", "Job", "Look", "Progress", "Settings", "State"]

_HOMES = {
    "AsyncClient": "kinochrome_client.client",
    "Client": "kinochrome_client.blocking",
    "Coloured": "kinochrome_client.jobs",
    "Job": "kinochrome_client.jobs",
    "Look": "kinochrome_proto.kinochrome.v1.colorizer_pb2",
    "Progress": "kinochrome_client.jobs",
    "Settings": "kinochrome_proto.kinochrome.v1.colorizer_pb2",
    "State": "kinochrome_client.jobs",
}


def __getattr__(name: str) -> Any:
    """Public names, imported when they are asked for: `kinochrome --help` needs no gRPC."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
