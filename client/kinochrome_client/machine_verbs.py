"""The verbs about this machine: serve, doctor."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .siblings import sibling


def serve(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Loopback address to serve on; port 0 takes a free one.")
    ] = "127.0.0.1:50551",
    spool: Annotated[
        Path | None, typer.Option(help="Folder for films on their way. Default: a private one, removed at the end.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What runs the colorizers, as in `kinochrome colorize`; callers cannot choose.")
    ] = "auto",
) -> None:
    """Serve films over gRPC. Stop it with Ctrl-C: running films get a few seconds to end."""
    import asyncio
    import logging

    service = sibling("kinochrome_server.service", "server")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    host = listen.rpartition(":")[0]
    asyncio.run(
        service.serve(
            listen, spool, engine, on_ready=lambda port: print(f"ready on {host}:{port}", file=sys.stderr, flush=True)
        )
    )


def doctor() -> None:
    """Say what this machine can do, and what stands in the way. Exit code 1 when films cannot be coloured here."""
    from . import doctor as examination

    findings = examination.examine()
    for finding in findings:
        print(finding.line())
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)
