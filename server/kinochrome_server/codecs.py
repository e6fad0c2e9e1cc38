"""Video codecs and containers that coloured film can be written in. A new one is a row here."""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import av.error
import cv2
from av.codec.context import Flags
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinochrome_proto.errors import BadSettings

from .facts import Facts
from .fields import FieldMarker
from .planes import FULL, LIMITED, UNSPECIFIED, chroma_shape, depth_of, encodable_formats, output_format

os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 writes to stderr, past libav: of errors alone, then

Options = tuple[tuple[str, str], ...]
"""Of an encoder; not a dict, so that what holds them can be a key."""


@dataclass(frozen=True)
class Codec:
    """An encoder and how it is run.

    Every encoder runs on one thread: the bytes of a segment must not depend on the machine's cores, and it is
    segments that are spread over them.
    """

    name: str
    encoder: str
    options: Options
    """With which it is opened."""
    crf: tuple[int, int] | None = None
    """Best and worst quality that may be asked for; None of encoders without that scale."""
    preset_option: str = ""
    """The encoder's name for a preset."""
    presets: tuple[str, ...] = ()
    """Names of presets, fastest or smallest first."""
    formats: tuple[str, ...] = ()
    """Pixel formats that its preset takes; () is all that the encoder takes."""
    keeps_fields: bool = False
    """Whether it codes interlaced frames as such and says so."""
    keeps_shape: bool = False
    """Whether its own stream tells the shape of pixels, in containers that are not told it."""
    reorder: int = 0
    """Frames by which decoding runs ahead of showing, where libav does not tell."""

    def with_settings(self, crf: int | None, preset: str) -> Codec:
        """The same with another quality and preset; None and "" leave them as they are. Raises BadSettings."""
        options, formats = dict(self.options), self.formats
        if crf is not None:
            if self.crf is None:
                scaled = ", ".join(codec.name for codec in CODECS.values() if codec.crf)
                remedy = "its quality goes by --preset" if self.presets else "it is lossless"
                raise BadSettings(f"codec {self.name} has no --crf: {remedy}; those that have one: {scaled}")
            best, worst = self.crf
            if not best <= crf <= worst:
                raise BadSettings(f"--crf {crf} is out of range for {self.name}: {best} (best) to {worst}")
            options["crf"] = str(crf)
        if preset:
            if not self.presets:
                raise BadSettings(f"codec {self.name} has no presets: leave out --preset")
            if preset not in self.presets:
                raise BadSettings(f"{self.name} has no preset {preset!r}: choose from {', '.join(self.presets)}")
            options[self.preset_option] = preset
            if self.name == "prores":
                formats = _PRORES_444 if preset in ("4444", "4444xq") else _PRORES_422
        return replace(self, options=tuple(options.items()), formats=formats)

    def with_fields(self, order: str) -> Codec:
        """The same for interlaced film of this field order; "" changes nothing."""
        if not order or self.encoder != "libx264":
            return self
        # libav tells x264 the order with each frame, too late for its header, which would say top first
        options = dict(self.options)
        options["x264-params"] = ":".join(filter(None, (options.get("x264-params"), f"{order}=1")))
        return replace(self, options=tuple(options.items()))

    def encodable(self) -> list[str]:
        """Names of the pixel formats it takes."""
        return [name for name in encodable_formats(self.encoder) if not self.formats or name in self.formats]


AVX2, AVX512 = 11, 13
"""OpenCV's numbers of processor features."""


def _x264_params() -> Options:
    """On processors with AVX-512, x264 up to its AVX2 code.

    Its AVX-512 macroblock-tree code reads memory that nobody wrote: the same frames gave other bytes from run to
    run (tests/server/test_codecs.py shows it). The names of features replace x264's own detection, so they are
    given only where the processor is known to have them.
    """
    newest = cv2.checkHardwareSupport(AVX512) and cv2.checkHardwareSupport(AVX2)
    return (("x264-params", "asm=avx2"),) if newest else ()


