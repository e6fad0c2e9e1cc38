"""Sizes that containers state, against files made whole, cut and never finished."""

import io
from pathlib import Path

import pytest

from kinochrome_server.stated_size import stated_size
from tests import films
from tests.films import Kind


@pytest.mark.parametrize("name", ["film.mp4", "film.mov", "film.mkv", "film.avi"])
def test_a_whole_film_states_its_size(name: str, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind(name, frames=5, options={"bf": "0"}))
    with film.open("rb") as file:
        assert stated_size(file) == film.stat().st_size


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.avi"])
def test_a_cut_film_states_more_than_is_there(name: str, tmp_path: Path) -> None:
    whole = films.make(tmp_path, Kind(name, frames=5, options={"bf": "0"}, faststart=True)).read_bytes()
    stated = stated_size(io.BytesIO(whole[:-1]))
    assert stated is not None and stated > len(whole) - 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"plain text, quite long enough",
        bytes(64),
        b"\x1aE\xdf\xa3" + b"\xff" * 20,
        b"RIFF\0\0\0\0AVI LIST",
        b"\0\0\0\0ftypisom" + bytes(8),
        b"\x1aE\xdf\xa3\x80\x18S\x80g\x01\xff\xff\xff\xff\xff\xff\xff",  # a live recording
    ],
)
def test_what_states_nothing_gives_none(data: bytes) -> None:
    assert stated_size(io.BytesIO(data)) is None
