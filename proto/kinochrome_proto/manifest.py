"""What a colorizer file says of itself: metadata inside the ONNX file, written by export, read by the server.

Each field is one metadata entry `kinochrome.<field>` whose value is JSON. The checksum is one more: see `seal`.

The graph takes one tensor, `luma`: (N, 1, H, W) uint8, full range (0 black, 255 white), H and W multiples of
`size_multiple`; it gives one, `chroma`: (N, 2, H / chroma_stride, W / chroma_stride) float32, (Cb, Cr) in
-0.5..0.5 in the encoding that `chroma_encoding` names. Where `noise_length` is not 0 it also takes `noise`:
(N, noise_length) float32, standard normal, which chooses one of many colourings.
"""

import dataclasses
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_origin

from .errors import BadColorizer

FORMAT_VERSION = 2
MAX_SIZE = 8192  # pixels, and numbers of noise
MAX_MULTIPLE = 1024  # pixels: ten halvings
MAX_TEXT = 200  # characters
MAX_LEVELS = 16  # of tables in tables
LUMA, NOISE, CHROMA = "luma", "noise", "chroma"  # names of the graph's inputs and output
CHROMA_ENCODINGS = ("ycbcr-bt601-full",)
PRECISIONS = ("fp32", "fp16", "int8")
PREFIX = "kinochrome."
_KINDS: dict[object, str] = {str: "a text", int: "a whole number", dict: "a table"}


@dataclass(frozen=True)
class Manifest:
    """The metadata of a colorizer file."""

    family: str
    """The system that trained it, such as "pix2pix"."""
    working_size: int
    """Lines to which the short side of a frame is brought, in pixels."""
    size_multiple: int
    """Height and width of the luma must be multiples of this."""
    chroma_stride: int
    """How many lines of luma share one line of chroma."""
    chroma_encoding: str
    """What the output's numbers mean; one of CHROMA_ENCODINGS."""
    licence: str
    """SPDX identifier of the weights' licence."""
    noise_length: int = 0
    """Length of the style-noise input; 0 for a deterministic colorizer."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """The training recipe, whole, and what it was trained on."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """Figures on held-out stills, of the fp32 network whatever the precision; empty when none were taken."""
    parity: dict[str, Any] = field(default_factory=dict)
    """Largest and mean difference from the trained network, in 8-bit code values, as measured at export; `probe`."""
    precision: str = "fp32"
    """Of its weights and sums; one of PRECISIONS."""
    precision_loss: dict[str, Any] = field(default_factory=dict)
    """What another precision than fp32 cost, measured against fp32."""
    format_version: int = FORMAT_VERSION

    @property
    def working_side(self) -> int:
        """Pixels of the short side that pictures are brought to: the multiple that is nearest to `working_size`."""
        return self.size_multiple * max(1, round(self.working_size / self.size_multiple))

    def to_metadata(self) -> dict[str, str]:
        """The entries to store in the file."""
        return {PREFIX + name: json.dumps(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], file: str) -> "Manifest":
        """Read it back. Raises BadColorizer, naming `file`, when it is missing, damaged or too new."""
        entries = {key.removeprefix(PREFIX): text for key, text in metadata.items() if key.startswith(PREFIX)}
        if "format_version" not in entries:
            raise BadColorizer(f"{file} is an ONNX model but no colorizer: make one with `kinochrome export`")
        try:
            values = {name: json.loads(text) for name, text in entries.items()}
            if not all(map(_is_shallow, values.values())):
                raise ValueError
        except (ValueError, RecursionError):
            raise BadColorizer(f"{file}: its metadata is damaged; export it again") from None
        if values["format_version"] != FORMAT_VERSION:
            raise BadColorizer(
                f"{file} has format version {_said(values['format_version'])}, this program reads {FORMAT_VERSION}: "
                "export it again, or use the release of Kinochrome that made it"
            )
        known = {item.name: item for item in dataclasses.fields(cls)}
        required = {name for name, item in known.items() if item.default is item.default_factory}  # both MISSING
        if missing := sorted(required - values.keys()):
            raise BadColorizer(f"{file} lacks {', '.join(missing)} in its metadata; export it again")
        for name, item in known.items():
            kind = get_origin(item.type) or item.type
            if name in values and type(values[name]) is not kind:
                raise BadColorizer(f"{file}: {name} is {_said(values[name])}, not {_KINDS[kind]}; export it again")
        manifest = cls(**{name: value for name, value in values.items() if name in known})
        manifest._check(file)
        return manifest

    def _check(self, file: str) -> None:
        for name in ("family", "licence"):
            text = getattr(self, name)
            if len(text) > MAX_TEXT or not text.isprintable():
                raise BadColorizer(
                    f"{file}: {name} is {_said(text)}, not a line of at most {MAX_TEXT} characters; export it again"
                )
        for name, least, most in (
            ("working_size", 1, MAX_SIZE),
            ("size_multiple", 1, MAX_MULTIPLE),
            ("chroma_stride", 1, MAX_MULTIPLE),
            ("noise_length", 0, MAX_SIZE),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise BadColorizer(
                    f"{file}: {name} is {_said(value)}, not a number of {least} to {most}; export it again"
                )
        if self.size_multiple % self.chroma_stride:
            raise BadColorizer(
                f"{file}: size_multiple, {self.size_multiple}, is no multiple of chroma_stride, {self.chroma_stride}; "
                "export it again"
            )
        for name, value, choices in (
            ("chroma_encoding", self.chroma_encoding, CHROMA_ENCODINGS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in choices:
                raise BadColorizer(
                    f"{file}: {name} is {_said(value)}, and this program knows {', '.join(choices)}; export it again"
                )


def _is_shallow(value: object, levels: int = MAX_LEVELS) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)


def _said(value: object) -> str:
    """What strangers wrote, on one line of moderate length."""
    return reprlib.repr(value)
