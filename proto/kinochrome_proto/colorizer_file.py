"""Colorizer files: ONNX models, sealed. Reading and sealing them, by their bytes alone.

A file ends in its seal: one more metadata entry, `kinochrome.sha256`, the SHA-256 of all bytes before it. So whatever
changes in it shows, graph, weights or what it says of itself. The seal tells of damage; it is no signature.

Whoever loads a file into a runtime reads it with `read` first: files come from strangers, and a runtime that is given
one may open other files, loop or crash.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from . import graph_check
from .errors import BadColorizer, UnknownColorizer
from .kinochrome.onnx.v1.model_pb2 import Entry, Model
from .manifest import PREFIX, Manifest

MAX_BYTES = 512 * 2**20
"""Of a file. The largest generator of the family, a U-Net of 54 million weights, takes 218 MB."""
SHA256 = "sha256"
_FIRST_BYTE = b"\x08"  # the tag of ir_version, which every writer of ONNX puts first
_ORT_FORMAT = b"ORTM"  # of ONNX Runtime's own format, at byte 4: it would not be read as the ONNX that was checked
_STRANGERS = {
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"PK\x03\x04": "a zip archive (a PyTorch checkpoint, perhaps)",
    b"\x80\x02": "a Python pickle (a PyTorch checkpoint, perhaps)",
    b"\x1f\x8b": "a gzip archive",
}


@dataclass(frozen=True)
class Colorizer:
    """A colorizer file that was read and found sound."""

    path: Path
    content: bytes
    manifest: Manifest
    sha256: str
    """Of the whole file, in lower-case hexadecimal."""

    @property
    def name(self) -> str:
        return self.path.stem


def read(path: Path) -> Colorizer:
    """The colorizer in a file.

    Raises UnknownColorizer when it cannot be read, BadColorizer when it is none, is damaged, or is not to be trusted.
    """
    try:
        if not path.is_file() and path.exists():
            raise UnknownColorizer(f"colorizer {path} cannot be read: it is not a file")
        _refuse_huge(path.stat().st_size, str(path))
        content = path.read_bytes()
    except OSError as error:
        raise UnknownColorizer(f"colorizer {path} cannot be read: {error.strerror}") from None
    return Colorizer(path, content, *_checked(content, str(path)))


def check(content: bytes, file: str) -> Manifest:
    """What a colorizer file says of itself. Raises BadColorizer, naming `file`, when it is not sound."""
    return _checked(content, file)[0]


def _checked(content: bytes, file: str) -> tuple[Manifest, str]:
    """The manifest, and the SHA-256 of it all."""
    _refuse_huge(len(content), file)
    if stranger := _stranger(content):
        raise BadColorizer(f"{file} is {stranger}, not an ONNX model: make a colorizer with `kinochrome export`")
    end = content[-_SEAL_BYTES:]
    hashed = hashlib.sha256(memoryview(content)[:-_SEAL_BYTES])
    is_whole = end == _seal(hashed.hexdigest())
    hashed.update(end)
    if not is_whole and _SEAL_KEY in end:
        raise BadColorizer(f"{file} is damaged or was changed: its checksum does not match; get it or export it again")
    try:
        model = Model.FromString(content)
    except DecodeError:
        raise BadColorizer(f"{file} is damaged, or no ONNX model: it cannot be parsed") from None
    keys = [entry.key for entry in model.metadata_props]
    if len(set(keys)) != len(keys):
        raise BadColorizer(f"{file}: its metadata is damaged, it says things twice; export it again")
    manifest = Manifest.from_metadata({entry.key: entry.value for entry in model.metadata_props}, file)
    if not is_whole:
        raise BadColorizer(f"{file} lacks its checksum: it is cut off or was changed; get it or export it again")
    graph_check.check(model, manifest, file)
    return manifest, hashed.hexdigest()


def seal(content: bytes) -> bytes:
    """A serialised ONNX model without a seal -> the same with one."""
    return content + _seal(hashlib.sha256(content).hexdigest())


def _seal(digest: str) -> bytes:
    """The metadata entry that holds a SHA-256, as it lies in the file."""
    return Model(metadata_props=[Entry(key=PREFIX + SHA256, value=json.dumps(digest))]).SerializeToString()


_SEAL_BYTES = len(_seal("0" * 64))
_SEAL_KEY = (PREFIX + SHA256).encode()


def _refuse_huge(size: int, file: str) -> None:
    if size > MAX_BYTES:
        raise BadColorizer(f"{file} has over {MAX_BYTES >> 20} MiB, more than any colorizer")


def _stranger(content: bytes) -> str | None:
    """What a file is that does not begin as ONNX models do; None of one that does."""
    if not content:
        return "empty"
    for magic, what in _STRANGERS.items():
        if content.startswith(magic):
            return what
    if content[8:9] == b"{" and content[:8].endswith(b"\0\0"):
        return "a safetensors file"
    if content[4:8] == _ORT_FORMAT:
        return "in ONNX Runtime's own format"
    if content.startswith(_FIRST_BYTE):
        return None
    return "text" if content[:256].isascii() and b"\0" not in content[:256] else "something else"
