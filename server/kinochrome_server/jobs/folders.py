"""The spool: a folder with the database, a lock, and a folder for each job.

    SPOOL/kinochrome.db  SPOOL/lock  SPOOL/jobs/ID/{film-1, film-1.complete, journal/, coloured}

Names of jobs' folders are the server's own random ones; nothing that a client says becomes part of a path.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from kinochrome_proto.errors import BadSettings

from ..durable import to_disk
from ..sources import GrowingSource

_DATABASE = "kinochrome.db"
_OURS = {_DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm", "lock", "jobs"}


def default_spool() -> Path:
    """Where jobs outlive the server: a service manager's state folder, else the user's own."""
    if folder := os.environ.get("STATE_DIRECTORY", "").partition(":")[0]:  # of systemd's StateDirectory=
        return Path(folder) / "spool"
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "kinochrome" / "spool"


@dataclass(frozen=True)
class JobFolder:
    """Where a job's bytes are."""

    path: Path

    def source(self, film: int) -> GrowingSource:
        """The film as it was uploaded the `film`-th time. Each has a file of its own: workers may hold an older one."""
        return GrowingSource(self.path / f"film-{film}")

    @property
    def coloured(self) -> Path:
        """The coloured film, or what there is of it."""
        return self.path / "coloured"

    @property
    def journal(self) -> Path:
        """The journal's folder; for passing files, where a job has no journal."""
        return self.path / "journal"

    def make(self) -> None:
        """Make it, on the disk before this returns. Raises OSError."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        to_disk(self.path.parent)

    def only(self, *kept: Path) -> None:
        """Delete all but these."""
        with contextlib.suppress(FileNotFoundError):
            for entry in self.path.iterdir():
                if entry in kept:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete it and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def passing_bytes(self) -> int:
        """Bytes of finished segments and of those in work."""
        total = 0
        with contextlib.suppress(OSError), os.scandir(self.journal) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_size
        return total


class Spool:
    """A spool that this process holds, and no other. Close it at the end."""

    def __init__(self, path: Path) -> None:
        """Open or make it. Raises BadSettings when it cannot be a spool, or another server is using it."""
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            strangers = {entry.name for entry in path.iterdir()} - _OURS
            if strangers and not (path / _DATABASE).exists():
                raise BadSettings(f"--spool {path} holds other files ({min(strangers)}): choose a folder of its own")
            if path.stat().st_uid != os.geteuid():
                raise BadSettings(f"--spool {path} belongs to another user: choose one of your own")
            path.chmod(0o700)
            self._lock = (path / "lock").open("a+")
        except OSError as error:
            raise BadSettings(f"--spool {path} cannot be a folder for films: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.jobs.mkdir(mode=0o700, exist_ok=True)
            self._lock.truncate(0)
            self._lock.write(f"{os.getpid()}\n")
            self._lock.flush()
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip()
            self._lock.close()
            raise BadSettings(
                f"--spool {path} is in use by another server (process {holder or 'unknown'}): stop it or choose another"
            ) from None
        except OSError as error:
            self._lock.close()
            raise BadSettings(f"--spool {path} cannot be locked: {error.strerror}") from None

    @property
    def database(self) -> Path:
        return self.path / _DATABASE

    @property
    def jobs(self) -> Path:
        """Where their folders are."""
        return self.path / "jobs"

    def job(self, job_id: str) -> JobFolder:
        """The folder of a job that the server has named."""
        return JobFolder(self.jobs / job_id)

    def sweep(self, known: Collection[str]) -> list[str]:
        """Delete what belongs to no job; gives its names."""
        orphans = [entry for entry in self.jobs.iterdir() if entry.name not in known]
        for orphan in orphans:
            if orphan.is_dir() and not orphan.is_symlink():
                shutil.rmtree(orphan, ignore_errors=True)
            else:
                orphan.unlink(missing_ok=True)
        return [orphan.name for orphan in orphans]

    def free(self) -> int:
        """Bytes that the disk has left for us. Raises OSError."""
        return shutil.disk_usage(self.path).free

    def close(self) -> None:
        """Let another server have it."""
        self._lock.close()
