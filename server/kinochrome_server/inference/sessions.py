"""The colorizers that an inference process has ready: a bounded number, the least recently used makes room."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kinochrome_proto.errors import BadColorizer

from .. import colorizers
from ..engines.choice import engine_class
from ..engines.interface import Engine, EngineSettings

KEPT = 4


@dataclass(frozen=True)
class Session:
    """A colorizer as it is to be run."""

    engine: str
    """A key of `engines.choice.ENGINES`."""
    colorizer: str
    """Its file."""
    sha256: str
    seed: int


Open = Callable[[Session], Engine]
"""Loads a session. Raises KinochromeError, MemoryError."""


def opener(device: int, batch: int, threads: int) -> Open:
    """Loads sessions on a device, for batches of one size."""

    def load(session: Session) -> Engine:
        colorizer = colorizers.read(Path(session.colorizer))
        if colorizer.sha256 != session.sha256:
            raise BadColorizer(f"{session.colorizer} was replaced while a film was being coloured: begin again")
        settings = EngineSettings(seed=session.seed, threads=threads, device=device, batch=batch)
        return engine_class(session.engine)(colorizer, settings)

    return load


class Sessions:
    """Engines by session. Not for several threads at once."""

    def __init__(self, load: Open, kept: int = KEPT) -> None:
        self._load, self._kept = load, kept
        self._engines: OrderedDict[Session, Engine] = OrderedDict()

    def __len__(self) -> int:
        return len(self._engines)

    def engine(self, session: Session) -> Engine:
        """Raises what loading it raises."""
        if session not in self._engines:
            while len(self._engines) >= self._kept:
                self._engines.popitem(last=False)
            try:
                self._engines[session] = self._load(session)
            except MemoryError:
                if not self._engines:
                    raise
                self.forget()
                self._engines[session] = self._load(session)
        self._engines.move_to_end(session)
        return self._engines[session]

    def forget(self) -> None:
        """Give all their memory back."""
        self._engines.clear()
