"""The verbs of who runs a server: token, health."""

from pathlib import Path
from typing import Annotated

import typer

from .server_options import Server, TlsCa, TlsCert, TlsKey, TlsName, reach
from .siblings import sibling


def token(
    name: Annotated[str, typer.Argument(help="Owner that the token stands for: lower-case letters, digits, . _ -")],
    file: Annotated[
        Path | None,
        typer.Option("--tokens", help="File of `kinochrome serve --tokens` to add it to; made if it is not there."),
    ] = None,
) -> None:
    """Make a token for a caller of a server. It is printed once: only its hash is kept."""
    tokens = sibling("kinochrome_server.tokens", "server")
    if file is not None:
        print(tokens.add(file, name))
        return
    fresh = tokens.new()
    print(f"token, for {name} alone:           {fresh}\nline, for the server's --tokens:   {tokens.line(name, fresh)}")


def health(
    server: Server = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_name: TlsName = "",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 5.0,
) -> None:
    """Ask whether a server is ready to colour: exit code 0 when it is, 1 when not. Needs no token.

    Without --server and $KINOCHROME_SERVER it asks the one at 127.0.0.1:50551, where `kinochrome serve` is by default.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from kinochrome_proto.errors import ServerUnreachable

    from .access import Access

    asked = reach(server, None, tls_ca, tls_cert, tls_key, tls_name)
    address = asked.server or "127.0.0.1:50551"
    access = Access(address, tls_ca=asked.tls_ca, cert=asked.cert, key=asked.key, tls_name=asked.tls_name)
    with access.channel() as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError as error:
            why = " ".join(str(error.details()).split())
            raise ServerUnreachable(f"{address} does not answer: {error.code().name.lower()}, {why}") from None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    print(f"{address}: {status.lower().replace('_', ' ')}")
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(1)
