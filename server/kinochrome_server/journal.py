"""The journal of a film being coloured: what is done stays done, whatever is killed.

A folder with one file a finished segment (a chunk) and one list, `journal`, to which a line is added once a chunk is
safe on the disk: a CRC-32, then what is known of the chunk, as JSON. Its first line says of what film and with what
settings; a run of anything else is refused, not mixed in. A line that a kill tore is dropped and its segment done anew.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
import threading
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from kinochrome_proto.errors import OutputInTheWay

from .durable import DISK_FULL, sha256, to_disk

FORMAT_VERSION = 1
_LIST = "journal"
_HASHED = 1 << 20  # bytes of a film's beginning and end that tell it from others


@dataclass(frozen=True)
class Record:
    """A finished segment."""

    index: int
    source: str
    """SHA-256 of the segment's packets, hexadecimal."""
    frames: int
    lost: bool
    """Whether frames were left out because they were damaged, as --lenient allows."""
    size: int
    """Bytes of the chunk."""
    sha256: str
    """Of the chunk, hexadecimal."""
    warnings: tuple[str, ...] = ()


class Journal:
    """Chunks of one film. Use as a context manager: it is locked against a second run meanwhile."""

    def __init__(
        self,
        folder: Path | None,
        identity: Mapping[str, Any],
        *,
        restart: bool = False,
        scratch: Path | None = None,
    ) -> None:
        """Open the journal in `folder`, or begin one.

        Args:
            folder: its own, made if it is not there. None: a temporary one, which goes when the journal is closed,
                and nothing of which is forced to the disk.
            identity: film and settings, as plain JSON values.
            restart: throw away what an earlier run left there.
            scratch: where a temporary folder is made; by default where the system has them.

        Raises OutputInTheWay when the folder cannot be written, another run holds it, or its journal is of another
        film or other settings. Raises OSError when the disk is full.
        """
        self.durable = folder is not None
        self._lock = threading.Lock()
        self._identity = json.loads(json.dumps(identity))
        try:
            if folder is None:
                self.folder = Path(tempfile.mkdtemp(prefix="kinochrome-", dir=scratch))
            else:
                self.folder = folder
                folder.mkdir(exist_ok=True)
            self._list: BinaryIO = (self.folder / _LIST).open("a+b", buffering=0)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise OutputInTheWay(f"{error.filename} cannot be written to: {error.strerror}") from None
        try:
            fcntl.flock(self._list, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._list.close()
            raise OutputInTheWay(f"{self.folder} is in use: another run is colouring this film") from None
        except OSError as error:
            self._list.close()
            raise OutputInTheWay(f"{self.folder} cannot be locked ({error.strerror}): choose -o elsewhere") from None
        try:
            if restart:
                self._list.truncate(0)
            self.records = self._read()
            self._sweep()
            if not self.records and self._list.seek(0, os.SEEK_END) == 0:
                self._append({"kinochrome": FORMAT_VERSION, **self._identity})
        except BaseException:
            self._list.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._list.close()
        if not self.durable or not self.records:
            self.remove()
        else:
            self._sweep()

    def remove(self) -> None:
        """Throw the journal away: the film is finished, or nothing of it is worth keeping."""
        self.records = {}
        with contextlib.suppress(OSError):  # gone already, or of no use but in nobody's way
            self._sweep()
            (self.folder / _LIST).unlink(missing_ok=True)
            self.folder.rmdir()  # never more than what is ours: somebody else's files keep the folder

    def chunk_file(self, index: int) -> Path:
        """Where the chunk of a segment is, or will be."""
        return self.folder / f"{index:06d}.chunk"

    def passing_file(self, name: str) -> Path:
        """A file in the same folder that does not outlive the run."""
        return self.folder / f"{name}.passing"

    def add(self, record: Record) -> None:
        """Note that a chunk is finished; its file must be in place. From any thread. Raises OSError of the disk."""
        with self._lock:
            if self.durable:
                to_disk(self.folder)
                self._append(asdict(record))
            self.records[record.index] = record

    def drop(self, index: int) -> None:
        """Delete a chunk that is written into the film, unless a later run may want it."""
        if not self.durable:
            self.chunk_file(index).unlink(missing_ok=True)

    def usable(self, index: int, source: str, *, lenient: bool) -> Record | None:
        """The record of a segment if its chunk can be used as it is.

        Raises OutputInTheWay when the segment's packets are others than those that were coloured.
        """
        record = self.records.get(index)
        if record is None or (record.lost and not lenient):
            return None
        if record.source != source:
            raise OutputInTheWay(
                f"{self.folder} is of another film, or the film has changed since: --restart begins anew"
            )
        file = self.chunk_file(index)
        try:
            if file.stat().st_size == record.size and sha256(file) == record.sha256:
                return record
        except OSError:
            pass
        return None  # deleted or damaged: the segment is coloured again

    def _append(self, entry: Mapping[str, Any]) -> None:
        text = json.dumps(entry, separators=(",", ":"), ensure_ascii=True).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        end = self._list.seek(0, os.SEEK_END)
        try:
            written = self._list.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, "No space left on device")
            if self.durable:
                os.fsync(self._list.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._list.truncate(end)
            raise

    def _read(self) -> dict[int, Record]:
        self._list.seek(0)
        entries: list[dict[str, Any]] = []
        good = 0
        for line in self._list.readlines():
            checksum, _, text = line.rstrip(b"\n").partition(b" ")
            if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
                break  # torn by a kill: what follows cannot be trusted either
            entries.append(json.loads(text))
            good += len(line)
        self._list.truncate(good)
        if not entries:
            return {}
        begun = entries[0]
        if begun.pop("kinochrome", None) != FORMAT_VERSION:
            raise OutputInTheWay(f"{self.folder} holds the journal of another version: --restart begins anew")
        if differing := _differences(begun, self._identity):
            raise OutputInTheWay(
                f"{self.folder} holds an unfinished run of other settings or another film ({differing}): "
                "run with those to carry on, or --restart to begin anew"
            )
        return {entry["index"]: Record(**{**entry, "warnings": tuple(entry["warnings"])}) for entry in entries[1:]}

    def _sweep(self) -> None:
        """Delete what was left half done."""
        keep = {self.chunk_file(index).name for index in self.records} | {_LIST}
        for entry in self.folder.iterdir():
            ours = entry.suffix == ".passing" or (entry.suffix == ".chunk" and entry.stem.isdecimal())
            if entry.name not in keep and ours:
                entry.unlink(missing_ok=True)


def film_identity(file: BinaryIO) -> dict[str, Any]:
    """What tells a film from others without reading all of it: its size, and its beginning and end."""
    size = file.seek(0, os.SEEK_END)
    digest = hashlib.sha256()
    for start in (0, max(0, size - _HASHED)):
        file.seek(start)
        left = _HASHED
        while left and (data := file.read(left)):
            digest.update(data)
            left -= len(data)
    return {"size": size, "ends": digest.hexdigest()}


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The values that differ, in words."""
    told = []
    for key in sorted({*one, *other}):
        before, now = one.get(key), other.get(key)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            told.append(_differences(before, now))
        else:
            told.append(f"{key} was {_short(before)}, is {_short(now)}")
    return "; ".join(told)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value)
    return text if len(text) <= 40 else text[:12] + "..."
