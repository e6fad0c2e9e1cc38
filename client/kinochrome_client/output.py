"""Files that appear under their name only when they are whole."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from kinochrome_proto.errors import OutputInTheWay

from .front_index import put_index_in_front

CONTAINER_OF = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "mkv", ".webm": "webm"}
"""What an output's ending says of its container."""
_INDEXED = (".mp4", ".m4v", ".mov")


class NewFile:
    """A file written beside its target under a passing name. Use as a context manager; call `commit` at the end.

    Left without `commit`, by error or interrupt, nothing remains and the target is as it was.
    """

    def __init__(self, target: Path, *, overwrite: bool, folder: Path | None = None) -> None:
        """
        Args:
            target: the name it gets when it is whole.
            overwrite: whether it may replace a file of that name.
            folder: where it is written until then, on the same disk; by default beside the target.

        Raises OutputInTheWay when the target exists (unless `overwrite`) or its folder cannot be written.
        """
        self.target, self._overwrite = target, overwrite
        refuse_existing(target, overwrite=overwrite)
        folder = folder or target.parent
        try:
            descriptor, name = tempfile.mkstemp(dir=folder, prefix=f".{target.name}.", suffix=".passing")
        except OSError as error:
            raise OutputInTheWay(f"{folder} cannot be written to: {error.strerror}") from None
        os.chmod(descriptor, 0o666 & ~_umask())  # mkstemp's 0600 is for secrets
        self.partial = Path(name)
        self.file: BinaryIO = os.fdopen(descriptor, "w+b")

    def __enter__(self) -> "NewFile":
        return self

    def commit(self) -> None:
        """Flush to disk and give the file its name. Raises OutputInTheWay when one has appeared there meanwhile.

        The index of an MP4 or MOV film is put in front of its media first, where there is room on the disk.
        """
        self.file.flush()
        put_in_place(self.partial, self.target, overwrite=self._overwrite)
        self.file.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.file.close()
        for file in (self.partial, indexed(self.partial)):
            file.unlink(missing_ok=True)  # committed: one has its name


def put_in_place(whole: Path, target: Path, *, overwrite: bool) -> None:
    """Flush a whole film to disk and give it its name: `ready` and `give_name` in one."""
    give_name(ready(whole, target), target, overwrite=overwrite)


def ready(whole: Path, target: Path) -> Path:
    """The file that is to become `target`, safe on the disk: `whole`, or one beside it that is better.

    Better is one of MP4 and MOV whose index lies in front of its media; it is made where there is room on the disk.
    Raises OSError of the disk.
    """
    named = whole
    with whole.open("rb") as film:
        if target.suffix.lower() in _INDEXED:
            with contextlib.suppress(OSError), indexed(whole).open("wb") as moved:  # no room: it is right as it is
                if put_index_in_front(film, moved):
                    moved.flush()
                    os.fsync(moved.fileno())
                    shutil.copymode(whole, indexed(whole))
                    named = indexed(whole)
        os.fsync(film.fileno())
    return named


def give_name(file: Path, target: Path, *, overwrite: bool) -> None:
    """Rename a file that is ready. Raises OutputInTheWay when one has appeared there meanwhile, OSError of the disk."""
    refuse_existing(target, overwrite=overwrite)
    os.replace(file, target)
    folder_to_disk(target.parent)


def indexed(whole: Path) -> Path:
    """Where `put_in_place` writes a film whose index it moves."""
    return whole.with_name(f"{whole.name.removesuffix('.passing')}.indexed.passing")


def folder_to_disk(folder: Path) -> None:
    """Make names in a folder survive a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Raises OutputInTheWay when the target exists (unless `overwrite`), is a folder, or has none to be in."""
    if not target.parent.is_dir():
        raise OutputInTheWay(f"the folder {target.parent} does not exist: make it, or choose another -o")
    if target.is_dir():
        raise OutputInTheWay(f"{target} is a folder: name a file with -o")
    if target.exists() and not overwrite:
        raise OutputInTheWay(f"{target} exists: --overwrite replaces it")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
