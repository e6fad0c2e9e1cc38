"""Cuts are found where shots change, and nowhere else."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from kinochrome_server.cuts import DELAY, CutFinder

Frames = list[npt.NDArray[np.uint8]]


def scene(seed: int, count: int, *, pan: float = 1.0, grain: float = 0.0, flicker: float = 0.0) -> Frames:
    """A textured picture under a moving camera."""
    chance = np.random.default_rng(seed)
    coarse = chance.uniform(20, 235, (14, 20)).astype(np.float32)
    large = cv2.resize(coarse, (480, 240), interpolation=cv2.INTER_CUBIC)
    frames = []
    for index in range(count):
        left = round(index * pan)
        picture = large[20:140, left : left + 160] + chance.normal(0, grain, (120, 160))
        picture = picture * (1 + flicker * chance.uniform(-1, 1))
        frames.append(picture.clip(0, 255).astype(np.uint8))
    return frames


def cuts(frames: Frames) -> list[int]:
    finder = CutFinder()
    said: list[bool] = []
    for index, frame in enumerate(frames):
        said += finder.push(frame)
        assert len(said) >= index - DELAY  # never later than promised
    said += finder.flush()
    assert len(said) == len(frames)
    return [index for index, cut in enumerate(said) if cut]


def test_shots_begin_where_they_begin() -> None:
    assert cuts(scene(1, 20) + scene(2, 7) + scene(3, 30)) == [20, 27]


@pytest.mark.parametrize("length", [3, 4, 5])
def test_short_shots_count(length: int) -> None:
    assert cuts(scene(1, 20) + scene(2, length) + scene(3, 20)) == [20, 20 + length]


@pytest.mark.parametrize(
    "worn",
    [{"grain": 25.0}, {"flicker": 0.25}, {"pan": 4.0}, {"pan": 2.0, "grain": 20.0, "flicker": 0.15}],
    ids=str,
)
def test_wear_and_motion_are_no_cuts(worn: dict[str, float]) -> None:
    assert cuts(scene(5, 60, **worn)) == []


@pytest.mark.parametrize("length", [1, 2])
def test_a_flash_or_a_torn_frame_is_no_cut(length: int) -> None:
    flash = [np.full((120, 160), 250, np.uint8)] * length
    frames = scene(1, 40)
    assert cuts(frames[:20] + flash + frames[20 + length :]) == []


def test_a_jump_in_the_gate_is_no_cut() -> None:
    frames = scene(1, 40, pan=0)
    frames[20:] = [np.roll(frame, 6, 0) for frame in frames[20:]]
    assert cuts(frames) == []


def test_a_fade_is_no_cut() -> None:
    frames = scene(1, 40)
    faded = [(frame * (1 - index / 39)).astype(np.uint8) for index, frame in enumerate(frames)]
    assert cuts(faded) == []


def test_a_run_of_frames_that_have_nothing_in_common_is_no_run_of_shots() -> None:
    assert cuts([frame for seed in range(30) for frame in scene(seed, 1)]) == []


def test_a_cut_under_grain_and_flicker_is_found() -> None:
    assert cuts(scene(1, 25, grain=20, flicker=0.1) + scene(2, 25, grain=20, flicker=0.1)) == [25]


@pytest.mark.parametrize("shape", [(16, 16), (16, 400), (300, 20), (1, 1)])
def test_any_shape_will_do(shape: tuple[int, int]) -> None:
    black, white = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
    assert cuts([black] * 4 + [white] * 4) == []  # one gray or another: nothing new is in the picture
    assert cuts([]) == []
    assert cuts([black]) == []
