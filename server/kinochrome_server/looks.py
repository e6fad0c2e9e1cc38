"""What a user may ask of the colours: saturation, warmth, steadiness, a seed, and reference stills.

What --reference does: the colours of the stills become a palette, and each colour that the colorizer painted is drawn
towards those colours of the palette that are near in brightness and hue; pale ones become stronger where the palette
has them strong. What is far from all the palette moves less, and grays stay nearly gray where the stills have gray of
that brightness. One fixed map of colours serves the whole film, so the palette itself never flickers; but what
flickered in the painted colours can come out up to about three times as strong where pale colours are made vivid.

What it does not do: it does not recognise things. It cannot tell that the coat in the still is the coat in the film,
nor undo what the colorizer got wrong: a meadow that was painted brown goes to the browns of the stills, if they have
any, not to their green. Stills of one hue tint the whole film, faces too: give stills that have the colours of skin,
sky and grass that are wanted, in bright, middle and dark tones.
"""

import math
import struct
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from kinochrome_proto.errors import BadSettings

Float = npt.NDArray[np.float32]

MOST_STILLS = 8
LARGEST_FILE = 32 << 20
"""Bytes of a still's file, at most."""
LARGEST_PICTURE = 64_000_000
"""Pixels of a still, at most."""
NO_COLOUR = 3 / 255
"""A still whose chroma is nowhere (but for one pixel in 500) farther from gray has none: JPEG wear is up to here."""

WARM_TINT = np.array([-0.07, 0.05], np.float32)
"""What full warmth adds to Cb and Cr of a middle gray: about the light of a lamp for daylight."""

PALETTE_SIDE = 192
"""Stills are averaged down to this many lines before their colours are counted."""
PALETTE_CELLS = (8, 19)
"""Cells of luma, and of each warped chroma, in which a palette's colours are counted."""
NODES = (13, 33)
"""Nodes of the table of the palette's map along luma, and along each warped chroma."""
WARP = 0.04
"""Chroma up to which cells and nodes lie evenly; beyond, they lie ever wider. Most of a film is pale."""
WIDEST = math.asinh(0.5 / WARP)
"""The largest chroma, 0.5, warped."""
PALE = 0.1
"""Strength of chroma that is half as far from gray as the most vivid colour could be."""
GRAY_TO_VIVID = 2.5
"""The distance of gray from a colour of endless strength, where distances of chroma are taken."""
NEAR_LUMA, NEAR_CHROMA = 0.15, 0.6
"""How far nearness reaches: in luma (0..1), and in those distances.

Wider turns a palette into a tint of the whole picture; narrower tears neighbouring colours apart.
"""
VIVID = 0.01
"""Chroma at which a colour of the palette counts twice as much as gray: or else the grays that abound win always."""
PULL = 0.9
"""Part of the way to the palette that near colours go."""
FAR = 1.2
"""Distance to the palette, in reaches of nearness, at which a colour goes half as far."""
SOFTEN = 1.2
"""Blur of the map, in nodes along chroma: how steeply it may part neighbouring colours, and raise their noise."""


@dataclass(frozen=True)
class Look:
    """What is asked of the colours. Raises BadSettings for what is out of bounds."""

    saturation: float = 1.0
    """Factor of all chroma, 0..3."""
    warmth: float = 0.0
    """-1 (cold) to 1 (warm)."""
    stabilize: float = 0.8
    """How hard colours are held steady within a shot, 0..1."""
    seed: int = 0
    """Chooses among the colourings of colorizers that know several."""
    references: tuple[bytes, ...] = ()
    """Colour stills whose palette the film is to have: contents of JPEG, PNG, WebP or TIFF files."""

    def __post_init__(self) -> None:
        for option, low, high in (("saturation", 0, 3), ("warmth", -1, 1), ("stabilize", 0, 1)):
            value = getattr(self, option)
            if not low <= value <= high:  # not a number, too
                raise BadSettings(f"--{option} {value:g} is out of bounds: use {low} to {high}")
        if not 0 <= self.seed < 1 << 63:
            raise BadSettings(f"--seed {self.seed} is out of bounds: use 0 to 2^63 - 1")
        if len(self.references) > MOST_STILLS:
            raise BadSettings(f"--reference was given {len(self.references)} times: use at most {MOST_STILLS} stills")
        for number, still in enumerate(self.references, 1):
            if len(still) > LARGEST_FILE:
                raise _bad_still(number, f"is larger than {LARGEST_FILE >> 20} MiB", "scale it down")


