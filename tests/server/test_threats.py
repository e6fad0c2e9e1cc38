"""What enemies send: each is refused in one line, opens nothing, and costs next to nothing."""

import io
import os
import struct
import threading
import zlib
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from kinochrome_proto.errors import BadFilm, KinochromeError
from kinochrome_server.pipeline import Settings, colorize
from kinochrome_server.pool import WorkerPool
from kinochrome_server.sources import FileSource
from tests import films
from tests.films import Kind


def refused(film: Path, pool: WorkerPool, words: str) -> None:
    with pytest.raises(BadFilm, match=words) as fault:
        colorize(FileSource(film), io.BytesIO(), Settings(), pool=pool)
    assert "\n" not in str(fault.value)


class Listener:
    """A web server that notes who calls."""

    def __init__(self) -> None:
        called = self.called = []  # type: ignore[var-annotated]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                called.append(self.path)
                self.send_error(404)

            def log_message(self, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> "Listener":
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "dash": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'>"
    "<BaseURL>{target}</BaseURL></MPD>",
    "image list": "{target}\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("name", ["film.mp4", "film.m3u8", "film.ffconcat", "film.mpd", "film.sdp"])
def test_a_playlist_opens_nothing(kind: str, name: str, pool: WorkerPool, tmp_path: Path) -> None:
    secret = films.make(tmp_path, Kind("secret.mp4", frames=3))
    with Listener() as web:
        address = f"http://127.0.0.1:{web.server.server_port}/stolen.ts"
        for target in (secret.name, str(secret), f"file://{secret}", address):
            film = tmp_path / name
            film.write_text(PLAYLISTS[kind].format(target=target))
            refused(film, pool, "is not a film, or of a kind that is not known here")
        assert web.called == []


def test_a_playlist_hidden_in_an_avi_index_is_no_film(pool: WorkerPool, tmp_path: Path) -> None:
    """The GAB2 disclosure: subtitles inside AVI that were opened as a playlist."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    playlist = PLAYLISTS["hls"].format(target=f"file://{secret}").encode()
    gab2 = b"GAB2\0\x02\0" + bytes(6) + struct.pack("<HI", 4, len(playlist)) + playlist
    film = films.make(tmp_path, Kind("film.avi", codec="mpeg4", frames=5))
    data = film.read_bytes()
    film.write_bytes(data.replace(b"movi", b"movi02tx" + struct.pack("<I", len(gab2)) + gab2, 1))
    sink = io.BytesIO()
    try:
        colorize(FileSource(film), sink, Settings(container="mkv", lenient=True), pool=pool)
    except KinochromeError:
        return
    assert b"secret" not in sink.getvalue().replace(playlist, b"")


def test_libav_never_learns_the_films_name(pool: WorkerPool, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4", frames=3))
    strange = tmp_path / "%03d.m3u8|pipe:;concat:http:..png"
    film.rename(strange)
    report = colorize(FileSource(strange), io.BytesIO(), Settings(), pool=pool)
    assert report.frames == 3


def png_bomb(width: int, height: int) -> bytes:
    """A small file that claims to be a huge picture."""

    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packed = zlib.compressobj(9)
    lines = b"".join(packed.compress(bytes(1 + width // 8)) for _ in range(height)) + packed.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", lines) + part(b"IEND", b"")


def test_a_picture_bomb_in_a_movie_is_refused(pool: WorkerPool, tmp_path: Path) -> None:
    import av

    bomb = png_bomb(16_000, 16_000)
    assert len(bomb) < 64_000
    small = films.make(tmp_path, Kind("small.mov", codec="png", pix_fmt="gray", frames=1))
    film = tmp_path / "film.mov"
    with av.open(str(small)) as source, av.open(str(film), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
        packet = av.Packet(bomb)
        packet.stream, packet.pts, packet.dts, packet.time_base = copy, 0, 0, Fraction(1, 24)
        target.mux(packet)
    refused(film, pool, "not one frame of its video can be decoded|claim 16000x16000")


def test_a_stream_that_claims_a_huge_size_is_refused(pool: WorkerPool, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.gif", codec="gif", pix_fmt="gray", frames=2, time_base=Fraction(1, 100)))
    data = bytearray(film.read_bytes())
    data[6:10] = struct.pack("<HH", 60_000, 60_000)
    film.write_bytes(data)
    refused(film, pool, "claim 60000x60000|not one frame")


def test_more_streams_than_any_film_has_are_refused(pool: WorkerPool, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=3, audio="flac", languages=("eng",) * 300))
    refused(film, pool, "has 301 streams, more than 256")


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, os.urandom(100_000), b"<html></html>" * 100], ids=range(4))
def test_nonsense_is_no_film(content: bytes, pool: WorkerPool, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(content)
    refused(tmp_path / "film.mp4", pool, "is empty|is not a film|holds no video|not one frame")
