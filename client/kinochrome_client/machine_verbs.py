"""The verbs about this machine: serve, doctor."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from .siblings import sibling


def serve(
    listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Where to serve; port 0 takes a free one. Without TLS: loopback only."),
    ] = "127.0.0.1:50551",
    spool: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the jobs: they outlive the server here. Default: $XDG_STATE_HOME/kinochrome/spool.",
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What runs the colorizers, as in `kinochrome colorize`; callers cannot choose.")
    ] = "auto",
    active: Annotated[int, typer.Option(metavar="N", help="Films that are coloured at once. Others wait.")] = 8,
    spool_size: Annotated[
        str, typer.Option(metavar="SIZE", help="What the spool may hold, such as 500G; three quarters of it for films.")
    ] = "100G",
    owner_jobs: Annotated[int, typer.Option(metavar="N", help="Jobs that an owner may have here.")] = 100,
    owner_size: Annotated[
        str, typer.Option(metavar="SIZE", help="What an owner's jobs may hold; 0: as much as there is.")
    ] = "0",
    owner_pixels: Annotated[
        str,
        typer.Option(metavar="N", help="Pixels (width x height x frames) a day for an owner, such as 2000G; 0: any."),
    ] = "0",
    keep: Annotated[
        str, typer.Option(metavar="TIME", help="How long a coloured film waits to be fetched: 90s, 30m, 12h, 7d.")
    ] = "7d",
    keep_abandoned: Annotated[
        str, typer.Option(metavar="TIME", help="How long an unfinished upload waits for its next byte.")
    ] = "1d",
    upload_idle: Annotated[
        str, typer.Option(metavar="TIME", help="Longest silence of an upload: then the call ends, the job stays.")
    ] = "120s",
    drain: Annotated[
        str, typer.Option(metavar="TIME", help="Asked to stop, the server is gone within this time.")
    ] = "8s",
    tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Who may call: a line NAME:HASH for each; `kinochrome token` makes one."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The server's certificate and its chain, PEM.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key, PEM.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who signs callers' certificates, PEM: each needs one then.")
    ] = None,
    metrics: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Serve figures for Prometheus there. Default: nowhere.")
    ] = "",
    reflection: Annotated[
        bool, typer.Option("--reflection", help="Let callers ask for the .proto, as grpcurl does.")
    ] = False,
    log_format: Annotated[str, typer.Option(metavar="text|json", help="How the log on stderr is written.")] = "text",
    traces: Annotated[
        str, typer.Option(metavar="URL", help="Send OpenTelemetry traces there, by OTLP. Default: none.")
    ] = "",
) -> None:
    """Serve films over gRPC. Ctrl-C or SIGTERM stops it, and nothing is lost by that, nor by a crash.

    Films that are uploaded here are jobs: they lie in the spool until their owner has fetched and deleted them, or
    their time is over. A server that starts on a spool takes up its jobs where they are. One spool is for one server.

    Only this machine is served until there is TLS, and somebody to serve: --tls-cert, --tls-key, and --tokens or
    --tls-client-ca. SIZE takes K, M, G, T (powers of 1024), N of pixels too (powers of 1000); TIME takes s, m, h, d.

    Examples:

      kinochrome serve

      kinochrome serve --spool /srv/films --spool-size 2T --keep 2d --metrics 127.0.0.1:9464

      kinochrome serve --listen 0.0.0.0:50551 --tls-cert cert.pem --tls-key key.pem --tokens tokens
    """
    import asyncio

    from kinochrome_proto.errors import BadSettings

    serving, limits, tls = (
        sibling(f"kinochrome_server.{name}", "server") for name in ("serving", "jobs.limits", "tls")
    )
    if log_format not in ("text", "json"):
        raise BadSettings(f"--log-format takes text or json, not {log_format!r}")
    settings = serving.ServeSettings(
        listen=listen,
        spool=spool,
        engine=engine,
        limits=limits.Limits(
            active=active,
            spool_bytes=_number("--spool-size", spool_size, 1024),
            owner_jobs=owner_jobs,
            owner_bytes=_number("--owner-size", owner_size, 1024),
            owner_pixels=_number("--owner-pixels", owner_pixels, 1000),
            keep_done_s=_seconds("--keep", keep),
            keep_abandoned_s=_seconds("--keep-abandoned", keep_abandoned),
            upload_idle_s=_seconds("--upload-idle", upload_idle),
        ),
        tls=tls.Files.given(tls_cert, tls_key, tls_client_ca),
        tokens=tokens,
        metrics_listen=metrics,
        reflection=reflection,
        log_format=log_format,
        drain_s=_seconds("--drain", drain),
        traces=traces,
    )
    host = listen.rpartition(":")[0]

    def say(port: int) -> None:
        words = f"ready on {host}:{port}"
        print(json.dumps({"message": words}) if log_format == "json" else words, file=sys.stderr, flush=True)

    asyncio.run(serving.serve(settings, on_ready=say))


def _number(option: str, text: str, step: int) -> int:
    """A number as people write it: 500, 20K, 1.5G. Raises BadSettings."""
    from kinochrome_proto.errors import BadSettings

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)", text.upper())
    if not match:
        raise BadSettings(f"{option} {text} is no number: write 500, or 20K, 1.5G, 2T")
    return int(float(match[1]) * step ** " KMGTP".index(match[2] or " "))


def _seconds(option: str, text: str) -> float:
    """A length of time as people write it: 90s, 30m, 12h, 7d; seconds without a unit. Raises BadSettings."""
    from kinochrome_proto.errors import BadSettings

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not match:
        raise BadSettings(f"{option} {text} is no length of time: write 90s, 30m, 12h or 7d")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]]


def doctor() -> None:
    """Say what this machine can do, and what stands in the way. Exit code 1 when films cannot be coloured here."""
    from . import doctor as examination

    findings = examination.examine()
    for finding in findings:
        print(finding.line())
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)
