"""Colours are held steady along motion, and nowhere else."""

from itertools import pairwise
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from kinochrome_server.steady import LOOKAHEAD, WARM_UP, Stabilizer

Float = npt.NDArray[np.float32]
Luma = npt.NDArray[np.uint8]

H, W = 96, 128


def texture(seed: int = 1) -> Float:
    chance = np.random.default_rng(seed)
    coarse = chance.uniform(60, 220, (24, 80)).astype(np.float32)
    return cast(Float, cv2.resize(coarse, (4 * W, H), interpolation=cv2.INTER_CUBIC))


def moving(count: int, step: int) -> tuple[list[Luma], list[Float]]:
    """A textured wall passing by at `step` pixels a frame, left half red, right half blue; and its true chroma."""
    wall = texture()
    colours = np.zeros((2, H, 4 * W), np.float32)
    colours[0, :, 200:], colours[1, :, :200] = 0.2, 0.2
    lumas, chromas = [], []
    for index in range(count):
        left = 120 + index * step
        lumas.append(wall[:, left : left + W].clip(0, 255).astype(np.uint8))
        part = colours[:, :, left : left + W]
        chromas.append(np.stack([cv2.resize(plane, (W // 4, H // 4), interpolation=cv2.INTER_AREA) for plane in part]))
    return lumas, chromas


def noisy(chromas: list[Float], amount: float = 0.05, seed: int = 3) -> list[Float]:
    chance = np.random.default_rng(seed)
    return [chroma + chance.normal(0, amount, chroma.shape).astype(np.float32) for chroma in chromas]


def run(lumas: list[Luma], chromas: list[Float], strength: float = 0.8, cuts: tuple[int, ...] = ()) -> list[Float]:
    stabilizer = Stabilizer(strength)
    out: list[Float] = []
    for index, (luma, chroma) in enumerate(zip(lumas, chromas, strict=True)):
        out += stabilizer.push(luma, chroma, index in cuts)
        assert len(out) >= index + 1 - LOOKAHEAD - 1
    out += stabilizer.flush()
    assert len(out) == len(lumas)
    return out


def error(ours: list[Float], truth: list[Float]) -> float:
    return float(np.mean([np.abs(a - b).mean() for a, b in zip(ours, truth, strict=True)]))


@pytest.mark.parametrize("step", [0, 1, 3])
def test_flicker_goes_and_colour_stays_where_it_belongs(step: int) -> None:
    lumas, truth = moving(40, step)
    flickering = noisy(truth)
    steadied = run(lumas, flickering)
    assert error(steadied, truth) < 0.5 * error(flickering, truth)
    changes = [np.mean([np.abs(b - a).mean() for a, b in pairwise(planes)]) for planes in (flickering, steadied)]
    assert changes[1] < 0.5 * changes[0]


def test_colour_travels_with_what_it_belongs_to() -> None:
    """Stripes of colour on a moving wall: averaged in place, they would wash each other out."""
    lumas, _ = moving(30, 4)
    stripes = np.where(np.arange(4 * W) // 16 % 2, 0.2, -0.2).astype(np.float32)
    truth = []
    for index in range(30):
        left = 120 + 4 * index
        row = stripes[left : left + W].reshape(-1, 4).mean(1)
        truth.append(np.broadcast_to(row, (2, H // 4, W // 4)).astype(np.float32))
    for ours, right in zip(run(lumas, truth)[8:-8], truth[8:-8], strict=True):
        inner = (slice(None), slice(None), slice(10, -10))  # what has been in the picture all along
        assert np.abs(ours[inner] - right[inner]).mean() < 0.05


@pytest.mark.parametrize("flicker", [0, 20], ids=["still", "flickering exposure"])
def test_at_full_strength_a_still_picture_takes_the_plain_mean_of_its_window(flicker: int) -> None:
    """One frame of another colour spreads over the frames that have it in their window, in equal parts."""
    wall, count, odd = texture()[:, :W].clip(30, 225), 40, 20
    lumas = [(wall + (flicker if index % 2 else -flicker)).astype(np.uint8) for index in range(count)]
    chromas = [np.full((2, H // 4, W // 4), 0.34 if index == odd else 0.0, np.float32) for index in range(count)]
    steadied = run(lumas, chromas, 1.0)
    for index in range(WARM_UP, count - LOOKAHEAD):
        inside = -LOOKAHEAD <= index - odd <= WARM_UP
        expected = 0.34 / (WARM_UP + 1 + LOOKAHEAD) if inside else 0.0
        assert float(np.median(steadied[index])) == pytest.approx(expected, abs=0.002)


def test_what_moves_leaves_no_ghost() -> None:
    """A small coloured ball over a still wall: where it was, the wall has its own colour again."""
    wall = texture(2)[:, :W]
    lumas, truth = [], []
    for index in range(24):
        luma, chroma = wall.copy(), np.zeros((2, H, W), np.float32)
        centre = (10 + 5 * index, 48)
        cv2.circle(luma, centre, 9, 250.0, -1)
        cv2.circle(chroma[1], centre, 9, 0.3, -1)
        lumas.append(luma.clip(0, 255).astype(np.uint8))
        small = [cv2.resize(plane, (W // 4, H // 4), interpolation=cv2.INTER_AREA) for plane in chroma]
        truth.append(cast(Float, np.stack(small)))
    steadied = run(lumas, truth)
    for ours, right in zip(steadied[8:-8], truth[8:-8], strict=True):
        away = cv2.dilate(right[1], np.ones((5, 5))) == 0
        assert np.abs(ours[1][away]).max() < 0.1  # a third of the ball's colour
        assert np.abs(ours[1][away]).mean() < 0.005
        assert ours[1].max() > 0.6 * right[1].max()


def test_nothing_passes_a_cut() -> None:
    lumas, _ = moving(24, 0)
    chromas = [np.full((2, H // 4, W // 4), 0.2 if index < 12 else -0.2, np.float32) for index in range(24)]
    steadied = run(lumas, chromas, cuts=(12,))
    for ours, own in zip(steadied, chromas, strict=True):
        assert np.allclose(ours, own, atol=1e-5)
    mixed = run(lumas, chromas)
    assert np.abs(mixed[12] - chromas[12]).max() > 0.05  # without the cut it would


def test_a_frame_depends_on_its_window_alone_so_segments_do_not_show() -> None:
    lumas, truth = moving(60, 2)
    chromas = noisy(truth)
    whole = run(lumas, chromas)
    first, last = 20 - WARM_UP, 40 + LOOKAHEAD
    piece = run(lumas[first:last], chromas[first:last])[WARM_UP:][:20]
    for ours, right in zip(piece, whole[20:40], strict=True):
        assert np.array_equal(ours, right)


def test_strength_0_touches_nothing_and_equal_pushes_give_equal_bytes() -> None:
    lumas, truth = moving(12, 1)
    chromas = noisy(truth)
    assert all(ours is own for ours, own in zip(run(lumas, chromas, 0.0), chromas, strict=True))
    assert [plane.tobytes() for plane in run(lumas, chromas)] == [plane.tobytes() for plane in run(lumas, chromas)]
    assert error(run(lumas, chromas, 1.0), truth) < error(run(lumas, chromas, 0.3), truth)


def test_a_flicker_of_the_exposure_does_not_break_the_hold() -> None:
    lumas, truth = moving(30, 0)
    chance = np.random.default_rng(4)
    flickering = [(luma * chance.uniform(0.85, 1.0)).astype(np.uint8) for luma in lumas]
    chromas = noisy(truth)
    assert error(run(flickering, chromas), truth) < 0.6 * error(chromas, truth)


def test_the_dark_is_damped_and_the_light_is_not() -> None:
    chroma = np.full((2, 24, 32), 0.2, np.float32)
    for level, kept in ((0, 0.3), (14, 0.65), (60, 1.0), (255, 1.0)):
        luma = np.full((96, 128), level, np.uint8)
        (ours,) = run([luma], [chroma])
        assert float(ours.mean()) == pytest.approx(0.2 * kept, abs=0.002)


@pytest.mark.parametrize("shape", [(16, 16), (32, 16), (160, 640), (8, 8), (33, 47)])
def test_any_shape_will_do(shape: tuple[int, int]) -> None:
    chance = np.random.default_rng(1)
    lumas = [chance.integers(60, 255, shape, np.uint8) for _ in range(4)]
    small = (2, max(1, shape[0] // 4), max(1, shape[1] // 4))
    chromas = [chance.normal(0, 0.1, small).astype(np.float32) for _ in range(4)]
    assert [ours.shape for ours in run(lumas, chromas)] == [small] * 4
