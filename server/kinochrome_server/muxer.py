"""Writing the coloured film: chunks in order, the other streams copied as they are, both by time."""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

import contextlib
import heapq
import io
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, cast

import av
import av.error
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, Disposition, Stream
from av.video.stream import VideoStream

from kinochrome_proto.errors import BadFilm, BadSettings

from .codecs import Container, Encoding
from .film import Film
from .packets import Role, read_packets

_MIME = {"mjpeg": "jpeg"}  # where an image's codec goes by another name


class Muxer:
    """An output film being written to a file object that can seek."""

    def __init__(
        self, sink: BinaryIO, film: Film, container: Container, encoding: Encoding, warn: Callable[[str], None]
    ) -> None:
        """Lays out all streams. A stream that the container cannot hold is left out, and `warn` names it.

        Raises BadSettings when the container cannot hold the coloured stream itself.
        """
        self.name, self.facts, self.encoding = film.source.name, film.facts, encoding
        audio = [stream for stream in film.container.streams.audio if stream.codec_context is not None]
        self.sample_rates = [stream.sample_rate for stream in audio if stream.sample_rate]
        self.output = self._open(sink, container)
        self.output.metadata.update(film.container.metadata)
        self.copies: dict[int, Stream] = {}
        self.filters: dict[int, BitStreamFilterContext] = {}
        self.chapters = film.chapters()
        self.tags = {*film.container.metadata, *film.video.metadata}
        self._decoded: dict[int, int] = {}
        """Newest decoding time of each copied stream, in its own ticks."""
        for stream in film.container.streams:
            if stream.index == film.video.index:
                self.video = self._add_video(film.video, encoding, container)
            elif (copy := self._add_copy(stream, film, container, warn)) is not None:
                self.copies[stream.index] = copy
        if self.chapters:
            self.output.set_chapters(self.chapters)
        self.frames = 0
        self._warn = warn
        self._overlaps: set[int] = set()
        self._recent: list[int] = []
        self._last_pts: int | None = None
        self._moved = 0

    def _open(self, sink: BinaryIO, container: Container) -> OutputContainer:
        options = container.options_for(self.facts.time_base, self.sample_rates)
        return av.open(
            sink,
            "w",
            format=container.format,
            container_options=options,
            metadata_errors="surrogateescape",  # old tags that are not UTF-8 go out as they came in
            buffer_size=1 << 20,
        )

    def _add_video(self, source: VideoStream, encoding: Encoding, container: Container) -> VideoStream:
        try:
            # Its own encoder is never fed: it lends its header, which is the same for every segment's encoder.
            video = self.output.add_stream(
                encoding.codec.encoder, encoding.facts.frame_rate, options=dict(encoding.codec.options)
            )
        except ValueError as error:
            raise BadSettings(f"{container.format} cannot hold {encoding.codec.encoder}: {error}") from None
        video = cast(VideoStream, video)
        encoding.configure(video.codec_context)
        container.tag(video, encoding.codec)
        video.time_base = encoding.facts.time_base
        if encoding.facts.picture.rotation:
            video.set_display_rotation(encoding.facts.picture.rotation)
        _carry_tags(source, video)
        return video

    def _add_copy(self, stream: Stream, film: Film, container: Container, warn: Callable[[str], None]) -> Stream | None:
        if stream.disposition & Disposition.attached_pic:
            if container.format == "matroska":
                return self._attach_picture(stream, film)
            if container.format != "mp4":
                warn(f"the cover picture is left out: {container.format} cannot hold it; .mp4 and .mkv can")
                return None
        context = stream.codec_context
        name = context.codec.canonical_name if context else getattr(stream, "name", None) or "unknown codec"
        what = f"{stream.type} stream {stream.index} ({name})"
        if stream.type == "data" and "timecode" in self.tags and container.format in ("mp4", "mov"):
            return None  # the muxer makes the timecode track anew, from the tag
        if stream.type == "data" and name == "bin_data" and self.chapters:
            return None  # the text track of MP4 chapters: the muxer makes a new one from the chapters
        try:
            # Some misfits show only when the header is written, too late for this one: so each is tried apart.
            trial = self._open(io.BytesIO(), container)
            _copy_layout(stream, trial)
            trial.start_encoding()
        except (ValueError, av.error.FFmpegError):
            remedy = "" if container.format == "matroska" else "; Matroska (-o FILE.mkv) holds more kinds"
            warn(f"{what} is left out: {container.format} cannot hold it{remedy}")
            return None
        copy = _copy_layout(stream, self.output)
        _carry_tags(stream, copy)
        if stream.type == "video" and not stream.disposition & Disposition.attached_pic:
            warn(f"{what} is copied as it is: one video stream is coloured, the first")
        if context is not None and context.name == "aac" and not context.extradata:
            # MPEG-TS frames each AAC packet with an ADTS header; other containers hold it once, apart.
            self.filters[stream.index] = BitStreamFilterContext("aac_adtstoasc", stream)
        return copy

    def _attach_picture(self, stream: Stream, film: Film) -> Stream | None:
        """A cover picture, which Matroska holds as an attachment."""
        codec = stream.codec_context.codec.canonical_name if stream.codec_context else ""
        ending = {"mjpeg": "jpg"}.get(codec, codec)
        self.output.add_attachment(f"cover.{ending}", f"image/{_MIME.get(codec, codec)}", film.picture_in(stream.index))
        return None

    def write(self, segment: Path, chunk: Path) -> None:
        """Add a coloured segment and, from its own file, what lay between its frames. Segments must come in order.

        Raises BadFilm when libav refuses a packet, OSError of the sink.
        """
        with segment.open("rb") as source, chunk.open("rb") as coloured:
            packets = heapq.merge(self._video_packets(coloured), self._copied_packets(source), key=_decoding_time)
            for packet in packets:
                try:
                    self.output.mux_one(packet)
                except av.error.FFmpegError as error:
                    # What the sink raises comes through as it is; this is libav, refusing the packet.
                    what = f"{packet.stream.type} near {float(_decoding_time(packet)):.2f} s"
                    raise BadFilm(f"{self.name}: its {what} cannot be written ({error.strerror})") from None

    def finish(self) -> None:
        """Write what the container wants at its end. Only after this is the film whole. Raises BadFilm."""
        try:
            self.output.close()
        except av.error.FFmpegError as error:
            if not isinstance(error, av.error.ArgumentError):
                raise  # of the disk
            raise BadFilm(f"{self.name}: the container refuses one of its streams at the end; try another -o") from None

    def abandon(self) -> None:
        """Give up: nothing more is written than libav insists on."""
        with contextlib.suppress(Exception):  # the sink may be what failed; the error that matters is on its way
            self.output.close()

    def _video_packets(self, chunk: BinaryIO) -> Iterator[Packet[Stream]]:
        shown = sorted(packet.pts for packet in read_packets(chunk, with_data=False) if packet.pts is not None)
        if not shown:
            return
        if self._last_pts is not None and shown[0] + self._moved <= self._last_pts:
            at = float((self._last_pts + self.facts.tick) * self.facts.time_base)
            self._warn(
                f"{self.name}: timestamps go back near {at:.2f} s; frames from there on are shown one by one after"
            )
            self._moved = self._last_pts + self.facts.tick - shown[0]
        shown = [pts + self._moved for pts in shown]
        delay = self._reorder_delay(shown[0])
        # Segments are encoded apart, each counting its decoding times from its own start. Counted anew over the
        # whole film they rise steadily: the k-th packet is decoded when the (k - delay)-th frame is shown.
        decoded = [*self._recent, *shown]
        self._recent = decoded[len(shown) :] if delay else []
        self._last_pts = shown[-1]
        self.frames += len(shown)
        chunk.seek(0)
        for stored, dts in zip(read_packets(chunk), decoded, strict=False):
            out = stored.packet()
            out.stream = self.video
            out.pts, out.dts = (stored.pts or 0) + self._moved, dts
            yield out

    def _reorder_delay(self, first_pts: int) -> int:
        """Frames by which decoding runs ahead of showing; on the first call, decoding times before the first frame."""
        if not self.video.codec_context.is_open:
            self.output.start_encoding()  # opens the lending encoder
        delay = self.encoding.decoding_lead(self.video.codec_context)
        if self._last_pts is None:
            self._recent = [first_pts - self.facts.tick * (delay - i) for i in range(delay)]
        return delay

    def _copied_packets(self, segment: BinaryIO) -> Iterator[Packet[Stream]]:
        for stored in read_packets(segment):
            copy = self.copies.get(stored.stream)
            if stored.role != Role.COPIED or copy is None or copy.type == "attachment":
                continue
            packet = stored.packet()
            bitstream_filter = self.filters.get(stored.stream)
            for out in bitstream_filter.filter(packet) if bitstream_filter else [packet]:
                out.stream, out.time_base = copy, stored.time_base
                self._keep_rising(out, stored.stream)
                yield out

    def _keep_rising(self, packet: Packet[Stream], stream: int) -> None:
        """Decoding times must not fall; in recordings joined with an overlap they do."""
        last = self._decoded.get(stream)
        if packet.dts is None:
            return
        if last is not None and packet.dts < last:
            if stream not in self._overlaps:
                self._overlaps.add(stream)
                at = float(packet.dts * (packet.time_base or 0))
                self._warn(f"{self.name}: {packet.stream.type} overlaps itself near {at:.2f} s and is moved a little")
            packet.dts = last
            packet.pts = None if packet.pts is None else max(packet.pts, packet.dts)
        self._decoded[stream] = packet.dts


def _copy_layout(stream: Stream, output: OutputContainer) -> Stream:
    """A stream of the same layout in `output`. Raises ValueError when the container has no place for it."""
    if isinstance(stream, AttachmentStream):
        return output.add_attachment(
            stream.name or "attachment", stream.mimetype or "application/octet-stream", stream.data
        )
    return output.add_stream_from_template(stream, opaque=True)


def _decoding_time(packet: Packet[Stream]) -> Fraction:
    time = packet.dts if packet.dts is not None else packet.pts
    return (time or 0) * packet.time_base if packet.time_base else Fraction(0)


def _carry_tags(source: Stream, target: Stream) -> None:
    target.metadata.update(source.metadata)
    target.disposition = source.disposition
