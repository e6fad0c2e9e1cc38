"""Colorizer files: finding them by name, reading what they say of themselves."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import onnxruntime

from kinochrome_proto.errors import BadColorizer, UnknownColorizer
from kinochrome_proto.manifest import CHROMA, LUMA, NOISE, Manifest

DEFAULT = "default"


@dataclass(frozen=True)
class Colorizer:
    """A colorizer file, read and recognised."""

    name: str
    path: Path
    content: bytes
    manifest: Manifest

    @cached_property
    def sha256(self) -> str:
        """Lower-case hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


def shipped() -> list[str]:
    """Names of the colorizers that come with the package."""
    folder = resources.files(__package__) / "shipped"
    return sorted(entry.name.removesuffix(".onnx") for entry in folder.iterdir() if entry.name.endswith(".onnx"))


def load(name_or_file: str = DEFAULT, *, files: bool = True) -> Colorizer:
    """A shipped colorizer by name, or one from a file when the word ends in .onnx.

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


def read(path: Path) -> Colorizer:
    """The colorizer in a file. Raises UnknownColorizer when it cannot be read, BadColorizer when it is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnknownColorizer(f"colorizer {path} cannot be read: {error.strerror}") from None
    session = open_session(content, str(path))
    manifest = Manifest.from_metadata(session.get_modelmeta().custom_metadata_map, str(path))
    names = [item.name for item in session.get_inputs()], [item.name for item in session.get_outputs()]
    inputs = [LUMA, NOISE] if manifest.noise_length else [LUMA]
    if names != (inputs, [CHROMA]):
        raise BadColorizer(
            f"{path} takes {', '.join(names[0])} and gives {', '.join(names[1])}; by its metadata it should take "
            f"{', '.join(inputs)} and give {CHROMA}: export it again"
        )
    return Colorizer(path.stem, path, content, manifest)


def open_session(content: bytes, name: str, threads: int = 1) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU. Raises BadColorizer when the bytes are no usable model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, in our words
    # Spinning threads would take the codec's share of the cores while they wait.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        fault = str(error).splitlines()[0]
        raise BadColorizer(f"{name} cannot be loaded as an ONNX model: {fault}") from None
