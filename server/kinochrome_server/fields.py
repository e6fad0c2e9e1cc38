"""Interlaced film: which field comes first, marking frames with it, finding fields nobody marked, deinterlacing.

The field order is "" (progressive), "tff" (the top field is shown first) or "bff".
"""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av.error
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from .planes import FULL, LIMITED, Picture, Plane

PROGRESSIVE, TOP_FIRST, BOTTOM_FIRST = "", "tff", "bff"

_Field = npt.NDArray[np.int32]

# What libav's bwdif takes of the formats that luma is read in.
_DEINTERLACED = (
    {"gray", "gray16le"}
    | {f"yuv{grid}p" for grid in ("410", "411", "420", "422", "440", "444")}
    | {f"yuvj{grid}p" for grid in ("411", "420", "422", "440", "444")}
    | {f"yuv{grid}p{depth}le" for grid in ("420", "422", "444") for depth in (9, 10, 12, 14, 16)}
    | {f"yuva{grid}p{depth}" for grid in ("420", "422", "444") for depth in ("", "9le", "10le", "16le")}
)


def marked(frame: VideoFrame) -> str:
    """The field order that a decoded frame carries."""
    if not frame.interlaced_frame:
        return PROGRESSIVE
    # PyAV tells that a frame is interlaced but not its order; a filter's expressions can.
    chosen = _Filter(frame.format.name, frame.width, frame.height, Fraction(1), r"select=eq(interlace_type\,TOPFIRST)")
    return TOP_FIRST if [*chosen.push(frame), *chosen.flush()] else BOTTOM_FIRST


class FieldMarker:
    """Marks frames, which PyAV cannot do itself, as interlaced. The samples are not touched, nor copied."""

    def __init__(self, width: int, height: int, format: str, time_base: Fraction, order: str) -> None:
        """`order` is "tff" or "bff"."""
        self._filter = _Filter(format, width, height, time_base, f"setfield={order}")

    def mark(self, frame: VideoFrame) -> VideoFrame:
        """The same picture, marked."""
        [same] = self._filter.push(frame)
        return same


def deinterlaced(picture: Picture) -> Picture:
    """What `Deinterlacer` makes of such pictures: progressive ones, in nearly every case of the same format."""
    format = picture.working_format
    if format not in _DEINTERLACED:
        depth = "" if picture.depth == 8 else f"{picture.depth}le"
        format = f"yuv420p{depth}" if format.startswith("gray") else f"yuv444p{depth}"
    return replace(picture, pix_fmt=format, working_format=format, field_order=PROGRESSIVE, is_rgb=False)


class Deinterlacer:
    """Makes whole frames of fields, one for each, at the same times: libav's bwdif, which looks one frame ahead.

    Frames keep their times, colour tags and `opaque`. Lines of the field that is shown first stay as they are.
    """

    def __init__(self, picture: Picture, time_base: Fraction) -> None:
        """
        Args:
            picture: of the frames to come; its field order, where it has none, is read off every frame.
            time_base: seconds per tick of their timestamps.
        """
        self._source, self._format = picture, deinterlaced(picture).pix_fmt
        self._time_base = time_base
        self._start()

    def push(self, frame: VideoFrame) -> list[VideoFrame]:
        """Take a frame; give those that are ready: none at first, then one for each."""
        if self._source.is_rgb:
            frame = frame.reformat(format=self._format, dst_colorspace=self._source.matrix, dst_color_range=LIMITED)
        elif frame.format.name != self._format:
            # libav is told the same range twice, whichever it is: samples are moved, not changed
            frame = frame.reformat(format=self._format, src_color_range=FULL, dst_color_range=FULL)
        frame.time_base = self._time_base
        return [self._timed(made) for made in self._filter.push(frame)]

    def flush(self) -> list[VideoFrame]:
        """The frames that are left. After this the next film, or segment, may begin."""
        rest = [self._timed(made) for made in self._filter.flush()]
        self._start()
        return rest

    def _start(self) -> None:
        parity = self._source.field_order or "auto"
        self._filter = _Filter(
            self._format,
            self._source.width,
            self._source.height,
            self._time_base,
            f"bwdif=mode=send_frame:parity={parity}:deint=all",
        )

    def _timed(self, frame: VideoFrame) -> VideoFrame:
        # bwdif counts in half ticks, for those who want a frame of each field
        if frame.pts is not None:
            frame.pts //= 2
        frame.time_base = self._time_base
        return frame