_X26X_PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow", "placebo"),
)
_PRORES_422, _PRORES_444 = ("yuv422p10le",), ("yuv444p10le",)

CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec(
            "h264",
            "libx264",
            (("preset", "veryfast"), ("crf", "18"), *_x264_params()),
            crf=(0, 51),
            preset_option="preset",
            presets=_X26X_PRESETS,
            keeps_fields=True,
            keeps_shape=True,
        ),
        Codec(
            "h265",
            "libx265",
            (
                ("preset", "fast"),
                ("crf", "20"),
                ("x265-params", "log-level=none:pools=none:frame-threads=1:open-gop=0"),
            ),
            crf=(0, 51),
            preset_option="preset",
            presets=_X26X_PRESETS,
            keeps_shape=True,
            reorder=2,  # B-frames that others lean on, in every preset; libav says 0
        ),
        Codec(
            "av1",
            "libsvtav1",
            (("preset", "8"), ("crf", "27"), ("svtav1-params", "lp=1")),
            crf=(1, 63),  # libav takes 0 for "not given"
            preset_option="preset",
            presets=tuple(str(step) for step in range(13, -1, -1)),
        ),
        Codec(
            "vp9",
            "libvpx-vp9",
            (("deadline", "good"), ("cpu-used", "4"), ("crf", "24"), ("b", "0"), ("row-mt", "0")),
            crf=(0, 63),
            preset_option="cpu-used",
            presets=("5", "4", "3", "2", "1", "0"),  # in this mode 6 to 8 are the same as 5
        ),
        Codec(
            "prores",
            "prores_ks",
            (("profile", "hq"),),
            preset_option="profile",
            presets=("proxy", "lt", "standard", "hq", "4444", "4444xq"),
            formats=_PRORES_422,
            keeps_fields=True,
        ),
        Codec("ffv1", "ffv1", (("level", "3"), ("slicecrc", "1"), ("g", "1")), keeps_fields=True),
    )
}

FINEST_CLOCK = 10_000_000
"""Ticks a second of an MP4 file's clock, at most."""


@dataclass(frozen=True)
class Container:
    """A file format and how it is written while its bytes are already on their way."""

    name: str
    format: str
    """libav's name."""
    codecs: tuple[str, ...]
    """Names of those that it holds, the usual one first."""
    options: dict[str, str] = field(default_factory=dict)
    keeps_shape: bool = False
    """Whether it tells the shape of pixels whatever the codec."""

    @property
    def default_codec(self) -> str:
        return self.codecs[0]

    def tag(self, stream: VideoStream, codec: Codec) -> None:
        """Name the codec of an output stream, not open yet, as players expect it."""
        if codec.name == "h265" and self.format in ("mp4", "mov"):
            stream.codec_context.codec_tag = "hvc1"  # Apple's players take no hev1, which is libav's choice

    def options_for(self, time_base: Fraction, sample_rates: Sequence[int]) -> dict[str, str]:
        """Options for a film of this time base and sound of these sample rates."""
        # bitexact leaves out random identifiers: the same film gives the same bytes. flush_packets lets no finished
        # fragment wait in a buffer for the next one.
        options = {"fflags": "+bitexact", "flush_packets": "1", **self.options}
        if self.format in ("mp4", "mov"):
            # MP4 keeps where a stream starts in units of the whole movie's clock, by default milliseconds: too
            # coarse for exact times. A clock that all streams divide is exact, as far as it stays a sane number.
            clock = 1000
            for rate in (time_base.denominator, *sample_rates):
                if math.lcm(clock, rate) <= FINEST_CLOCK:
                    clock = math.lcm(clock, rate)
            options["movie_timescale"] = str(clock)
        return options


# Fragments while it grows, so that it plays while it is made; an ordinary index at its end once complete.
# The first header waits for the first packets (delay_moov), for only they tell where each stream starts.
_GROWING_MP4 = {"movflags": "+hybrid_fragmented+delay_moov+default_base_moof+frag_keyframe"}

