"""The colorizers that ship with the package, and those that are named by file."""

from importlib import resources
from pathlib import Path

from kinochrome_proto.colorizer_file import Colorizer, read
from kinochrome_proto.errors import UnknownColorizer

__all__ = ["DEFAULT", "Colorizer", "load", "read", "shipped"]

DEFAULT = "default"


def shipped() -> list[str]:
    """Names of the colorizers that come with the package."""
    folder = resources.files(__package__) / "shipped"
    return sorted(entry.name.removesuffix(".onnx") for entry in folder.iterdir() if entry.name.endswith(".onnx"))


def load(name_or_file: str = DEFAULT, *, files: bool = True) -> Colorizer:
    """A shipped colorizer by name, or one from a file when the word ends in .onnx; read, not yet given to a runtime.

    Args:
        name_or_file: "" means the default.
        files: whether files may be named at all; a server serves only what it ships.

    Raises UnknownColorizer, BadColorizer.
    """
    name = name_or_file or DEFAULT
    if name.endswith(".onnx") and files:
        path = Path(name)
    elif name in shipped():
        path = Path(str(resources.files(__package__) / "shipped" / f"{name}.onnx"))
    else:
        hint = " or an .onnx file" if files else ""
        raise UnknownColorizer(f"no colorizer {name!r}: choose from {', '.join(shipped())}{hint}")
    return read(path)
