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
        self.partial, self.indexed = Path(name), Path(name).with_suffix(".indexed.passing")
        self.file: BinaryIO = os.fdopen(descriptor, "w+b")

    def __enter__(self) -> "NewFile":
        return self

    def commit(self) -> None:
        """Flush to disk and give the file its name. Raises OutputInTheWay when one has appeared there meanwhile.

        The index of an MP4 or MOV film is put in front of its media first, where there is room on the disk.
        """
        self.file.flush()
        whole = self.partial
        if self.target.suffix.lower() in _INDEXED:
            with contextlib.suppress(OSError):  # no room for a second copy: the film is right as it is
                self.file.seek(0)
                with self.indexed.open("w+b") as indexed:
                    if put_index_in_front(self.file, indexed):
                        indexed.flush()
                        os.fsync(indexed.fileno())
                        shutil.copymode(self.partial, self.indexed)
                        whole = self.indexed
        os.fsync(self.file.fileno())
        self.file.close()
        refuse_existing(self.target, overwrite=self._overwrite)
        os.replace(whole, self.target)
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.file.close()
        for file in (self.partial, self.indexed):
            file.unlink(missing_ok=True)  # committed: one has its name


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
