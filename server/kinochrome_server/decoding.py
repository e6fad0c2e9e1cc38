"""From a segment's packets to its frames, each with its time. Most traps of real films are met here."""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeVar, cast

import av.error
from av.video.frame import VideoFrame

from kinochrome_proto.errors import BadFilm

from .facts import Facts
from .opening import MAX_PIXELS, opened
from .packets import Role, StoredPacket, read_packets
from .segments import Segment
from .sources import Source

MOST_TIMELESS = 32
"""Frames without timestamps that are held until one with a timestamp comes."""

_HIDDEN_FRAMES = ("vp8", "vp9", "av1")  # packets of these may hold frames that are never shown


@dataclass(eq=False)
class Shown:
    """A decoded frame."""

    role: Role
    pts: int
    frame: VideoFrame


class OutOfOrder(Exception):
    """Frames came in another order than their times: the film's packets carry times of decoding."""


T = TypeVar("T")


def in_order(attempt: Callable[[bool], T]) -> T:
    """What `attempt(by_rank)` gives: with the times as they are, or once more by rank where frames come OutOfOrder.

    The attempt itself takes back what it had told of the frames so far.
    """
    try:
        return attempt(False)
    except OutOfOrder:
        return attempt(True)


@dataclass
class Account:
    """What came of a segment's packets."""

    durations: dict[int | None, int] = field(default_factory=dict)
    """Ticks by timestamp, as the packets say."""
    frames: int = 0
    """Of the segment's own."""
    timeless: int = 0
    """Frames whose times were made up, of those that have neighbours with times."""
    patched: int = 0
    """Frames of which parts were lost, and made up by the decoder."""
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
        known = [time for time in times if time is not None]
        unique = len(set(known)) == len(known)
        ranked = deque(sorted(known))
        warming: deque[Shown] = deque(maxlen=before)
        first, end = segment.wanted or (None, None)
        last: int | None = None
        decoded = repeats = looked_ahead = 0
        frames = self._with_roles(segment, account, lenient)
        if self._facts.has_timestamps and not by_rank:
            frames = self._spread(frames, account)
        for role, pts, frame in frames:
            if role != Role.OWN:
                if not self._fits(frame):
                    continue
                if role == Role.BEFORE:
                    warming.append(Shown(role, pts or 0, frame))
                elif looked_ahead < after:
                    looked_ahead += 1
                    yield Shown(role, pts or 0, frame)
                elif decoded >= len(times):
                    break
                continue
            self._check(frame)
            stored = cast(StoredPacket | None, frame.opaque)
            account.patched += frame.is_corrupt or (stored is not None and stored.is_corrupt)
            if not self._facts.has_timestamps:
                pts = round((segment.begins + decoded / self._facts.frame_rate) / self._facts.time_base)
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
            decoded += 1
            if first is not None and pts < first:
                warming.append(Shown(Role.BEFORE, pts, frame))
                continue
            if end is not None and pts >= end:
                if looked_ahead < after:
                    looked_ahead += 1
                    yield Shown(Role.AFTER, pts, frame)
                continue
            account.frames += 1
            yield from warming
            warming.clear()
            yield Shown(role, pts, frame)
        if not lenient and 4 * decoded < len(times) - 4:
            raise BadFilm(
                f"{self._source.name}: of {len(times)} packets at {segment.seconds:.2f} s and after only {decoded} can "
                "be decoded: its keyframes may not be where it says; --lenient colours these"
            )
        self._take_stock(segment, account, len(times) - decoded, repeats)

    def _with_roles(
        self, segment: Segment, account: Account, lenient: bool
    ) -> Iterator[tuple[Role, int | None, VideoFrame]]:
        """Frames that are shown, with their roles, and their times where their packets tell them."""
        for frame in self._decoded(segment, account, lenient):
            stored = cast(StoredPacket | None, frame.opaque)
            if stored is not None and stored.is_unshown:
                continue
            pts = stored.pts if stored is not None and stored.pts is not None else frame.pts
            yield stored.role if stored else Role.OWN, pts, frame

    def _spread(
        self, frames: Iterator[tuple[Role, int | None, VideoFrame]], account: Account
    ) -> Iterator[tuple[Role, int | None, VideoFrame]]:
        """The same, with frames that have no time put evenly between those that have."""
        waiting: list[tuple[Role, VideoFrame]] = []
        last: int | None = None
        step = Fraction(self._facts.tick)

        def placed() -> Iterator[tuple[Role, int | None, VideoFrame]]:
            nonlocal last
            start = last or 0
            for place, (role, frame) in enumerate(waiting, 1):
                account.timeless += role == Role.OWN
                last = start + round(place * step)
                yield role, last, frame
            waiting.clear()

        for role, pts, frame in frames:
            if pts is None and last is not None:
                waiting.append((role, frame))
                if len(waiting) >= MOST_TIMELESS:
                    yield from placed()
                continue
            if waiting and pts is not None and last is not None and pts > last:
                step = Fraction(pts - last, len(waiting) + 1)
            yield from placed()
            last = pts
            yield role, pts, frame
        yield from placed()

    def _times(self, segment: Segment, account: Account) -> list[int | None]:
        """Timestamps of the segment's packets, or the times of their decoding, in that order."""
        times = []
        with segment.file.open("rb") as file:
            for packet in read_packets(file, with_data=False):
                if packet.role != Role.OWN or packet.is_unshown:
                    continue
                account.durations[packet.pts] = packet.duration
                times.append(packet.pts if packet.pts is not None else packet.dts)
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

    def _take_stock(self, segment: Segment, account: Account, lost: int, repeats: int) -> None:
        at = f"at {segment.seconds:.2f} s and after"
        if account.timeless:
            account.warnings.append(
                f"{self._source.name}: {account.timeless} frames {at} have no timestamps of their own: "
                "they are put evenly between the others"
            )
        if account.patched:
            account.warnings.append(
                f"{self._source.name}: {account.patched} frames {at} are marked as damaged: "
                "parts of them may be the decoder's guess"
            )
        if repeats:
            account.warnings.append(
                f"{self._source.name}: {repeats} frames {at} repeat timestamps: they are shown right after"
            )
        if lost > 0 and not account.damaged and self._codec.codec.canonical_name not in _HIDDEN_FRAMES:
            account.warnings.append(f"{self._source.name}: {lost} packets {at} gave no frame")
