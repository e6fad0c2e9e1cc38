"""Colouring a film in one call: it goes up while the coloured one comes down, and nothing of it stays anywhere.

For those who pipe a film through. What breaks off is lost: `Client.colorize` carries on.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import grpc

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc

from .access import Access
from .blocking import Client
from .faults import fault

MESSAGE_SIZE = 256 * 1024  # bytes of film in one message


def colorize(
    server: str | Access,
    film: Path,
    sink: BinaryIO,
    settings: wire.Settings,
    *,
    on_progress: Callable[[int, int], None] = lambda frames, expected: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> int:
    """Send `film` to `server` (HOST:PORT), write the coloured film to `sink`, return its number of frames.

    What `sink` holds is proven: its size and SHA-256 are those the server states. On an exception it holds no film.

    Raises the error the server states (BadFilm, BadSettings, ...), ServerUnreachable, ServerFailed.
    """
    access = Access(server) if isinstance(server, str) else server
    with film.open("rb") as source, access.channel() as channel:
        stub = wire_grpc.ColorizerServiceStub(channel)
        call = stub.Colorize(_requests(source, settings), metadata=tuple(access.metadata))
        finished: wire.Finished | None = None
        try:
            for response in call:
                match response.WhichOneof("response"):
                    case "media":
                        sink.seek(response.media.offset)
                        sink.write(response.media.data)
                    case "progress":
                        on_progress(response.progress.frames, response.progress.frames_expected)
                    case "warning":
                        on_warning(response.warning.text)
                    case "finished":
                        finished = response.finished
        except grpc.RpcError as error:
            raise fault(access.server, error).error from None
        finally:
            call.cancel()  # type: ignore[no-untyped-call]
    if finished is None:
        raise errors.ServerFailed(f"server {access.server} ended the call without a finished film")
    _prove(sink, finished)
    return finished.frames


def server_info(server: str) -> wire.GetServerInfoResponse:
    """Ask what a server can do. Raises ServerUnreachable, ServerFailed."""
    with Client(server) as client:
        return client.server_info()


def _requests(source: BinaryIO, settings: wire.Settings) -> Iterator[wire.ColorizeRequest]:
    yield wire.ColorizeRequest(settings=settings)
    while data := source.read(MESSAGE_SIZE):
        yield wire.ColorizeRequest(film=data)


def _prove(sink: BinaryIO, finished: wire.Finished) -> None:
    sink.flush()
    sink.seek(0)
    digest = hashlib.sha256()
    while data := sink.read(1 << 20):
        digest.update(data)
    size = sink.seek(0, 2)
    if size != finished.size or digest.digest() != finished.sha256:
        raise errors.ServerFailed(f"the coloured film arrived damaged ({size} of {finished.size} bytes): try again")
