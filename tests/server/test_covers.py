"""A cover picture comes through, as each container has it."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.stream import VideoStream
from PIL import Image

from kinochrome_server.pipeline import Settings, colorize
from kinochrome_server.pool import WorkerPool
from kinochrome_server.sources import FileSource
from tests import films
from tests.films import Kind


def with_cover(folder: Path, picture: bytes) -> Path:
    plain, film = films.make(folder, Kind("plain.mp4", frames=10, audio="aac")), folder / "film.mp4"
    with av.open(str(plain)) as source, av.open(str(film), "w") as target:
        copies = {stream.index: target.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        cover = target.add_stream("png", rate=1)
        assert isinstance(cover, VideoStream)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = Disposition.attached_pic
        for packet in source.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                target.mux(packet)
        packet = av.Packet(picture)
        packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, Fraction(1, 1000)
        target.mux(packet)
    return film


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_cover_comes_through(suffix: str, pool: WorkerPool, tmp_path: Path) -> None:
    packed = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), (200, 30, 60), np.uint8)).save(packed, "PNG")
    film, out, said = with_cover(tmp_path, packed.getvalue()), tmp_path / f"out{suffix}", list[str]()
    with out.open("wb") as sink:
        colorize(FileSource(film), sink, Settings(container=suffix[1:]), pool=pool, on_warning=said.append)
    assert not [text for text in said if "left out" in text or "copied as it is" in text]
    with av.open(str(out)) as container:
        (cover,) = [stream for stream in container.streams if stream.disposition & Disposition.attached_pic]
        (packet,) = [packet for packet in container.demux(cover) if packet.size]
        assert bytes(packet) == packed.getvalue()
