"""The `kinochrome` command. A verb parses, calls, prints; what it needs is imported when it runs."""

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from kinochrome_proto.errors import KinochromeError

from . import film_verbs, jobs_verbs, machine_verbs, models_verbs, server_verbs, training_verbs

app = typer.Typer(
    name="kinochrome",
    help="Colorizes black-and-white film. Start with: kinochrome colorize FILM",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

VERBS = (
    film_verbs.colorize,
    film_verbs.inspect,
    film_verbs.frames,
    machine_verbs.serve,
    training_verbs.train,
    training_verbs.evaluate,
    training_verbs.export,
    machine_verbs.doctor,
    server_verbs.health,
    server_verbs.token,
)
for verb in VERBS:
    app.command()(verb)
app.add_typer(jobs_verbs.app, name="jobs")
app.add_typer(models_verbs.app, name="models")


def main() -> None:
    """Entry point: one line and exit code 1 for errors that a person can mend, 130 for Ctrl-C, 2 for bad usage."""
    # gRPC's core writes to stderr by itself, among others of every handshake that fails: what matters is said by us.
    os.environ.setdefault("GRPC_VERBOSITY", "none")
    try:
        app()
    except KinochromeError as error:
        print(f"kinochrome: {error}", file=sys.stderr)
        sys.exit(1)


def _version(asked: bool) -> None:
    if asked:
        print(version("kinochrome"))
        raise typer.Exit


@app.callback()
def _global(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
