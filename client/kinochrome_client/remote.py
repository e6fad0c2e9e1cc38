"""Colouring a film on a server: the film goes up while the coloured one comes down."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc

MESSAGE_SIZE = 256 * 1024  # bytes of film in one message
MAX_SETTINGS = 3_000_000  # bytes: servers take messages of 4 MiB

_OPTIONS = [
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.keepalive_time_ms", 30_000),  # a film waits long in a server's queue: tell a dead line from a slow one
]


def colorize(
    server: str,
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
    with film.open("rb") as source, grpc.insecure_channel(server, options=_OPTIONS) as channel:
        stub = wire_grpc.ColorizerServiceStub(channel)
        call = stub.Colorize(_requests(source, settings))
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
            raise _error(server, error) from None
        finally:
            call.cancel()  # type: ignore[no-untyped-call]
    if finished is None:
        raise errors.ServerFailed(f"server {server} ended the call without a finished film")
    _prove(sink, finished)
    return finished.frames


def server_info(server: str, timeout_s: float = 5.0) -> wire.GetServerInfoResponse:
    """Ask what a server can do. Raises ServerUnreachable, ServerFailed."""
    with grpc.insecure_channel(server, options=_OPTIONS) as channel:
        try:
            return wire_grpc.ColorizerServiceStub(channel).GetServerInfo(wire.GetServerInfoRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            raise _error(server, error) from None


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


def _error(server: str, error: grpc.RpcError) -> errors.KinochromeError:
    """The error that a failed call stands for."""
    status = rpc_status.from_call(cast(grpc.Call, error))
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == "kinochrome":
            return errors.BY_REASON.get(info.reason, errors.ServerFailed)(status.message)
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return errors.ServerUnreachable(f"no server answers at {server}: start one with `kinochrome serve`")
    return errors.ServerFailed(f"server {server} broke off: {error.code().name.lower()}, {error.details()}")
