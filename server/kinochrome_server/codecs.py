"""Video codecs and containers that coloured film can be written in. A new one is a row here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import av
import av.error
import cv2
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext

from kinochrome_proto.errors import BadSettings

from .film import Facts
from .planes import FULL, LIMITED, UNSPECIFIED, Picture, encodable_formats, output_format


@dataclass(frozen=True)
class Codec:
    """An encoder and how it is run.

    Every encoder runs on one thread: the bytes of a segment must not depend on the machine's cores, and it is
    segments that are spread over them.
    """

    encoder: str
    options: dict[str, str] = field(default_factory=dict)


AVX2, AVX512 = 11, 13
"""OpenCV's numbers of processor features."""


def _x264_params() -> dict[str, str]:
    """On processors with AVX-512, x264 up to its AVX2 code.

    Its AVX-512 macroblock-tree code reads memory that nobody wrote: the same frames gave other bytes from run to
    run (tests/server/test_codecs.py shows it). The names of features replace x264's own detection, so they are
    given only where the processor is known to have them.
    """
    newest = cv2.checkHardwareSupport(AVX512) and cv2.checkHardwareSupport(AVX2)
    return {"x264-params": "asm=avx2"} if newest else {}


FINEST_CLOCK = 10_000_000
"""Ticks a second of an MP4 file's clock, at most."""

CODECS: dict[str, Codec] = {
    "h264": Codec("libx264", {"preset": "veryfast", "crf": "18", **_x264_params()}),
    "h265": Codec(
        "libx265",
        {"preset": "fast", "crf": "20", "x265-params": "log-level=none:pools=none:frame-threads=1:open-gop=0"},
    ),
    "ffv1": Codec("ffv1", {"level": "3", "slicecrc": "1", "g": "1"}),
}


@dataclass(frozen=True)
class Container:
    """A file format and how it is written while its bytes are already on their way."""

    format: str
    default_codec: str
    options: dict[str, str] = field(default_factory=dict)

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
    "mp4": Container("mp4", "h264", _GROWING_MP4),
    "mov": Container("mov", "h264", _GROWING_MP4),
    # Matroska stores no decoding times, so the negative ones of B-frames need no shift of the whole film.
    "mkv": Container("matroska", "h264", {"avoid_negative_ts": "disabled"}),
}


@dataclass(frozen=True)
class Encoding:
    """What a film's segments are encoded with: all that an encoder needs to be opened."""

    codec: Codec
    pix_fmt: str
    facts: Facts

    def check(self) -> None:
        """Raises BadSettings when the encoder will not take such pictures at all."""
        try:
            self.open().open()
        except (av.error.FFmpegError, ValueError):
            picture = self.facts.picture
            raise BadSettings(
                f"{self.codec.encoder} cannot encode {picture.width}x{picture.height} as {self.pix_fmt}: "
                "use another --codec, such as ffv1"
            ) from None

    def open(self) -> VideoCodecContext:
        """A fresh encoder: one per segment."""
        context = av.CodecContext.create(self.codec.encoder, "w")
        assert isinstance(context, VideoCodecContext)
        self.configure(context)
        context.options = dict(self.codec.options)
        return context

    def configure(self, context: VideoCodecContext) -> None:
        """Set size, format, timing and colour tags on an encoder that is not open yet."""
        picture = self.facts.picture
        context.width, context.height, context.pix_fmt = picture.width, picture.height, self.pix_fmt
        context.time_base, context.framerate = self.facts.time_base, self.facts.frame_rate
        context.sample_aspect_ratio = picture.sample_aspect_ratio
        context.color_range = FULL if picture.full_range else LIMITED
        context.colorspace = picture.matrix
        context.color_primaries = picture.primaries or UNSPECIFIED
        context.color_trc = picture.transfer or UNSPECIFIED
        context.thread_count = 1
        context.flags |= Flags.global_header  # parameters in the container, once


def choose_codec(name: str, container: Container, picture: Picture) -> tuple[Codec, str]:
    """The codec by name ("" = the container's usual) and a pixel format that keeps the film's luma.

    Raises BadSettings for an unknown name, or when the codec cannot hold the film's luma as it is.
    """
    name = name or container.default_codec
    if name not in CODECS:
        raise BadSettings(f"no codec {name!r}: choose from {', '.join(CODECS)}")
    format = output_format(picture, encodable_formats(CODECS[name].encoder))
    if format is None:
        raise BadSettings(
            f"codec {name} cannot hold {picture.depth}-bit luma of this film ({picture.pix_fmt}): use --codec ffv1"
        )
    return CODECS[name], format


def choose_container(name: str) -> Container:
    """The container by name ("" = mp4). Raises BadSettings for an unknown one."""
    name = name or "mp4"
    if name not in CONTAINERS:
        raise BadSettings(f"no output container {name!r}: choose from {', '.join(CONTAINERS)}")
    return CONTAINERS[name]
