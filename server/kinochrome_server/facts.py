"""What is known of a film before it is coloured."""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinochrome_proto.errors import BadFilm

from .fields import field_order_of, marked
from .opening import MAX_PIXELS, check_size, opened
from .planes import Picture, luma_of, picture_of
from .sources import Source

FIELD_FRAMES = 32
"""First frames in which fields are looked for that are not marked."""
FIELD_PIXELS = 32 * 1920 * 1088
"""Pixels that these frames may have in all: larger ones are fewer."""


@dataclass(frozen=True)
class Facts:
    """What is known of a film before it is coloured."""

    picture: Picture
    """Size, format and colour of its decoded frames."""
    time_base: Fraction
    """Seconds per tick of every timestamp of the video stream."""
    frame_rate: Fraction
    """Nominal frames a second: for rate control and for frames without a timestamp."""
    frames_expected: int
    """As the container says; 0 when it does not say."""
    fields_marked: bool
    """Whether frames say of themselves that they are interlaced; otherwise fields were seen in them, or none."""
    has_timestamps: bool
    """False for raw streams, whose frames are then counted at `frame_rate`."""
    start: Fraction
    """Seconds on the film's own clock at its first moment."""
    duration: Fraction
    """Seconds, as the container says; 0 when it does not say."""

    @property
    def tick(self) -> int:
        """Ticks of a frame at the nominal rate."""
        return max(1, round(1 / (self.frame_rate * self.time_base)))

    def plain(self) -> dict[str, Any]:
        """The same in JSON's types, for the way between processes."""
        plain = asdict(self)
        for part in (plain, plain["picture"]):
            part.update({key: str(value) for key, value in part.items() if isinstance(value, Fraction)})
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Facts:
        picture = dict(plain["picture"])
        picture["sample_aspect_ratio"] = Fraction(picture["sample_aspect_ratio"])
        times = {key: Fraction(plain[key]) for key in ("time_base", "frame_rate", "start", "duration")}
        return cls(**{**plain, **times, "picture": Picture(**picture)})


def probe(source: Source) -> Facts:
    """Look at a film's headers and first frame. Raises BadFilm when there is nothing in it to colour.

    Decoders run here: call it in a process that may die.
    """
    with opened(source) as (container, video):
        if video.time_base is None:
            raise BadFilm(f"{source.name}: its video stream has no time base")
        rate = video.guessed_rate or video.average_rate or Fraction(25)
        if not 0 < rate <= 1000:
            rate = Fraction(25)
        check_size(source, video.width, video.height)
        video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        video.codec_context.thread_count = 1
        frames = _first_frames(container, video, source)
        frame = frames[0]
        check_size(source, frame.width, frame.height)
        order = marked(frame)
        picture = picture_of(frame, video.sample_aspect_ratio, order)
        alike = [other for other in frames if (other.width, other.height) == (frame.width, frame.height)]
        if not order and (seen := field_order_of(luma_of(other, picture) for other in alike)):
            picture = replace(picture, field_order=seen)
        duration = Fraction(container.duration or 0, av.time_base)
        return Facts(
            picture=picture,
            fields_marked=bool(order),
            time_base=video.time_base,
            frame_rate=rate,
            frames_expected=video.frames or round(duration * rate),
            has_timestamps=frame.pts is not None,
            start=Fraction(container.start_time or 0, av.time_base),
            duration=duration,
        )


def _first_frames(container: InputContainer, video: VideoStream, source: Source) -> list[VideoFrame]:
    """At least one, and of small pictures enough to see fields in."""
    frames: list[VideoFrame] = []
    try:
        for packet in container.demux(video):
            try:
                frames += [frame for frame in packet.decode() if isinstance(frame, VideoFrame)]
            except av.error.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise
                continue  # damaged at its start: a later frame may do; strict runs refuse it when they decode it
            if frames and len(frames) >= min(FIELD_FRAMES, FIELD_PIXELS // max(1, frames[0].width * frames[0].height)):
                break
    except av.error.FFmpegError as error:  # of the demuxer
        if isinstance(error, MemoryError):
            raise
    if not frames:
        raise BadFilm(f"{source.name}: not one frame of its video can be decoded")
    return frames
