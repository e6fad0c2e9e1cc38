"""Files that must outlive a crash, and be told from damaged ones."""

import errno
import hashlib
import os
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Of an OSError: what mends itself once somebody makes room."""


def sha256(file: Path) -> str:
    """Of its bytes, lower-case hexadecimal. Raises OSError."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
