"""The verb about colorizers: models, models show, models verify."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kinochrome_proto.errors import BadSettings, KinochromeError

from . import server_options
from .siblings import sibling

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)

Named = Annotated[str, typer.Argument(metavar="NAME|FILE.onnx", help="A colorizer by name, or a file.")]


@app.callback()
def models(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="List a server's colorizers instead. Default: $KINOCHROME_SERVER.",
            show_default=False,
        ),
    ] = None,
    token_file: server_options.TokenFile = None,
    tls_ca: server_options.TlsCa = None,
    tls_cert: server_options.TlsCert = None,
    tls_key: server_options.TlsKey = None,
    tls_name: server_options.TlsName = "",
) -> None:
    """List the colorizers that --model may name; show one, or verify files."""
    if context.invoked_subcommand is None:
        _list(server_options.reach(server, token_file, tls_ca, tls_cert, tls_key, tls_name))
    elif server:
        raise BadSettings(f"--server lists a server's colorizers: it has no `models {context.invoked_subcommand}`")


def _list(reach: server_options.Reach) -> None:
    from . import models_report as report

    if reach.server:
        with reach.client() as client:
            rows = [[info.name, info.sha256[:12]] for info in client.server_info().colorizers]
        report.listing(("name", "sha256"), rows)
    else:
        colorizers = sibling("kinochrome_server.colorizers", "server")
        report.listing(report.MODELS, [report.model_row(colorizers.load(name)) for name in colorizers.shipped()])


@app.command()
def show(
    model: Named,
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Tell what a colorizer file says of itself: how it was trained, its figures, its licence, its checksum."""
    import json

    from . import models_report as report

    colorizer = sibling("kinochrome_server.colorizers", "server").load(model)
    if json_:
        print(json.dumps(_plain(colorizer), indent=2))
    else:
        report.model(colorizer)


@app.command()
def verify(
    models: Annotated[
        list[str], typer.Argument(metavar="NAME|FILE.onnx...", help="Colorizers by name, or files; several at once.")
    ],
) -> None:
    """Prove that colorizer files are whole and paint here what they painted where they were made.

    Each is checked byte by byte, then run, in a process of its own, on the pictures that its maker ran it on. A file
    that fails is told of and the others are done; the exit code is 1 then.
    """
    colorizers, pools, verification = (
        sibling(f"kinochrome_server.{name}", "server") for name in ("colorizers", "pool", "verification")
    )
    failed = False
    with pools.WorkerPool(1, terms=pools.Terms.of_worker(writes=[])) as pool:
        for name in models:
            try:
                colorizer = colorizers.load(name)
                found = pool.submit(verification.Verify(colorizer.path)).result()
            except KinochromeError as error:
                print(f"kinochrome: {error}", file=sys.stderr)
                failed = True
                continue
            print(f"{name}: whole, {_said(found)}, sha256 {colorizer.sha256[:12]}")
    if failed:
        raise typer.Exit(1)


def _said(found: dict[str, Any]) -> str:
    batch = f"in a batch {found['from_batch']:.2g} code values from alone"
    if found["from_probe"] is None:
        return f"{batch}, with no record of what it should paint"
    return f"{found['from_probe']:.2g} code values from what {found['painted_by']} painted with it, {batch}"


def _plain(colorizer: Any) -> dict[str, Any]:
    return {
        "name": colorizer.name,
        "file": str(Path(colorizer.path).resolve()),
        "bytes": len(colorizer.content),
        "sha256": colorizer.sha256,
        **dataclasses.asdict(colorizer.manifest),
    }
