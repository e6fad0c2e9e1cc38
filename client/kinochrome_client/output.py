"""Files that appear under their name only when they are whole."""

import contextlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from kinochrome_proto.errors import OutputInTheWay


class NewFile:
    """A file written beside its target under a passing name. Use as a context manager; call `commit` at the end.

    Left without `commit`, by error or interrupt, nothing remains and the target is as it was.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        """Raises OutputInTheWay when the target exists (unless `overwrite`) or its folder cannot be written."""
        self.target, self._overwrite = target, overwrite
        folder = target.parent
        if not folder.is_dir():
            raise OutputInTheWay(f"the folder {folder} does not exist: make it, or choose another -o")
        if target.is_dir():
            raise OutputInTheWay(f"{target} is a folder: name a file with -o")
        self._refuse_existing()
        try:
            descriptor, name = tempfile.mkstemp(dir=folder, prefix=f".{target.name}.", suffix=".part")
        except OSError as error:
            raise OutputInTheWay(f"{folder} cannot be written to: {error.strerror}") from None
        os.chmod(descriptor, 0o666 & ~_umask())  # mkstemp's 0600 is for secrets
        self.partial = Path(name)
        self.file: BinaryIO = os.fdopen(descriptor, "w+b")

    def __enter__(self) -> "NewFile":
        return self

    def commit(self) -> None:
        """Flush to disk and give the file its name. Raises OutputInTheWay when one has appeared there meanwhile."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._refuse_existing()
        os.replace(self.partial, self.target)
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _refuse_existing(self) -> None:
        if self.target.exists() and not self._overwrite:
            raise OutputInTheWay(f"{self.target} exists: --overwrite replaces it")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.file.close()
        with contextlib.suppress(FileNotFoundError):  # committed: it has its name
            self.partial.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