STILL = 0.03
"""Share by which wrong weaves must comb more than the best one before a pair of frames tells anything."""
MIN_PAIRS = 4
"""Telling pairs of frames below which nothing is claimed."""
MIN_LINES = 64
"""Of a picture, below which nothing is claimed either: no interlaced film is so small."""


def field_order_of(lumas: Iterable[Plane]) -> str:
    """The field order seen in consecutive luma planes (H, W), marked or not; progressive when in doubt.

    Fields of a pair of frames can be woven in three ways: each frame's own two; the first's bottom with the second's
    top; the first's top with the second's bottom. Where things move, weaves comb by how far apart in time their
    fields are: for whole frames 0, 1, 1 frame; top field first ½, ½, 1½; bottom field first ½, 1½, ½. Detail, grain,
    flicker and jitter add to all three alike, so they raise no false alarms.
    """
    seen = {PROGRESSIVE: 0, TOP_FIRST: 0, BOTTOM_FIRST: 0}
    for (top, bottom), (next_top, next_bottom) in pairwise(map(_fields, lumas)):
        own = (_combing(top, bottom) + _combing(next_top, next_bottom)) / 2
        top_after, bottom_after = _combing(next_top, bottom), _combing(top, next_bottom)
        near, far = min(top_after, bottom_after), max(top_after, bottom_after)
        if far <= own * (1 + STILL):
            continue  # nothing moves
        if (near - own) / (far - own) > 1 / 3:
            seen[PROGRESSIVE] += 1
        else:
            seen[TOP_FIRST if top_after < bottom_after else BOTTOM_FIRST] += 1
    order = max(seen, key=lambda kind: seen[kind])
    return order if sum(seen.values()) >= MIN_PAIRS and 2 * seen[order] > sum(seen.values()) else PROGRESSIVE


def _fields(luma: Plane) -> tuple[_Field, _Field]:
    columns = max(1, luma.shape[1] // 480)  # some hundred columns tell as much as all
    lines = luma[: luma.shape[0] // 2 * 2, ::columns].astype(np.int32)
    return lines[0::2], lines[1::2]


def _combing(top: _Field, bottom: _Field) -> float:
    """By how much lines stray from the mean of their neighbours in a weave of these two fields, twofold."""
    if 2 * len(top) < MIN_LINES:
        return 0.0
    between_top = np.abs(2 * bottom[:-1] - top[:-1] - top[1:]).mean()
    between_bottom = np.abs(2 * top[1:] - bottom[:-1] - bottom[1:]).mean()
    return float(between_top + between_bottom)


class _Filter:
    """A filter of libav between one source and one sink, on one thread."""

    def __init__(self, format: str, width: int, height: int, time_base: Fraction, filter: str) -> None:
        self._graph = Graph()
        self._graph.threads = 1
        source = self._graph.add_buffer(width=width, height=height, format=VideoFormat(format), time_base=time_base)
        name, _, arguments = filter.partition("=")
        middle, sink = self._graph.add(name, arguments), self._graph.add("buffersink")
        source.link_to(middle)
        middle.link_to(sink)
        self._graph.configure()

    def push(self, frame: VideoFrame) -> list[VideoFrame]:
        self._graph.vpush(frame)
        return self._ready()

    def flush(self) -> list[VideoFrame]:
        self._graph.vpush(None)
        return self._ready()

    def _ready(self) -> list[VideoFrame]:
        frames = []
        while True:
            try:
                frames.append(self._graph.vpull())
            except (av.error.BlockingIOError, av.error.EOFError):
                return frames