class Grade:
    """A look, ready for frames. Keeps nothing of them: they may come in any order, on several threads at once."""

    def __init__(self, look: Look) -> None:
        """Decodes the stills. Raises BadSettings naming the one that cannot be used, and why."""
        self.look = look
        self._table = _table(*_palette(look.references)) if look.references else None

    def __call__(self, luma: npt.NDArray[np.uint8], chroma: Float) -> Float:
        """Graded chroma of one frame.

        Args:
            luma: (h, w), full range: the frame's thumbnail.
            chroma: (2, h/s, w/s): Cb, Cr of BT.601 in -0.5..0.5.

        Returns chroma of the same shape and range; `chroma` itself where the look asks for nothing.
        """
        saturation, warmth = self.look.saturation, self.look.warmth
        if self._table is None and warmth == 0 and saturation == 1:
            return chroma
        graded = chroma
        if self._table is not None or warmth:
            lines, columns = chroma.shape[1:]
            light = cv2.resize(luma, (columns, lines), interpolation=cv2.INTER_AREA).astype(np.float32) * (1 / 255)
            if self._table is not None:
                graded = graded + _looked_up(self._table, light, graded)
            if warmth:
                # Strongest on middle tones: tinted black and white look like a fault, and have no room for it.
                tint = (light * (1 - light)) * np.float32(4 * warmth)
                graded = graded + WARM_TINT[:, np.newaxis, np.newaxis] * tint
        if saturation != 1:
            graded = graded * np.float32(saturation)
        return np.clip(graded, -0.5, 0.5)


def _bad_still(number: int, fault: str, remedy: str) -> BadSettings:
    return BadSettings(f"--reference: still {number} {fault}: {remedy}")


def _palette(stills: tuple[bytes, ...]) -> tuple[Float, Float]:
    """The stills' colours (n, 3): Y in 0..1, Cb, Cr in -0.5..0.5; and their weights (n,), adding up to 1.

    Every still counts the same, whatever its size. Colours are the averages of cells of a grid: no clustering, whose
    outcome would hang on where it starts.
    """
    lumas, sides = PALETTE_CELLS
    cells = np.zeros((lumas * sides * sides, 4))
    for number, still in enumerate(stills, 1):
        colours = _colours(still, number)
        rank = np.minimum((colours[:, 0] * lumas).astype(int), lumas - 1)
        for channel in (1, 2):
            rank = rank * sides + np.rint((_warped(colours[:, channel]) / WIDEST + 1) / 2 * (sides - 1)).astype(int)
        share = 1 / len(colours) / len(stills)
        for column, values in enumerate((np.ones(len(colours)), *colours.T)):
            cells[:, column] += np.bincount(rank, values * share, len(cells))
    cells = cells[cells[:, 0] > 0]
    return (cells[:, 1:] / cells[:, :1]).astype(np.float32), cells[:, 0].astype(np.float32)


def _table(colours: Float, weights: Float) -> Float:
    """(Y, Cb, Cr, 2): what the palette adds to Cb and Cr, at nodes even in luma and warped chroma.

    Kernel regression (Nadaraya and Watson, 1964): each node is drawn to the mean of the palette's chroma, weighted
    by nearness. Smooth by construction, so neighbouring colours stay neighbours.
    """
    lumas, sides = NODES
    light = np.linspace(0, 1, lumas, dtype=np.float32)
    axis = WARP * np.sinh(np.linspace(-WIDEST, WIDEST, sides)).astype(np.float32)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    strength = np.hypot(colours[:, 1], colours[:, 2])
    # Square root: many pixels of a colour make it weigh more, but not so much that it swallows the rare ones.
    log_weight = np.log(np.sqrt(weights) * (1 + strength / VIVID))
    log_weight -= log_weight.max()
    apart = ((_nearness_space(grid)[:, np.newaxis] - _nearness_space(colours[:, 1:])) ** 2).sum(2) / NEAR_CHROMA**2
    table = np.empty((lumas, sides, sides, 2), np.float32)
    for index, level in enumerate(light):
        squared = apart + ((level - colours[:, 0]) / NEAR_LUMA) ** 2
        closeness = log_weight - squared / 2
        share = np.exp(closeness - closeness.max(1, keepdims=True))  # in every row, one is 1
        mean = share @ colours[:, 1:] / share.sum(1, keepdims=True)
        pull = PULL / (1 + squared.min(1) / FAR**2)
        step = ((mean - grid) * pull[:, np.newaxis]).reshape(sides, sides, 2)
        table[index] = cv2.GaussianBlur(step, (0, 0), SOFTEN, borderType=cv2.BORDER_REPLICATE)
    return table


