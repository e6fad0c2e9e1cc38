"""Gray beside coloured, and shots that are in colour already: --compare, --keep-color."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kinochrome_proto.errors import BadSettings
from tests import films, reading
from tests.films import Kind, Shot
from tests.server.colouring import run

pytestmark = pytest.mark.usefixtures("shared_workers")


TURNED = [
    *((Kind("film.mp4", size=(320, 160), frames=5, rotation=turn), "") for turn in (0, 90, 180, 270)),
    *((Kind("film.mp4", size=(162, 122), frames=5, rotation=turn), "") for turn in (0, 90)),
    *((Kind("film.mp4", size=(161, 121), codec="ffv1", frames=5, rotation=turn), "yuv444p") for turn in (0, 90)),
]


@pytest.mark.parametrize(
    ("kind", "pix_fmt"), TURNED, ids=[f"{kind.size[0]} wide, turned by {kind.rotation}" for kind, _ in TURNED]
)
def test_a_comparison_shows_gray_left_and_colour_right(kind: Kind, pix_fmt: str, tmp_path: Path) -> None:
    film = films.make(tmp_path, kind)
    run(film, tmp_path / "out.mp4", compare=True, codec="ffv1", pix_fmt=pix_fmt)
    source, coloured = reading.pictures(film), reading.pictures(tmp_path / "out.mp4")
    turns = source[0].rotation // 90
    assert coloured[0].rotation == source[0].rotation and (turns == 0) == (kind.rotation == 0)
    for before, after in zip(source, coloured, strict=True):
        width, height = before.luma.shape[::-1]
        assert after.luma.shape == ((2 * height, width) if turns % 2 else (height, 2 * width))
        shown = [np.rot90(plane, turns) for plane in after.planes]  # as a player turns it
        expected = np.rot90(before.luma, turns)
        for half in np.split(shown[0], 2, axis=1):
            assert np.array_equal(half, expected)
        for plane in shown[1:]:
            gray, painted = np.split(plane, 2, axis=1)
            assert np.all(gray == 128)
            assert np.abs(painted.astype(int) - 128).mean() > 0.5


def test_a_comparison_whose_halves_would_share_chroma_is_refused(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4", size=(161, 120), codec="ffv1", frames=2))
    with pytest.raises(BadSettings, match="use --codec ffv1 with --pix-fmt yuv444p"):
        run(film, tmp_path / "out.mkv", compare=True, codec="ffv1", pix_fmt="yuv420p")


SHOTS = [Shot("gray", 15), Shot("colour"), Shot("tint", 15), Shot("colour", 30), Shot("toned", 15), Shot("gray", 10)]


def kinds_of(shots: Sequence[Shot]) -> list[str]:
    """Of every frame."""
    return [shot.chroma for shot in shots for _ in range(shot.frames)]


@pytest.mark.parametrize("codec", ["ffv1", "libx264"])
def test_shots_in_colour_keep_their_own_chroma_and_all_others_are_painted(codec: str, tmp_path: Path) -> None:
    film = films.make_shots(tmp_path, SHOTS, codec=codec)
    run(film, tmp_path / "kept.mkv", codec="ffv1", keep_color=True)
    run(film, tmp_path / "painted.mkv", codec="ffv1")
    source, kept, painted = (reading.pictures(file) for file in (film, tmp_path / "kept.mkv", tmp_path / "painted.mkv"))
    assert len(source) == len(kept) == len(painted) == sum(shot.frames for shot in SHOTS)
    for chroma, before, after, all_new in zip(kinds_of(SHOTS), source, kept, painted, strict=True):
        own, new, usual = (np.stack(picture.planes[1:]) for picture in (before, after, all_new))
        assert np.array_equal(before.luma, after.luma)
        assert not np.array_equal(own, usual)
        if chroma == "colour":
            assert np.array_equal(new, own)
        else:
            assert np.array_equal(new, usual)


def test_a_comparison_leaves_even_colour_gray_on_the_left(tmp_path: Path) -> None:
    film = films.make_shots(tmp_path, [Shot("colour", 5)])
    run(film, tmp_path / "out.mkv", codec="ffv1", keep_color=True, compare=True)
    for before, after in zip(reading.pictures(film), reading.pictures(tmp_path / "out.mkv"), strict=True):
        for own, plane in zip(before.planes[1:], after.planes[1:], strict=True):
            gray, right = np.split(plane, 2, axis=1)
            assert np.all(gray == 128) and np.array_equal(right, own)
