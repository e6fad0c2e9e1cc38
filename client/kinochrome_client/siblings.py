"""What the verbs need to run Kinochrome's other packages in this process."""

import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import typer

from kinochrome_proto.errors import KinochromeError


def sibling(module: str, extra: str) -> ModuleType:
    """Import another of Kinochrome's packages, which may not be installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise KinochromeError(
            f"this needs {error.name}, which is not installed: pip install 'kinochrome[{extra}]'"
        ) from None


@contextmanager
def local_errors(what_is_left: Callable[[], str]) -> Iterator[None]:
    """Disk errors while writing, Ctrl-C and a polite kill, in one line that also says what is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print(f"kinochrome: interrupted; {what_is_left()}", file=sys.stderr)
        raise typer.Exit(130) from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise KinochromeError(f"{error.strerror or error}{where}; {what_is_left()}") from None
