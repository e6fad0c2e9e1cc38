"""Clips: how steady colours are, in films and folders of frames."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinochrome_trainer import sequences
from kinochrome_trainer.consistency import cdc, histograms
from kinochrome_trainer.errors import BadData
from tests import films
from tests.films import Kind
from tests.trainer.painters import OneColour


def frames(folder: Path, colours: list[tuple[int, int, int]]) -> Path:
    folder.mkdir(parents=True)
    for index, colour in enumerate(colours):
        Image.new("RGB", (32, 24), colour).save(folder / f"{index:03}.png")
    return folder


def test_histograms_that_share_nothing_are_log_2_apart() -> None:
    black, white = (histograms(np.full((4, 4, 3), level, np.uint8)) for level in (0, 255))
    still = np.stack([black] * 6)
    assert cdc(still, [False] * 6) == 0
    flicker = np.stack([black, white] * 3)  # frames 1 apart share nothing, frames 2 and 4 apart everything
    assert cdc(flicker, [False] * 6) == pytest.approx(np.log(2) / 3)
    cut = np.stack([black] * 5 + [white] * 5)
    assert cdc(cut, [False] * 10) > 0.1
    assert cdc(cut, [index == 5 for index in range(10)]) == 0


def test_half_of_one_channel_counts_a_third() -> None:
    frame = np.zeros((2, 4, 3), np.uint8)
    other = frame.copy()
    other[0, :, 1] = 200  # p = (1, 0), q = (½, ½), m = (¾, ¼)
    divergence = 0.5 * np.log(4 / 3) + 0.5 * (0.5 * np.log(2 / 3) + 0.5 * np.log(2))
    found = cdc(np.stack([histograms(one) for one in (frame, other) * 3]), [False] * 6)
    assert found == pytest.approx(divergence / 3 / 3)


def test_a_clip_is_measured_beside_gray_and_truth(tmp_path: Path) -> None:
    red, green = (150, 90, 90), (90, 121, 90)  # of nearly the same luma
    clip = sequences.measure(OneColour((0.1, 0.1)), frames(tmp_path / "clip", [red, green] * 4), 16, None)
    assert clip.name == "clip" and clip.frames == 8 and clip.cuts == 0
    assert clip.versions["truth"].cdc == pytest.approx(1000 * np.log(2) * 2 / 9, rel=1e-3)  # two channels of three
    assert clip.versions["gray"].colourfulness == pytest.approx(0, abs=1e-3)
    assert clip.versions["ours"].colourfulness > 5


def test_cdc_does_not_look_across_a_cut(tmp_path: Path) -> None:
    folder = frames(tmp_path / "clip", [(10, 10, 10)] * 6 + [(200, 200, 200)] * 6)
    clip = sequences.measure(OneColour(), folder, 16, None)
    assert clip.cuts == 1 and clip.versions["truth"].cdc == 0


def test_films_and_folders_are_found(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4", frames=12))
    folder = frames(tmp_path / "shot", [(9, 9, 9)] * 6)
    (tmp_path / "notes.txt").touch()
    assert sequences.clips([tmp_path]) == [film, folder]
    assert sequences.clips([film, folder]) == [film, folder]
    assert sequences.measure(OneColour(), film, 16, None).frames == 12
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "no"):
        with pytest.raises(BadData, match="holds no clip: name films, or folders of frames"):
            sequences.clips([source])


def test_what_cannot_be_measured_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadData, match="holds no shot of 5 frames or more"):
        sequences.measure(OneColour(), frames(tmp_path / "short", [(9, 9, 9)] * 4), 16, None)
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(BadData, match=r"text\.mp4 cannot be read as a film"):
        sequences.measure(OneColour(), tmp_path / "text.mp4", 16, None)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BadData, match=r"needs PyAV.*kinochrome\[server\]"):
        sequences.measure(OneColour(), tmp_path / "text.mp4", 16, None)
