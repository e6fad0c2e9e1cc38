"""The demo's film and its contact sheet."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from benchmarks import contact_sheet, photographs
from PIL import Image

from tests import reading


def test_the_demo_film_is_black_and_white_with_cuts_and_a_tone(tmp_path: Path) -> None:
    count = photographs.make(tmp_path / "film.mp4", width=160, height=120, seconds_per_shot=0.5)
    pictures = reading.pictures(tmp_path / "film.mp4")
    assert len(pictures) == count == 12 * len(photographs.SHOTS)
    assert max(picture.chroma_strength() for picture in pictures) < 0.5
    steps = [np.abs(a.luma.astype(int) - b.luma).mean() for a, b in pairwise(pictures)]
    cuts = {12 * shot - 1 for shot in range(1, len(photographs.SHOTS))}
    assert set(np.argsort(steps)[-len(cuts) :]) == cuts
    assert len(reading.tracks(tmp_path / "film.mp4", "audio")[0].packets) > 50


def test_the_sheet_shows_gray_above_and_coloured_below(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    photographs.make(film, width=160, height=120, seconds_per_shot=0.2)
    contact_sheet.save(film, film, tmp_path / "sheet.png", columns=3, height=60)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (120, 240, 3)
    assert np.array_equal(sheet[:60], sheet[60:])
