"""The options that say which server, and who calls; and the client they make."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinochrome_proto.errors import BadSettings, KinochromeError

if TYPE_CHECKING:
    from .blocking import Client

Server = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="The server. Default: $KINOCHROME_SERVER.", show_default=False)
]
TokenFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File with the token that the server knows you by. Default: $KINOCHROME_TOKEN."),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        metavar="PEM",
        help="Certificates to check the server's against, if it is not one that everybody trusts. "
        "Default: $KINOCHROME_TLS_CA.",
    ),
]
TlsCert = Annotated[
    Path | None, typer.Option(metavar="PEM", help="Certificate to show the server. Default: $KINOCHROME_TLS_CERT.")
]
TlsKey = Annotated[
    Path | None, typer.Option(metavar="PEM", help="The certificate's private key. Default: $KINOCHROME_TLS_KEY.")
]
TlsName = Annotated[
    str,
    typer.Option(metavar="NAME", help="Name that the server's certificate is for, where HOST is another."),
]
Patience = Annotated[
    float,
    typer.Option(metavar="SECONDS", min=0, help="How long a broken line is tried again while nothing moves."),
]


@dataclass(frozen=True)
class Reach:
    """How a server is reached, by options and environment; empty and None where neither says."""

    server: str
    token: str | None = None
    tls_ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    tls_name: str = ""
    patience_s: float = 300.0

    def client(self) -> "Client":
        """Raises BadSettings when no server is named, or one of these cannot be."""
        # What gRPC's core has to say of a broken line, each time, is no help: the client says it once.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from .blocking import Client

        if not self.server:
            raise BadSettings("no server is named: --server HOST:PORT, or set KINOCHROME_SERVER")
        return Client(
            self.server,
            token=self.token,
            tls_ca=self.tls_ca,
            cert=self.cert,
            key=self.key,
            tls_name=self.tls_name,
            patience_s=self.patience_s,
        )


def reach(
    server: str | None,
    token_file: Path | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_name: str,
    patience_s: float = 300.0,
    *,
    job_id: str = "",
) -> Reach:
    """What options and environment say; of a job that was begun here also what is known of it.

    Options come first, then what is known of the job, then the environment. Raises KinochromeError when the token
    cannot be read.
    """
    from . import known_jobs

    known = known_jobs.find(job_id) if job_id else None
    if server is None:
        server = known.server if known else os.environ.get("KINOCHROME_SERVER", "")
    return Reach(
        server,
        _token(token_file),
        _file(tls_ca, known.tls_ca if known else "", "KINOCHROME_TLS_CA"),
        _file(tls_cert, known.cert if known else "", "KINOCHROME_TLS_CERT"),
        _file(tls_key, known.key if known else "", "KINOCHROME_TLS_KEY"),
        tls_name or (known.tls_name if known else ""),
        patience_s,
    )


def _file(option: Path | None, of_job: str, variable: str) -> Path | None:
    said = option or of_job or os.environ.get(variable)
    return Path(said) if said else None


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("KINOCHROME_TOKEN") or None
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise KinochromeError(
            f"--token-file {file} cannot be read: {getattr(error, 'strerror', '') or 'it is no text'}"
        ) from None
