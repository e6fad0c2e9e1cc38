"""The promises on real films of many kinds."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kinochrome_client import remote
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_server.pipeline import Settings, colorize
from kinochrome_server.sources import FileSource
from tests import reading, shared
from tests.server import serving

EXACT = ".mp4"  # its clock is the film's own, whatever that is
MATROSKA = {".mkv", ".webm"}
BLACK = 24  # 8-bit code value: a film that never gets brighter has no colour to show
COARSEST_CLOCK_S = 0.0005 + 1e-9  # Matroska's whole milliseconds: at most half of one off


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    with serving.running(tmp_path_factory.mktemp("server")) as running:
        yield running


def coloured(film: Path, folder: Path, codec: str, suffix: str) -> Path:
    out = folder / f"out{suffix}"
    with out.open("wb") as sink:
        report = colorize(FileSource(film), sink, Settings(codec=codec, container=suffix[1:]))
    assert report.frames == len(reading.pictures(out))
    return out


@pytest.mark.slow
@shared.needs_data
@pytest.mark.parametrize("film", shared.films(), ids=lambda film: film.name)
def test_time_sound_and_length_are_the_films_and_it_is_in_colour(
    film: Path, server: serving.Server, tmp_path: Path
) -> None:
    suffix = ".mkv" if film.suffix in MATROSKA else EXACT
    out = coloured(film, tmp_path, "h264", suffix)
    with (tmp_path / "remote").open("w+b") as sink:
        remote.colorize(server.address, film, sink, wire.Settings(codec="h264", container=suffix[1:]))
    assert (tmp_path / "remote").read_bytes() == out.read_bytes()
    before, after = reading.pictures(film), reading.pictures(out)
    assert len(before) == len(after)
    if film.name == "vp9.webm":  # its clock counts nanoseconds, Matroska's, as libav writes it, milliseconds
        for a, b in zip(before, after, strict=True):
            assert a.time is not None and b.time is not None and abs(a.time - b.time) <= COARSEST_CLOCK_S
    else:
        assert [picture.time for picture in before] == [picture.time for picture in after]
    sound, copied = reading.tracks(film, "audio"), reading.tracks(out, "audio")
    assert [track.packets for track in sound] == [track.packets for track in copied]
    for track, copy in zip(sound, copied, strict=True):
        assert np.abs(np.array(track.times) - np.array(copy.times)).max(initial=0) <= COARSEST_CLOCK_S
        assert track.language in (copy.language, None, "und")
    first, last = before[0].time, before[-1].time
    assert first is not None and last is not None
    frame = float(last - first) / max(len(before) - 1, 1)
    assert abs(reading.seconds(film) - reading.seconds(out)) <= max(frame, 0.05)
    if max(picture.luma.max() >> (picture.depth - 8) for picture in before) > BLACK:
        assert max(picture.chroma_strength() for picture in after) > 1


@pytest.mark.slow
@shared.needs_data
@pytest.mark.parametrize("film", shared.films(), ids=lambda film: film.name)
def test_luma_is_the_films_byte_for_byte(film: Path, tmp_path: Path) -> None:
    out = coloured(film, tmp_path, "ffv1", ".mkv")
    before, after = reading.pictures(film), reading.pictures(out)
    assert len(before) == len(after)
    for index, (a, b) in enumerate(zip(before, after, strict=True)):
        assert a.depth == b.depth and a.full_range == b.full_range and a.rotation == b.rotation
        assert np.array_equal(a.luma, b.luma), f"frame {index}"
        assert a.time is not None and b.time is not None and abs(a.time - b.time) <= COARSEST_CLOCK_S
