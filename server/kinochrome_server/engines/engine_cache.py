"""Where engines that were built once are kept, so that the next start takes seconds, not minutes.

An engine binds to all that it was built of and on, so each lies in a folder named by the SHA-256 of exactly that. It
is also code that a GPU runs: only the user may be able to write where it lies.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from ..durable import sha256, to_disk
from .interface import Unusable

FORMAT = 1
"""Of the entries; changed, all are built anew."""
PATIENCE_S = 1800.0
"""How long to wait for another process that builds the same engine."""
_RECORD = "entry.json"
_POLL_S = 0.2

log = logging.getLogger(__name__)
T = TypeVar("T")


class Stale(Exception):
    """A kept engine that is whole, but that cannot be loaded here."""


class EngineCache:
    """Built engines in a folder; any number of processes may share it, and it may be emptied between runs."""

    def __init__(self, folder: Path | None, engine: str) -> None:
        """Make the folder, or see that nobody else can write to it.

        Args:
            folder: default $XDG_CACHE_HOME/kinochrome/engines.
            engine: the word for --engine, for messages.

        Raises Unusable.
        """
        self._engine = engine
        try:
            named = folder or _default()
            for missing in reversed([path for path in (named, *named.parents) if not path.exists()]):
                missing.mkdir(mode=0o700, exist_ok=True)  # with parents=True those above it would be as the umask says
            self.folder = named.resolve(strict=True)
            self._refuse_what_others_can_change()
        except OSError as error:
            fault = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
            raise Unusable(
                f"--engine {engine}: built engines cannot be kept: {fault}: set XDG_CACHE_HOME to a folder of your own"
            ) from None

    def load(self, parts: Mapping[str, str], build: Callable[[Path], None], load: Callable[[Path], T]) -> T:
        """What `load` makes of the engine that `parts` name, which is built where it is missing, damaged or stale.

        Args:
            parts: all that the engine depends on, each in words.
            build: writes the engine's files into an empty folder.
            load: reads them from a folder whose files are as `build` wrote them; may raise Stale.

        Raises Unusable when another process builds for too long, or a fresh engine is stale; OSError of the disk; and
        what `build` and `load` raise.
        """
        key = _key(parts)
        entry = self.folder / key
        with self._lock(key):
            if fault := _fault(entry, parts):
                if entry.exists():
                    log.warning("--engine %s: the engine kept in %s %s: it is built anew", self._engine, entry, fault)
                self._build(entry, parts, build)
            else:
                try:
                    return load(entry)
                except Stale as error:
                    log.warning("--engine %s: the engine kept in %s %s: it is built anew", self._engine, entry, error)
                    self._build(entry, parts, build)
            try:
                return load(entry)
            except Stale as error:
                raise Unusable(f"--engine {self._engine}: the engine just built in {entry} {error}") from None

    def timings(self, parts: Mapping[str, str]) -> bytes:
        """What earlier builds measured, for later ones; empty where nothing was kept, or not whole."""
        try:
            digest, _, content = self._timings(parts).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return b""
        return content if hashlib.sha256(content).hexdigest().encode() == digest else b""

    def keep_timings(self, parts: Mapping[str, str], content: bytes) -> None:
        """Of several processes the last one's are kept."""
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".timings.")
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, self._timings(parts))

    def _timings(self, parts: Mapping[str, str]) -> Path:
        return self.folder / f"{_key(parts)}.timings"

    def _build(self, entry: Path, parts: Mapping[str, str], build: Callable[[Path], None]) -> None:
        """Called under the lock, so what lies half-built here is of a process that died."""
        for rest in (entry, *self.folder.glob(f".{entry.name}.*")):
            if rest.exists():
                shutil.rmtree(rest)
        partial = Path(tempfile.mkdtemp(dir=self.folder, prefix=f".{entry.name}."))  # mode 0700
        try:
            build(partial)
            files = {file.name: sha256(file) for file in sorted(partial.iterdir())}
            record = {"parts": dict(parts), "files": files}
            (partial / _RECORD).write_text(json.dumps(record, indent=1))
            for path in (*partial.iterdir(), partial):
                to_disk(path)
            os.rename(partial, entry)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        to_disk(self.folder)

    @contextlib.contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """Held by one process at a time; the kernel takes it back from one that dies."""
        descriptor = os.open(self.folder / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            patience_ends = time.monotonic() + PATIENCE_S
            told = False
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    pass
                if not told:
                    log.info("--engine %s: another process builds the same engine; waiting for it", self._engine)
                    told = True
                if time.monotonic() > patience_ends:
                    raise Unusable(
                        f"--engine {self._engine}: another process has held {self.folder / key}.lock for "
                        f"{PATIENCE_S / 60:.0f} minutes: end it, or try again when it is done"
                    )
                time.sleep(_POLL_S)
            yield
        finally:
            os.close(descriptor)

    def _refuse_what_others_can_change(self) -> None:
        found = self.folder.stat()
        if found.st_uid != os.geteuid():
            raise Unusable(
                f"--engine {self._engine}: {self.folder} belongs to another user, and a built engine is code: "
                "name a folder of your own"
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise Unusable(
                f"--engine {self._engine}: others can write to {self.folder}, and a built engine is code: "
                f"chmod go-w {self.folder}, and empty it if you do not know what lies there"
            )
        for parent in self.folder.parents:
            above = parent.stat()
            sticky = above.st_mode & stat.S_ISVTX  # as of /tmp: only owners may move what is theirs
            if above.st_uid not in (0, os.geteuid()) or (above.st_mode & stat.S_IWOTH and not sticky):
                raise Unusable(
                    f"--engine {self._engine}: others can replace {self.folder} through {parent}, and a built engine "
                    "is code: name a folder that only you can change"
                )


def _default() -> Path:
    # As the trainer's cache of stills; for one folder on one system no library is needed.
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (root if root.is_absolute() else Path.home() / ".cache") / "kinochrome" / "engines"
    except RuntimeError:
        raise OSError(0, "there is no home folder") from None


def _key(parts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([FORMAT, sorted(parts.items())]).encode()).hexdigest()


def _fault(entry: Path, parts: Mapping[str, str]) -> str:
    """What is wrong with an entry, in words, or nothing."""
    if not entry.is_dir():
        return "is missing"
    try:
        record = json.loads((entry / _RECORD).read_bytes())
        if record["parts"] != dict(parts):
            return "is of something else than its name says"
        for name, digest in record["files"].items():
            if sha256(entry / name) != digest:
                return f"is damaged ({name})"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "is damaged"
    return ""
