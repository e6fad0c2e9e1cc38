"""A film that is being coloured on a server, as it lies beside its output until it is whole.

OUT.kinochrome holds `job.json`, which job it is and of what, and `coloured`, what has come of it. Whatever is killed,
the same command finds them and carries on. The folder is the same in which a run on this machine keeps its segments:
of the two, one finds the other and refuses.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from kinochrome_proto.errors import OutputInTheWay

from .output import folder_to_disk, indexed

FORMAT_VERSION = 1
_ENDS = 1 << 20  # bytes of a film's beginning and end that tell it from others
_JOB, _LOCK, _COLOURED, _LOCAL = "job.json", "lock", "coloured", "journal"


@dataclass(frozen=True)
class Record:
    """Which job it is, and of what."""

    server: str
    request_id: str
    """Of the call that makes the job: however often it is made, there is one job."""
    film: str
    """Its absolute path; empty when it was sent from elsewhere and is only fetched."""
    identity: Mapping[str, Any]
    """What must be the same for a run to carry on: size and ends of the film, settings."""
    job_id: str = ""
    """Empty until the server has named it."""
    sent: bool = False
    """Whether the film is wholly on the server."""
    frames: int = 0
    """Of a job that is done and proven: frames, size and SHA-256, as `Coloured` has them. Before that, 0 and empty."""
    size: int = 0
    sha256: str = ""
    inode: int = 0
    """Of the file that is about to become the output, then."""

    def is_whole(self, out: Path) -> bool:
        """Whether the output has its name already: only the clearing away was interrupted."""
        with contextlib.suppress(OSError):
            return self.inode != 0 and out.stat().st_ino == self.inode
        return False


class Unfinished:
    """The folder of one output. Use as a context manager: it is locked against a second run meanwhile.

    Left with nothing recorded, it goes.
    """

    def __init__(self, out: Path, *, restart: bool = False) -> None:
        """With `restart` a record that cannot be read is none: it is about to be thrown away."""
        self.out, self.folder, self._restart = out, folder_of(out), restart
        self.coloured = self.folder / _COLOURED
        self.record: Record | None = None

    def __enter__(self) -> "Unfinished":
        """Raises OutputInTheWay when the folder cannot be used."""
        self._lock = self._locked()
        try:
            self.record = _read(self.folder)
        except OutputInTheWay:
            if not self._restart:
                self._lock.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.record is None:
            self.remove()
        self._lock.close()

    def begin(self, record: Record) -> Record:
        """Note which job it will be, over whatever was noted before. Raises OSError of the disk."""
        self.coloured.unlink(missing_ok=True)
        return self._save(record)

    def note(self, **changed: Any) -> Record:
        """Change what is noted. Raises OSError of the disk."""
        assert self.record is not None, "nothing was begun"
        return self._save(replace(self.record, **changed))

    def remove(self) -> None:
        """The film is finished, or nothing of it is worth keeping."""
        self.record = None
        with contextlib.suppress(OSError):  # gone already, or of no use but in nobody's way
            for file in (_JOB, f"{_JOB}.passing", _COLOURED, indexed(self.coloured).name, _LOCK):
                (self.folder / file).unlink(missing_ok=True)
            self.folder.rmdir()  # never more than what is ours: somebody else's files keep the folder

    def _save(self, record: Record) -> Record:
        passing = self.folder / f"{_JOB}.passing"
        with passing.open("w") as file:
            json.dump({"kinochrome": FORMAT_VERSION, **asdict(record)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(passing, self.folder / _JOB)
        folder_to_disk(self.folder)
        self.record = record
        return record

    def _locked(self) -> BinaryIO:
        while True:
            try:
                self.folder.mkdir(exist_ok=True)
            except OSError as error:
                raise OutputInTheWay(f"{self.folder} cannot be written to: {error.strerror}") from None
            with contextlib.suppress(FileNotFoundError):  # a run that has just ended took the folder with it: once more
                if lock := self._lock_in_folder():
                    return lock

    def _lock_in_folder(self) -> BinaryIO | None:
        file = self.folder / _LOCK
        try:
            lock = file.open("ab")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise OutputInTheWay(f"{file} cannot be written to: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock.fileno()).st_ino == file.stat().st_ino:
                return lock
        except BlockingIOError:
            lock.close()
            raise OutputInTheWay(f"{self.folder} is in use: another run is colouring this film") from None
        except FileNotFoundError:
            pass
        except OSError as error:
            lock.close()
            raise OutputInTheWay(f"{self.folder} cannot be locked ({error.strerror}): choose -o elsewhere") from None
        lock.close()
        return None


def folder_of(out: Path) -> Path:
    """Where what is unfinished of an output lies."""
    return out.with_name(f"{out.name}.kinochrome")


def recorded(out: Path) -> Record | None:
    """The job that is to become `out`, if there is one. Raises OutputInTheWay when another version began it."""
    return _read(folder_of(out))


def is_local(out: Path) -> bool:
    """Whether a run on this machine is unfinished there."""
    return (folder_of(out) / _LOCAL).exists()


def remove_local(out: Path) -> None:
    """Throw away what a run on this machine left unfinished. Raises OSError."""
    folder = folder_of(out)
    for file in [*folder.glob("*.chunk"), *folder.glob("*.passing"), folder / _LOCAL]:
        file.unlink(missing_ok=True)


def new_record(server: str, film: Path | None, identity: Mapping[str, Any]) -> Record:
    """The record of a job that is not made yet."""
    return Record(server, str(uuid.uuid4()), str(film.absolute()) if film else "", identity)


def film_identity(film: Path) -> dict[str, Any]:
    """What tells a film from others without reading all of it: its size, and its beginning and end. Raises OSError."""
    with film.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256()
        for start in (0, max(0, size - _ENDS)):
            file.seek(start)
            digest.update(file.read(_ENDS))
    return {"size": size, "ends": digest.hexdigest()}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The values that differ, in words."""
    told = []
    for key in sorted({*one, *other}):
        before, now = one.get(key), other.get(key)
        if before == now:
            continue
        if isinstance(before, dict) or isinstance(now, dict):
            told.append(differences(before or {}, now or {}))
        else:
            told.append(f"{key} was {_short(before)}, is {_short(now)}")
    return "; ".join(told)


def _short(value: Any) -> str:
    if value is None:
        return "not given"
    text = value if isinstance(value, str) and value else json.dumps(value)
    return text if len(text) <= 40 else text[:12] + "..."


def _read(folder: Path) -> Record | None:
    try:
        entry = json.loads((folder / _JOB).read_text())
        if entry.pop("kinochrome") == FORMAT_VERSION:
            return Record(**entry)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputInTheWay(f"{folder / _JOB} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise OutputInTheWay(f"{folder} holds a run of another version, or is damaged: delete it to begin anew")
