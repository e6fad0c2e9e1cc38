"""The server's log: lines for people or for machines, each with the job and the owner that it is about.

with logs.about(job.id, job.owner):     # in the thread or task that works for a job
    log.info("coloured %d frames", frames)
"""

import json
import logging
import sys
import time
from typing import Literal

from .about import about, job, owner

__all__ = ["Format", "Json", "Text", "about", "configure"]

Format = Literal["text", "json"]

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "job", "owner", "taskName"}


def configure(format: Format = "text", level: int = logging.INFO) -> None:
    """Log to stderr from here on. Called once, by the process that serves."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_tagged)
    handler.setFormatter(Json() if format == "json" else Text())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _tagged(record: logging.LogRecord) -> bool:
    """Adds job and owner, unless the record's `extra` has them. In the thread that logs: nothing is handed over."""
    values = vars(record)
    values["job"] = values.get("job") or job.get()
    values["owner"] = values.get("owner") or (owner.get() if values["job"] else "")
    return True


class Text(logging.Formatter):
    """2026-01-31 12:00:00,000 INFO [0a1b2c] what happened. One record is one line, but for tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        about = f" [{vars(record)['job']}]" if vars(record).get("job") else ""
        when = self.formatTime(record)
        line = f"{when} {record.levelname}{about} {_in_one_line(record.getMessage())}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class Json(logging.Formatter):
    """One JSON object a line: time (UTC, RFC 3339), level, logger, message, job, owner, error, and what `extra` has."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("job", "owner"):
            if value := getattr(record, name, ""):
                said[name] = value
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        said.update({name: value for name, value in vars(record).items() if name not in _USUAL})
        return json.dumps(said, default=str)


def _in_one_line(text: str) -> str:
    """Without what would let a caller's words look like a line of the log, or move a terminal's cursor."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
