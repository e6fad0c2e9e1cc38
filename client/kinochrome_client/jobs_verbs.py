"""The verbs about jobs: jobs list, show, watch, fetch, cancel, delete, resume."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinochrome_proto.errors import KinochromeError, NoSuchJob

from . import server_options
from .server_options import reach
from .siblings import local_errors

if TYPE_CHECKING:
    from .blocking import Client

app = typer.Typer(
    help="Films on their way through a server: list, show, watch, fetch, cancel, delete, resume.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The job.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="The jobs.")]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]


@app.command("list")
def list_(
    server: server_options.Server = None,
    json_: Json = False,
    token_file: server_options.TokenFile = None,
    tls_ca: server_options.TlsCa = None,
    tls_cert: server_options.TlsCert = None,
    tls_key: server_options.TlsKey = None,
    tls_name: server_options.TlsName = "",
) -> None:
    """List your jobs on a server, newest first."""
    import json

    from . import jobs_report

    with reach(server, token_file, tls_ca, tls_cert, tls_key, tls_name).client() as client:
        jobs = client.jobs()
    if json_:
        print(json.dumps([jobs_report.plain(job) for job in jobs], indent=2))
    else:
        jobs_report.listing(jobs)


@app.command()
def show(
    job_id: Id,
    server: server_options.Server = None,
    json_: Json = False,
    token_file: server_options.TokenFile = None,
    tls_ca: server_options.TlsCa = None,
    tls_cert: server_options.TlsCert = None,
    tls_key: server_options.TlsKey = None,
    tls_name: server_options.TlsName = "",
) -> None:
    """Tell how a job stands."""
    import json

    from . import jobs_report

    with reach(server, token_file, tls_ca, tls_cert, tls_key, tls_name, job_id=job_id).client() as client:
        job = client.job(job_id)
    if json_:
        print(json.dumps(jobs_report.plain(job), indent=2))
    else:
        jobs_report.show(job)


@app.command()
def watch(
    job_id: Id,
    server: server_options.Server = None,
    json_: Annotated[bool, typer.Option("--json", help="Print each change as a line of JSON.")] = False,
    token_file: server_options.TokenFile = None,
    tls_ca: server_options.TlsCa = None,
    tls_cert: server_options.TlsCert = None,
    tls_key: server_options.TlsKey = None,
    tls_name: server_options.TlsName = "",
    patience: server_options.Patience = 300.0,
) -> None:
    """Show how a job goes on, until it has ended. Exit code 0 when it is done, 1 when it failed or was cancelled."""
    import json

    from . import jobs_report
    from .job_display import Shown, watched
    from .progress import Display

    there = reach(server, token_file, tls_ca, tls_cert, tls_key, tls_name, patience, job_id=job_id)
    with (
        local_errors(lambda: f"the job goes on at {there.server}"),
        there.client() as client,
        Display(f"job {job_id}", "frames", "fps") as display,
    ):
        if json_:
            job = watched(client.watch(job_id), lambda job: print(json.dumps(jobs_report.plain(job)), flush=True))
        else:
            job = watched(client.watch(job_id), Shown(display).job)
    if (failure := job.error()) is not None:
        raise failure
    if not json_:
        print(f"{job_id}: done, {job.frames} frames; `kinochrome jobs fetch {job_id} -o FILM` fetches it")


@app.command()
def fetch(
    job_id: Id,
    out: Annotated[Path, typer.Option("-o", "--out", help="The coloured film.")],
    server: server_options.Server = None,
    overwrite: Overwrite = False,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the job from the server when its film is here.")] = (
        False
    ),
    token_file: server_options.TokenFile = None,
    tls_ca: server_options.TlsCa = None,
    tls_cert: server_options.TlsCert = None,
    tls_key: server_options.TlsKey = None,
    tls_name: server_options.TlsName = "",
    patience: server_options.Patience = 300.0,
) -> None:
    """Fetch a job's coloured film, waiting for it if need be; from any machine, with the owner's token.

    Interrupted, the same command carries on. The job stays on the server until its time is over, or --delete.
    """
    there = reach(server, token_file, tls_ca, tls_cert, tls_key, tls_name, patience, job_id=job_id)
    with there.client() as client:
        _come(
            client,
            f"job {job_id}",
            out,
            lambda **told: client.fetch(job_id, out, overwrite=overwrite, delete=delete, **told),
        )


@app.command()
def resume(
    job_id: Id,
    server: server_options.Server = None,
    overwrite: Overwrite = False,
    token_file: server_options.TokenFile = None,
    tls_ca: server_options.TlsCa = None,
    tls_cert: server_options.TlsCert = None,
    tls_key: server_options.TlsKey = None,
    tls_name: server_options.TlsName = "",
    patience: server_options.Patience = 300.0,
) -> None:
    """Carry on an interrupted `kinochrome colorize --server` of this machine: film, output and server are known."""
    from . import known_jobs

    known = known_jobs.find(job_id)
    if known is None:
        raise NoSuchJob(
            f"job {job_id} was not begun on this machine, or is finished: "
            f"`kinochrome jobs fetch {job_id} -o FILM` gets what a server has of it"
        )
    what, out = Path(known.film).name or f"job {job_id}", Path(known.out)
    there = reach(server, token_file, tls_ca, tls_cert, tls_key, tls_name, patience, job_id=job_id)
    with there.client() as client:
        _come(client, what, out, lambda **told: client.resume(job_id, overwrite=overwrite, **told))


@app.command()
def cancel(
    job_ids: Ids,
    server: server_options.Server = None,
    token_file: server_options.TokenFile = None,
    tls_ca: server_options.TlsCa = None,
    tls_cert: server_options.TlsCert = None,
    tls_key: server_options.TlsKey = None,
    tls_name: server_options.TlsName = "",
) -> None:
    """Stop jobs. Those that have ended stay as they are."""

    def one(client: "Client", job_id: str) -> str:
        state = client.cancel(job_id).state
        return "cancelled" if state == "cancelled" else f"{state} already"

    _each(
        job_ids,
        lambda job_id: reach(server, token_file, tls_ca, tls_cert, tls_key, tls_name, job_id=job_id).client(),
        one,
    )


@app.command()
def delete(
    job_ids: Ids,
    server: server_options.Server = None,
    token_file: server_options.TokenFile = None,
    tls_ca: server_options.TlsCa = None,
    tls_cert: server_options.TlsCert = None,
    tls_key: server_options.TlsKey = None,
    tls_name: server_options.TlsName = "",
) -> None:
    """Remove jobs and all their bytes from the server, stopping them if need be."""

    def one(client: "Client", job_id: str) -> str:
        client.delete(job_id)
        return "deleted"

    _each(
        job_ids,
        lambda job_id: reach(server, token_file, tls_ca, tls_cert, tls_key, tls_name, job_id=job_id).client(),
        one,
    )


def _come(client: "Client", what: str, out: Path, work: Callable[..., Any]) -> None:
    """A film that comes from a server."""
    from .job_display import Shown, remote_errors
    from .progress import Display

    with Display(what, "frames", "fps") as display, remote_errors(out):
        coloured = work(on_progress=Shown(display), on_warning=display.warn)
    print(f"{coloured.out}: {coloured.frames} frames")


def _each(job_ids: Iterable[str], client: Callable[[str], "Client"], one: Callable[["Client", str], str]) -> None:
    """Do one thing with several jobs: a fault of one is told, and the others are done."""
    failed = False
    for job_id in job_ids:
        try:
            with client(job_id) as line:
                print(f"{job_id}: {one(line, job_id)}")
        except KinochromeError as error:
            print(f"kinochrome: {error}", file=sys.stderr)
            failed = True
    if failed:
        raise typer.Exit(1)