def _looked_up(table: Float, luma: Float, chroma: Float) -> Float:
    """Trilinear interpolation: luma (h, w) and chroma (2, h, w) -> (2, h, w)."""
    lumas, sides = NODES
    middle = np.float32((sides - 1) / 2)
    at = np.empty((3, luma.size), np.float32)
    at[0] = luma.ravel() * (lumas - 1)
    at[1:] = _warped(chroma.reshape(2, -1)) * (middle / WIDEST) + middle
    np.clip(at[1:], 0, sides - 1.001, out=at[1:])
    np.clip(at[0], 0, lumas - 1.001, out=at[0])
    low = at.astype(np.int32)
    part: Float = at - low.astype(np.float32)
    base = (low[0] * sides + low[1]) * sides + low[2]
    flat = table.reshape(-1, 2)
    found: Float = np.zeros((luma.size, 2), np.float32)
    for corner in range(8):
        steps = corner >> 2, corner >> 1 & 1, corner & 1
        weights = [fraction if step else 1 - fraction for step, fraction in zip(steps, part, strict=True)]
        weight = weights[0] * weights[1] * weights[2]
        offset = (steps[0] * sides + steps[1]) * sides + steps[2]
        found += flat[base + offset] * weight[:, np.newaxis]
    return found.T.reshape(2, *luma.shape)


def _warped(chroma: Float) -> Float:
    """Chroma with the pale drawn out and the vivid drawn together."""
    warped: Float = np.arcsinh(chroma * np.float32(1 / WARP))
    return warped


def _nearness_space(chroma: Float) -> Float:
    """(n, 2) chroma -> points whose distances tell how near two colours are.

    Hue is kept; strength is compressed so that it tells gray from pale, but pale from vivid hardly: a colorizer that
    is not sure paints pale, and its half-strength brown must be near to the full brown of a still.
    """
    strength = np.hypot(chroma[:, 0], chroma[:, 1])[:, np.newaxis]
    placed: Float = chroma * (np.float32(GRAY_TO_VIVID) / (strength + np.float32(PALE)))
    return placed


def _colours(still: bytes, number: int) -> Float:
    """A still's pixels (n, 3): Y, Cb, Cr, averaged down."""
    size = _stated_size(still)
    if size is None:
        raise _bad_still(number, "is no picture that can be read", "use JPEG, PNG, WebP or TIFF")
    width, height = size
    if width * height > LARGEST_PICTURE:
        raise _bad_still(
            number, f"has {width}x{height} pixels", f"scale it to {LARGEST_PICTURE // 10**6} million pixels or fewer"
        )
    try:
        picture = cv2.imdecode(np.frombuffer(still, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        picture = None
    if picture is None:
        raise _bad_still(number, "is damaged", "give another copy")
    scale = PALETTE_SIDE / min(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    blue, green, red = picture.reshape(-1, 3).astype(np.float32).T / 255
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    colours = np.stack((luma, (blue - luma) / 1.772, (red - luma) / 1.402), 1)
    if np.quantile(np.hypot(colours[:, 1], colours[:, 2]), 0.998) < NO_COLOUR:
        raise _bad_still(number, "has no colour", "use colour stills")
    return colours


def _stated_size(still: bytes) -> tuple[int, int] | None:
    """Width and height as the file's header says, before anything is decoded; None for what is none of our formats."""
    if still.startswith(b"\x89PNG\r\n\x1a\n") and len(still) >= 24:
        width, height = struct.unpack_from(">II", still, 16)
        return width, height
    if still.startswith(b"\xff\xd8"):
        return _jpeg_size(still)
    if still[:4] == b"RIFF" and still[8:12] == b"WEBP" and len(still) >= 30:
        return _webp_size(still)
    if still[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_size(still)
    return None


def _jpeg_size(still: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(still):
        mark, kind, length = struct.unpack_from(">BBH", still, at)
        if mark != 0xFF:
            return None
        if kind == 0xFF:  # padding
            at += 1
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # a start of frame, of any coding
            height, width = struct.unpack_from(">HH", still, at + 5)
            return width, height
        else:
            at += 2 + length
    return None


def _webp_size(still: bytes) -> tuple[int, int] | None:
    kind = still[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(still[24:27], "little"), 1 + int.from_bytes(still[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(still[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", still, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff_size(still: bytes) -> tuple[int, int] | None:
    order = "<" if still[:1] == b"I" else ">"
    size: dict[int, int] = {}
    try:
        (at,) = struct.unpack_from(f"{order}I", still, 4)
        (count,) = struct.unpack_from(f"{order}H", still, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", still, entry)
            if tag in (256, 257):  # width, height
                (size[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", still, entry + 8)
    except struct.error:
        return None
    return (size[256], size[257]) if len(size) == 2 else None