CONTAINERS: dict[str, Container] = {
    container.name: container
    for container in (
        Container("mp4", "mp4", ("h264", "h265", "av1", "vp9", "ffv1"), _GROWING_MP4, keeps_shape=True),
        Container("mov", "mov", ("h264", "h265", "prores"), _GROWING_MP4, keeps_shape=True),
        # Matroska stores no decoding times, so the negative ones of B-frames need no shift of the whole film.
        Container(
            "mkv",
            "matroska",
            ("h264", "h265", "av1", "vp9", "prores", "ffv1"),
            {"avoid_negative_ts": "disabled"},
        ),
        Container("webm", "webm", ("vp9", "av1"), {"avoid_negative_ts": "disabled"}),
    )
}


@dataclass(frozen=True)
class Encoding:
    """What a film's segments are encoded with: all that an encoder needs to be opened."""

    codec: Codec
    pix_fmt: str
    facts: Facts
    width: int
    """Of the output, in pixels."""
    height: int

    @classmethod
    def of(cls, codec: Codec, facts: Facts, *, pix_fmt: str = "", size: tuple[int, int] | None = None) -> Encoding:
        """How to encode a film.

        Args:
            codec: what `choose_codec` gave.
            facts: of the film; of its picture after deinterlacing, where that is done.
            pix_fmt: output format; "" keeps the luma's depth, or the next deeper one, and the chroma grid.
            size: width and height of the output, where they are not the film's.

        Raises BadSettings for a format that the codec does not take, when it cannot hold the film's luma, and when
        chroma samples would straddle two pictures of a larger output.
        """
        encodable, picture = codec.encodable(), facts.picture
        format = pix_fmt or output_format(picture, encodable)
        if format is None:
            deeper = [
                other.name
                for other in CODECS.values()
                if any(depth_of(name) >= picture.depth for name in other.encodable())
            ]
            raise BadSettings(
                f"codec {codec.name} cannot hold {picture.depth}-bit luma of this film ({picture.pix_fmt}): "
                f"use --codec {_either(deeper)}, or a lower depth by --pix-fmt"
            )
        if format not in encodable:
            raise BadSettings(f"{codec.name} cannot write --pix-fmt {format}: choose from {', '.join(encodable)}")
        width, height = size or (picture.width, picture.height)
        rows, columns = chroma_shape(picture.width, picture.height, format)
        if chroma_shape(width, height, format) != (rows * height // picture.height, columns * width // picture.width):
            raise BadSettings(
                f"{codec.name} cannot show pictures of {picture.width}x{picture.height} side by side as {format}: "
                "use --codec ffv1 with --pix-fmt yuv444p"
            )
        return cls(codec.with_fields(picture.field_order), format, facts, width, height)

    @property
    def depth(self) -> int:
        """Bits of an output sample."""
        return depth_of(self.pix_fmt)

    @property
    def field_order(self) -> str:
        """Which the output is coded and marked with; "" where film or codec have none."""
        return self.facts.picture.field_order if self.codec.keeps_fields else ""

    def caveats(self, container: Container) -> Iterator[str]:
        """What of this film will not come through whole, in words for the user."""
        picture = self.facts.picture
        if self.depth < picture.depth:
            yield f"luma is rounded from {picture.depth} bits to {self.depth}, those of {self.pix_fmt}"
        if picture.field_order and not self.field_order:
            keeping = _either([name for name in container.codecs if CODECS[name].keeps_fields])
            remedy = f"use --deinterlace or --codec {keeping}" if keeping else "use --deinterlace"
            yield f"the film is interlaced, and {self.codec.name} cannot mark fields: {remedy}"
        if picture.sample_aspect_ratio != 1 and not container.keeps_shape and not self.codec.keeps_shape:
            keeping = _either([name for name in container.codecs if CODECS[name].keeps_shape])
            remedy = f"use --codec {keeping}, or write to mp4 or mov" if keeping else "write to mp4 or mov"
            yield (
                f"the film's pixels are {picture.sample_aspect_ratio} as wide as high, which {self.codec.name} in "
                f"{container.name} does not tell, so players will show it squeezed: {remedy}"
            )

    def check(self) -> None:
        """Raises BadSettings when the encoder will not take such pictures at all."""
        try:
            self._context().open()
        except (av.error.FFmpegError, ValueError):
            raise BadSettings(
                f"{self.codec.encoder} cannot encode {self.width}x{self.height} as {self.pix_fmt}: "
                "use another --codec, such as ffv1"
            ) from None

    def open(self) -> Encoder:
        """A fresh encoder: one per segment."""
        marker = None
        if self.field_order:
            marker = FieldMarker(self.width, self.height, self.pix_fmt, self.facts.time_base, self.field_order)
        return Encoder(self._context(), marker)

    def configure(self, context: VideoCodecContext) -> None:
        """Set size, format, timing, fields and colour tags on an encoder that is not open yet."""
        picture = self.facts.picture
        context.width, context.height, context.pix_fmt = self.width, self.height, self.pix_fmt
        context.time_base, context.framerate = self.facts.time_base, self.facts.frame_rate
        context.sample_aspect_ratio = picture.sample_aspect_ratio
        context.color_range = FULL if picture.full_range else LIMITED
        context.colorspace = picture.matrix
        context.color_primaries = picture.primaries or UNSPECIFIED
        context.color_trc = picture.transfer or UNSPECIFIED
        context.thread_count = 1
        context.flags |= Flags.global_header  # parameters in the container, once
        context.field_order = _FIELD_ORDERS[self.field_order]
        if self.field_order:
            context.flags |= Flags.interlaced_dct

    def decoding_lead(self, context: VideoCodecContext) -> int:
        """Frames by which decoding runs ahead of showing, of an open encoder."""
        return max(context.reorder_depth, self.codec.reorder)

    def _context(self) -> VideoCodecContext:
        context = av.CodecContext.create(self.codec.encoder, "w")
        assert isinstance(context, VideoCodecContext)
        self.configure(context)
        context.options = dict(self.codec.options)
        return context


class Encoder:
    """An encoder of one segment."""

    def __init__(self, context: VideoCodecContext, marker: FieldMarker | None) -> None:
        """`marker` marks every frame's fields before it is encoded."""
        self.context, self._marker = context, marker

    def encode(self, frame: VideoFrame | None) -> list[Packet[VideoStream]]:
        """The packets that are ready after this frame; None gives the rest."""
        if frame is not None and self._marker:
            frame = self._marker.mark(frame)
        return self.context.encode(frame)


_FIELD_ORDERS = {"": 1, "tff": 2, "bff": 3}
"""libav's numbers: progressive, top, bottom."""


def choose_codec(name: str, container: Container, *, crf: int | None = None, preset: str = "") -> Codec:
    """The codec by name ("" = the container's usual), with these settings instead of its usual ones.

    Raises BadSettings for an unknown name, one that the container does not hold, and for settings that the codec does
    not take. It needs no film, so that a request can be refused before one is sent.
    """
    name = name or container.default_codec
    if name not in CODECS:
        raise BadSettings(f"no codec {name!r}: choose from {', '.join(CODECS)}")
    if name not in container.codecs:
        others = _either([other.name for other in CONTAINERS.values() if name in other.codecs])
        raise BadSettings(
            f"{container.name} cannot hold {name}: write to {others}, or use --codec {_either(container.codecs)}"
        )
    return CODECS[name].with_settings(crf, preset)


def choose_container(name: str) -> Container:
    """The container by name ("" = mp4). Raises BadSettings for an unknown one."""
    name = name or "mp4"
    if name not in CONTAINERS:
        raise BadSettings(f"no output container {name!r}: choose from {', '.join(CONTAINERS)}")
    return CONTAINERS[name]


def _either(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
