"""Bearer tokens: who may call, by a file that holds their hashes.

    alice:5f3c...   (64 hexadecimal digits: SHA-256 of alice's token)
    # a comment
    bob:09ab...

Tokens are 32 random bytes, so a plain SHA-256 cannot be turned back: whoever reads the file gets no token out of it.
Who may write it can let anybody in, so it is refused where group or others may. Changes count at the next call.
"""

import base64
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

from kinochrome_proto.errors import BadSettings

PREFIX = "kc_"
"""Makes a token known for what it is, to people and to programs that look for leaked ones."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MOST = 256
"""Longest token in characters that is looked at: hashing must cost a stranger's call nothing."""
MOST_BYTES = 1 << 20
"""Largest file of tokens: more than ten thousand of them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A token that is valid."""

    name: str
    """The owner that it stands for: several tokens may stand for one."""
    sha256: bytes


class Tokens:
    """The tokens in a file, as it is now. For any thread."""

    def __init__(self, path: Path) -> None:
        """Raises BadSettings where the file is not there, not safe, or not one of tokens."""
        self._path = path
        self._lock = threading.Lock()
        try:
            self._stamp = _stamp(path)
            self._entries, faults = _read(path)
        except OSError as error:
            raise BadSettings(f"--tokens {path}: {error.strerror}: make one with `kinochrome token NAME`") from None
        if faults:
            raise BadSettings(f"--tokens {path}, {faults[0]}")

    def find(self, token: str) -> Entry | None:
        """The entry of a token, None where it is not valid. Takes as long whichever it is, and whether or not."""
        if len(token) > MOST:
            return None
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        found = None
        for entry in self.entries():
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return found

    def entries(self) -> tuple[Entry, ...]:
        """All that are valid now.

        A changed file is read again. Lines that are none are left out and logged, so that what was removed is gone
        whatever else is wrong. A file that cannot be read at all changes nothing, and is logged.
        """
        with self._lock:
            try:
                stamp = _stamp(self._path)
                if stamp == self._stamp:
                    return self._entries
                self._stamp = stamp
                self._entries, faults = _read(self._path)
            except (OSError, BadSettings) as error:
                if self._stamp is not None:
                    log.error("--tokens %s cannot be read again, those before stay valid: %s", self._path, error)
                self._stamp = None
                return self._entries
            for fault in faults:
                log.error("--tokens %s, %s: left out", self._path, fault)
            log.info("--tokens %s has changed: %d valid", self._path, len(self._entries))
            return self._entries


def new() -> str:
    """A fresh token: 256 random bits."""
    return PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")


def line(name: str, token: str) -> str:
    """The line that lets a token in. Raises BadSettings for a name that cannot be."""
    if not NAME.fullmatch(name):
        raise BadSettings(
            f"{name!r} cannot name an owner: lower-case letters, digits, dots, hyphens and underscores, at most 64"
        )
    return f"{name}:{hashlib.sha256(token.encode()).hexdigest()}"


def add(path: Path, name: str) -> str:
    """Add a fresh token to the file, which is made where it is not there; returns the token.

    Raises BadSettings when the name or the file cannot be.
    """
    token = new()
    text = line(name, token) + "\n"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            _check(file.fileno(), path)
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                text = text if file.read(1) == b"\n" else "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadSettings(f"--tokens {path} cannot be written: {error.strerror}") from None
    return token


_Stamp = tuple[int, int, int, int] | None


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _check(descriptor: int, path: Path) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise BadSettings(f"--tokens {path} is not a file")
    if found.st_mode & 0o022:
        raise BadSettings(f"--tokens {path} can be written by others, who could let anybody in: chmod go-w {path}")
    if found.st_size > MOST_BYTES:
        raise BadSettings(f"--tokens {path} is larger than {MOST_BYTES >> 20} MiB: is it a file of tokens?")


def _read(path: Path) -> tuple[tuple[Entry, ...], list[str]]:
    """The file's entries, and what is wrong with which lines."""
    with path.open("rb") as file:
        _check(file.fileno(), path)
        data = file.read(MOST_BYTES + 1)
    entries, faults = [], []
    for number, text in enumerate(data.decode(errors="replace").splitlines(), 1):
        if not (text := text.strip()) or text.startswith("#"):
            continue
        name, colon, digest = (part.strip() for part in text.partition(":"))
        if not colon or not NAME.fullmatch(name):
            faults.append(f"line {number}: a line is NAME:SHA-256, as `kinochrome token NAME` prints it")
        elif not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            faults.append(f"line {number}: what follows {name}: is no SHA-256 in 64 hexadecimal digits")
        else:
            entries.append(Entry(name, bytes.fromhex(digest)))
    return tuple(entries), faults
