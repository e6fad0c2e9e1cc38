"""What a colorizer file says of itself: metadata inside the ONNX file, written by export, read by the server.

Each field is one metadata entry `kinochrome.<field>` whose value is JSON.

The graph takes one tensor, `luma`: (N, 1, H, W) uint8, full range (0 black, 255 white), H and W multiples of
`size_multiple`; it gives one, `chroma`: (N, 2, H / chroma_stride, W / chroma_stride) float32, (Cb, Cr) in
-0.5..0.5 in the encoding that `chroma_encoding` names. Where `noise_length` is not 0 it also takes `noise`:
(N, noise_length) float32, standard normal, which chooses one of many colourings.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import BadColorizer

FORMAT_VERSION = 1
MAX_SIZE = 8192  # pixels
LUMA, NOISE, CHROMA = "luma", "noise", "chroma"  # names of the graph's inputs and output
CHROMA_ENCODINGS = ("ycbcr-bt601-full",)
_PREFIX = "kinochrome."


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
    """Figures on held-out stills; empty when none were taken."""
    parity: dict[str, Any] = field(default_factory=dict)
    """Largest and mean difference from the trained network, in 8-bit code values, as measured at export."""
    format_version: int = FORMAT_VERSION

    def to_metadata(self) -> dict[str, str]:
        """The entries to store in the file."""
        return {_PREFIX + name: json.dumps(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], file: str) -> "Manifest":
        """Read it back. Raises BadColorizer, naming `file`, when it is missing, damaged or too new."""
        entries = {key.removeprefix(_PREFIX): text for key, text in metadata.items() if key.startswith(_PREFIX)}
        if "format_version" not in entries:
            raise BadColorizer(f"{file} is no colorizer: make one with `kinochrome export`")
        try:
            values = {name: json.loads(text) for name, text in entries.items()}
        except ValueError:
            raise BadColorizer(f"{file}: its metadata is damaged; export it again") from None
        if values["format_version"] != FORMAT_VERSION:
            raise BadColorizer(
                f"{file} has format version {values['format_version']}, this program reads {FORMAT_VERSION}"
            )
        known = {item.name: item for item in dataclasses.fields(cls)}
        required = {name for name, item in known.items() if item.default is item.default_factory}  # both MISSING
        if missing := sorted(required - values.keys()):
            raise BadColorizer(f"{file} lacks {', '.join(missing)} in its metadata; export it again")
        manifest = cls(**{name: value for name, value in values.items() if name in known})
        for name in ("working_size", "size_multiple", "chroma_stride"):
            value = getattr(manifest, name)
            if not isinstance(value, int) or not 1 <= value <= MAX_SIZE:
                raise BadColorizer(f"{file}: {name} is {value!r}, not a number of 1 to {MAX_SIZE}; export it again")
        if manifest.chroma_encoding not in CHROMA_ENCODINGS:
            raise BadColorizer(f"{file} gives chroma as {manifest.chroma_encoding!r}, which this program does not know")
        return manifest
