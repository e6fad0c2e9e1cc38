"""From a segment's packets to its frames, each with its time. Most traps of real films are met here."""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import av.error
from av.video.frame import VideoFrame

from kinochrome_proto.errors import BadFilm

from .film import MAX_PIXELS, Facts, Segment, opened
from .packets import Role, StoredPacket, read_packets
from .sources import Source

_HIDDEN_FRAMES = ("vp8", "vp9", "av1")  # packets of these may hold frames that are never shown


@dataclass(eq=False)
class Shown:
    """A decoded frame."""

    role: Role
    pts: int
    frame: VideoFrame


class OutOfOrder(Exception):
    """Frames came in another order than their times: the film's packets carry times of decoding."""


@dataclass
class Account:
    """What came of a segment's packets."""

    durations: dict[int | None, int] = field(default_factory=dict)
    """Ticks by timestamp, as the packets say."""
    frames: int = 0
    """Of the segment's own."""
    damaged: bool = False
    """Whether frames were left out because they cannot be decoded."""
    warnings: list[str] = field(default_factory=list)


class Decoder:
    """Decodes segments of one film, one at a time. Use as a context manager."""

    def __init__(self, source: Source, facts: Facts) -> None:
        """Raises BadFilm, and OSError of the film's file."""
        self._source, self._facts = source, facts
        with contextlib.ExitStack() as stack:
            container, video = stack.enter_context(opened(source))
            self._codec = video.codec_context
            self._codec.options = {"max_pixels": str(MAX_PIXELS)}
            self._codec.thread_count = 1
            self._codec.copy_opaque = True  # each frame tells which packet it came from
            # The decoder is shown the film's first packet, which may tell what no later one does. x264 names its
            # version only there, and libav decodes 4:4:4 of versions before 151 differently; MPEG-4 encoders name
            # theirs likewise. Without it, every segment but the first can decode to something else.
            with contextlib.suppress(av.error.FFmpegError):  # damage is reported with its segment
                for packet in container.demux(video):
                    if packet.size:
                        self._codec.decode(packet)
                        break
            self._stack = stack.pop_all()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def frames(
        self, segment: Segment, account: Account, *, lenient: bool, before: int, after: int, by_rank: bool = False
    ) -> Iterator[Shown]:
        """The segment's frames in showing order, each later than the one before.

        Decoding starts with the end of the segment before, so that frames which lean on it (open groups of pictures,
        intra refresh) come out as they would in a player.

        Args:
            segment: what to decode.
            account: filled in meanwhile.
            lenient: leave out frames that cannot be decoded, instead of raising BadFilm.
            before, after: frames of the neighbours to give as well, at most.
            by_rank: give times by rank: AVI keeps times of decoding only, which in order are those of showing.

        Raises OutOfOrder when that turns out to be needed.
        """
        times = self._times(segment, account)
        unique = len(set(times)) == len(times)
        ranked = deque(sorted(times))
        warming: deque[Shown] = deque(maxlen=before)
        last: int | None = None
        repeats = looked_ahead = 0
        for frame in self._decoded(segment, account, lenient):
            stored = cast(StoredPacket | None, frame.opaque)
            role = stored.role if stored else Role.OWN
            if stored is not None and stored.is_unshown:
                continue
            pts = stored.pts if stored is not None and stored.pts is not None else frame.pts
            if role != Role.OWN:
                if not self._fits(frame):
                    continue
                if role == Role.BEFORE:
                    warming.append(Shown(role, pts or 0, frame))
                elif looked_ahead < after:
                    looked_ahead += 1
                    yield Shown(role, pts or 0, frame)
                elif account.frames >= len(times):
                    break
                continue
            self._check(frame)
            if not self._facts.has_timestamps:
                place = segment.first_frame + account.frames
                pts = round(place / (self._facts.frame_rate * self._facts.time_base))
            elif by_rank and ranked:
                pts = ranked.popleft()
            elif pts is None or (by_rank and last is not None):
                pts = last + self._facts.tick if last is not None else ranked[0] if ranked else 0
            if last is not None and pts <= last:
                if unique and not by_rank:
                    raise OutOfOrder
                repeats += 1
                pts = last + 1
            last = pts
            account.frames += 1
            yield from warming
            warming.clear()
            yield Shown(role, pts, frame)
        self._take_stock(segment, account, len(times), repeats)

    def _times(self, segment: Segment, account: Account) -> list[int]:
        """Timestamps of the segment's packets, in decoding order; those without one count as their decoding time."""
        times = []
        with segment.file.open("rb") as file:
            for packet in read_packets(file, with_data=False):
                if packet.role != Role.OWN or packet.is_unshown:
                    continue
                account.durations[packet.pts] = packet.duration
                times.append(packet.pts if packet.pts is not None else packet.dts or 0)
        return times

    def _decoded(self, segment: Segment, account: Account, lenient: bool) -> Iterator[VideoFrame]:
        self._codec.flush_buffers()
        with segment.file.open("rb") as file:
            for stored in read_packets(file):
                if stored.role == Role.COPIED:
                    continue
                packet = stored.packet()
                packet.opaque = stored
                try:
                    yield from self._codec.decode(packet)
                except av.error.EOFError:
                    pass
                except av.error.FFmpegError as error:
                    if isinstance(error, MemoryError):
                        raise  # nothing is wrong with the film
                    if stored.role == Role.OWN:
                        self._damaged(stored, account, lenient)
        with contextlib.suppress(av.error.EOFError):
            yield from self._codec.decode(None)

    def _damaged(self, stored: StoredPacket, account: Account, lenient: bool) -> None:
        where = f" at {float(stored.time):.2f} s" if stored.time is not None else ""
        if not lenient:
            raise BadFilm(f"{self._source.name}: a frame{where} cannot be decoded; --lenient colours the others")
        account.damaged = True
        account.warnings.append(f"{self._source.name}: a frame{where} cannot be decoded and is left out")

    def _fits(self, frame: VideoFrame) -> bool:
        picture = self._facts.picture
        return (frame.width, frame.height, frame.format.name) == (picture.width, picture.height, picture.pix_fmt)

    def _check(self, frame: VideoFrame) -> None:
        if not self._fits(frame):
            picture = self._facts.picture
            at = "" if frame.pts is None else f" at {float(frame.pts * self._facts.time_base):.2f} s"
            raise BadFilm(
                f"{self._source.name}: its picture changes from {picture.width}x{picture.height} {picture.pix_fmt} to "
                f"{frame.width}x{frame.height} {frame.format.name}{at}: split it there first"
            )

    def _take_stock(self, segment: Segment, account: Account, expected: int, repeats: int) -> None:
        at = f"at {segment.seconds:.2f} s and after"
        if repeats:
            account.warnings.append(
                f"{self._source.name}: {repeats} frames {at} repeat timestamps: they are shown right after"
            )
        lost = expected - account.frames
        if lost > 0 and not account.damaged and self._codec.codec.canonical_name not in _HIDDEN_FRAMES:
            account.warnings.append(f"{self._source.name}: {lost} packets {at} gave no frame")
