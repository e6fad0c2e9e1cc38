"""Opening films safely: libav never learns a name, may open nothing else, and gets no container that names others."""

from __future__ import annotations  # av.Packet takes a parameter in its type stubs only

import contextlib
import io
from collections.abc import Iterator
from typing import BinaryIO

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from kinochrome_proto.errors import BadFilm

from .sources import Source
from .stated_size import stated_size

READ_SIZE = 1 << 20  # bytes a read through Python: 32 KiB, the default, costs six times the calls

# Containers of films, and nothing that can name other files (playlists, concat, SDP, image sequences).
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,gif,apng,ogg,asf,mxf,nut,ivf,rm,dv,"
    "h264,hevc,obu,mpegvideo,m4v,yuv4mpegpipe,mjpeg,vc1,wtv,bink,roq,smk"
)
_SAFE = {"protocol_whitelist": "none", "format_whitelist": _FORMATS}

MAX_PIXELS = 1 << 27
"""Of a frame: twice what the largest film scanners give. A few kilobytes can claim any size (decompression bombs)."""
MAX_SIDE = 1 << 15
MAX_STREAMS = 256


@contextlib.contextmanager
def opened(source: Source) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A film's container and the stream that is coloured. Raises BadFilm."""
    file, container = open_film(source)
    with file, container:
        yield container, video_stream(container, source)


def open_film(source: Source) -> tuple[BinaryIO, InputContainer]:
    """Its file and its container, both for the caller to close. Raises BadFilm."""
    file = source.open()
    try:
        container = av.open(
            _Nameless(file, source),
            "r",
            container_options=_SAFE,
            options={"max_pixels": str(MAX_PIXELS), "threads": "1"},  # of the decoders that look at the first frames
            metadata_errors="surrogateescape",  # old tags are not UTF-8, and must not cost the film
            buffer_size=READ_SIZE,
        )
    except (av.error.FFmpegError, OSError) as error:
        if isinstance(error, MemoryError):
            raise
        file.seek(0)
        empty = not file.read(1)
        file.close()
        if empty:
            raise BadFilm(f"{source.name} is empty") from None
        if cut := cut_off(source):
            raise BadFilm(f"{source.name} {cut}, and its index is lost: nothing of it can be read") from None
        text = getattr(error, "strerror", None) or str(error)
        fault = "" if "Invalid data" in text else f" ({text})"
        raise BadFilm(f"{source.name} is not a film, or of a kind that is not known here{fault}") from None
    if len(container.streams) > MAX_STREAMS:
        count = len(container.streams)
        container.close()
        file.close()
        raise BadFilm(f"{source.name} has {count} streams, more than {MAX_STREAMS}: remux those that matter first")
    return file, container


def cut_off(source: Source) -> str:
    """In words, by how much the film's file is shorter than it says; empty when it is whole or does not say."""
    with source.open() as file:
        stated = stated_size(file)
        size = file.seek(0, io.SEEK_END)
    return f"is cut off: {size} of at least {stated} bytes are there" if stated and stated > size else ""


def video_stream(container: InputContainer, source: Source) -> VideoStream:
    """The stream that is coloured: the first that is no cover. Raises BadFilm, with the container closed."""
    for stream in container.streams.video:
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails):
            if stream.codec_context is None:
                container.close()
                raise BadFilm(f"{source.name}: its video codec is unknown here")
            return stream
    container.close()
    raise BadFilm(f"{source.name} holds no video stream: there is nothing to colour")


def check_size(source: Source, width: int, height: int) -> None:
    """Raises BadFilm for frames larger than any film's."""
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadFilm(f"{source.name}: its frames claim {width}x{height}, more than {MAX_PIXELS // 10**6} megapixels")


class _Nameless(io.RawIOBase):
    """Hides the file's name: libav would choose a demuxer by it, and resolve playlists against it."""

    def __init__(self, file: BinaryIO, source: Source) -> None:
        self._file, self._source = file, source

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self._source.size() is None:
            # libav seeks from the end only to ask for the size, for an estimate that it can do without; waiting
            # for the end of an upload here would keep every film from being coloured while it comes.
            return -1
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)
