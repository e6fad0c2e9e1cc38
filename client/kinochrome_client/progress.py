"""Progress for people: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_EVERY_S = 5.0  # seconds between lines when there is no terminal


class Display:
    """Shows work done, speed and time left, on standard error. Use as a context manager."""

    def __init__(self, what: str, unit: str, speed: str) -> None:
        """`what` names the work, `unit` what is counted ("frames"), `speed` its rate ("fps")."""
        self._what, self._unit, self._speed = what, unit, speed
        self._console = Console(stderr=True)
        self._started = self._said = time.monotonic()
        self._done = self._total = self._before = 0
        self._note = ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(what, total=None, speed="", note="")

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: int, total: int, note: str = "") -> None:
        """`total` 0 means unknown; `note` is shown at the end of the line."""
        self._done, self._total, self._note = done, max(total, done) if total else 0, note
        self._bar.update(
            self._task, completed=done, total=self._total or None, speed=f"{self.rate:.1f} {self._speed}", note=note
        )
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said >= PLAIN_EVERY_S:
            self._said = now
            of, left = "", ""
            if self._total:
                of = f" of {self._total}"
                left = f", {(self._total - done) / max(self.rate, 1e-9):.0f} s left"
            print(
                f"{self._what}: {done}{of} {self._unit}, {self.rate:.1f} {self._speed}{left} {note}".rstrip(),
                file=sys.stderr,
            )

    def skip(self, done: int) -> None:
        """Count what an earlier run had done: it says nothing of this one's speed."""
        self._before = done

    def begin(self) -> None:
        """Reckon the speed from now on: what went before was waiting."""
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """Say something that should stay on the screen."""
        if self._console.is_terminal:
            self._console.print(Text(text))
        else:
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """Say something that the user should know."""
        if self._console.is_terminal:
            self._console.print(Text.assemble(("warning: ", "yellow"), text))
        else:
            print(f"warning: {text}", file=sys.stderr)

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return (self._done - self._before) / max(time.monotonic() - self._started, 1e-9)
