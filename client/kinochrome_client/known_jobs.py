"""The jobs that were begun on this machine: which film, which output, which server. So `jobs resume ID` needs no more.

One small file a job in $XDG_STATE_HOME/kinochrome/jobs. It is a convenience: where it cannot be written nothing fails.
"""

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Known:
    """A job that was begun here. Tokens are not kept."""

    job_id: str
    server: str
    film: str
    """Its path; empty of a job whose film was sent from elsewhere."""
    out: str
    tls_ca: str = ""
    cert: str = ""
    key: str = ""
    tls_name: str = ""


def remember(known: Known) -> None:
    """Keep a job in mind, instead of what was known of it."""
    with contextlib.suppress(OSError):
        file = _file(known.job_id)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        passing = file.with_suffix(f".{os.getpid()}.passing")
        passing.write_text(json.dumps(asdict(known)))
        os.replace(passing, file)


def forget(job_id: str) -> None:
    """A job has come to its end."""
    with contextlib.suppress(OSError):
        _file(job_id).unlink(missing_ok=True)


def find(job_id: str) -> Known | None:
    """What is known of a job here."""
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", job_id):  # it becomes a file's name
        return None
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Known(**json.loads(_file(job_id).read_text()))
    return None


def _file(job_id: str) -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return home / "kinochrome" / "jobs" / f"{job_id}.json"
