"""What is asked of the colours, in films: --saturation, --warmth, --stabilize, --seed, --reference."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper

from kinochrome_server.looks import Look
from tests import films, reading
from tests.films import Kind
from tests.server.colouring import command, run
from tests.server.painters import built, stochastic

pytestmark = pytest.mark.usefixtures("shared_workers")


LOOKED_AT = Kind("film.mkv", frames=24)


def chroma_of(film: Path, folder: Path, look: Look, **settings: Any) -> npt.NDArray[np.float64]:
    """(frames, 2, h, w) of the film coloured so, in code values from neutral."""
    run(film, folder / "out.mkv", codec="ffv1", look=look, **settings)
    planes = [picture.planes[1:] for picture in reading.pictures(folder / "out.mkv")]
    return np.stack([np.stack(pair) for pair in planes]).astype(np.float64) - 128


def test_saturation_goes_from_gray_to_vivid(tmp_path: Path) -> None:
    film = films.make(tmp_path, LOOKED_AT)
    none, half, usual, double = (chroma_of(film, tmp_path, Look(saturation=factor)) for factor in (0, 0.5, 1, 2))
    assert np.all(none == 0)
    assert np.abs(usual).mean() > 1
    free = np.abs(double) < 111  # limited range ends at 112
    assert free.mean() > 0.5
    assert np.abs(double - 2 * usual)[free].max() <= 2  # each was rounded
    assert np.abs(usual - 2 * half).max() <= 2


def test_warmth_takes_from_blue_and_gives_to_red(tmp_path: Path) -> None:
    film = films.make(tmp_path, LOOKED_AT)
    cold, usual, warm = (chroma_of(film, tmp_path, Look(warmth=warmth)).mean((0, 2, 3)) for warmth in (-1, 0, 1))
    assert warm[0] < usual[0] - 3 and cold[0] > usual[0] + 3  # Cb
    assert warm[1] > usual[1] + 3 and cold[1] < usual[1] - 3  # Cr


def test_stabilizing_makes_colours_steadier_the_more_of_it(tmp_path: Path) -> None:
    colorizer = flickering(tmp_path)
    film = films.make(tmp_path, replace(LOOKED_AT, frames=60, size=(128, 96)))
    flicker = [
        np.abs(np.diff(chroma_of(film, tmp_path, Look(stabilize=amount), colorizer=colorizer), axis=0)).mean()
        for amount in (0, 0.5, 1)
    ]
    assert flicker[0] > 1.3 * flicker[1] > 1.3 * flicker[2]


def flickering(folder: Path) -> str:
    """Paints by a wild function of the whole picture's mean: motion and grain make it another from frame to frame."""
    nodes = [
        helper.make_node("ReduceMean", ["gray", "axes"], ["mean"]),
        helper.make_node("Mul", ["mean", "wild"], ["angle"]),
        helper.make_node("Sin", ["angle"], ["phase"]),
        helper.make_node("Mul", ["phase", "strength"], ["hue"]),
        helper.make_node("Mul", ["gray", "nothing"], ["flat"]),
        helper.make_node("Add", ["flat", "hue"], ["chroma"]),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "axes": np.array([1, 2, 3], np.int64),
        "wild": np.array([5000, 7000], np.float32).reshape(1, 2, 1, 1),
        "strength": np.array(0.05, np.float32),
        "nothing": np.array(0, np.float32),
    }
    return built(folder, "flickering", nodes, constants)


def test_a_seed_chooses_a_colouring_and_the_same_seed_the_same(tmp_path: Path) -> None:
    colorizer, film = stochastic(tmp_path), films.make(tmp_path, replace(LOOKED_AT, frames=110))
    made = {}
    for run_name, seed in (("zero", 0), ("one", 1), ("again", 1), ("two", 2)):
        _, said = run(film, tmp_path / f"{run_name}.mkv", codec="ffv1", colorizer=colorizer, look=Look(seed=seed))
        assert not any("seed" in text for text in said)
        made[run_name] = reading.pictures(tmp_path / f"{run_name}.mkv")
    assert (tmp_path / "one.mkv").read_bytes() == (tmp_path / "again.mkv").read_bytes()
    means = {name: np.array([[plane.mean() - 128 for plane in one.planes[1:]] for one in made[name]]) for name in made}
    for one, other in (("zero", "one"), ("one", "two"), ("zero", "two")):
        assert np.abs(means[one].mean(0) - means[other].mean(0)).max() > 3
    for mean in means.values():  # one colouring for the whole film
        assert np.ptp(np.unwrap(np.arctan2(mean[:, 0], mean[:, 1]))) < 0.1


def test_a_colorizer_of_one_style_says_that_a_seed_changes_nothing(tmp_path: Path) -> None:
    film = films.make(tmp_path, replace(LOOKED_AT, frames=3))
    _, said = run(film, tmp_path / "seed.mkv", codec="ffv1", look=Look(seed=5))
    assert sum("default has one style only: --seed changes nothing" in text for text in said) == 1
    _, said = run(film, tmp_path / "none.mkv", codec="ffv1")
    assert not any("seed" in text for text in said)
    assert (tmp_path / "seed.mkv").read_bytes() == (tmp_path / "none.mkv").read_bytes()


def still(*colours: tuple[int, int, int]) -> bytes:
    """A PNG of gray ramps tinted so (blue, green, red)."""
    ramp = np.linspace(0.15, 1, 128)[np.newaxis, :, np.newaxis] * np.ones((32, 1, 1))
    picture = np.concatenate([ramp * np.array(colour) for colour in colours]).astype(np.uint8)
    return bytes(cv2.imencode(".png", picture)[1])


@pytest.mark.parametrize(
    ("colour", "plane", "sign"),
    [((230, 120, 60), 0, 1), ((60, 120, 230), 1, 1), ((60, 200, 60), 1, -1)],
    ids=["blue", "red", "green"],
)
def test_a_still_draws_the_films_colours_to_its_own(
    colour: tuple[int, int, int], plane: int, sign: int, tmp_path: Path
) -> None:
    film = films.make(tmp_path, LOOKED_AT)
    usual = chroma_of(film, tmp_path, Look()).mean((0, 2, 3))
    drawn = chroma_of(film, tmp_path, Look(references=(still(colour),))).mean((0, 2, 3))
    assert sign * (drawn[plane] - usual[plane]) > 2


def test_a_still_given_to_the_command_steers_the_film(tmp_path: Path) -> None:
    film = films.make(tmp_path, LOOKED_AT)
    (tmp_path / "blue.png").write_bytes(still((230, 120, 60)))
    steered: list[str | Path] = ["--reference", tmp_path / "blue.png"]
    for name, arguments in (("plain.mkv", []), ("blue.mkv", steered)):
        done = command(film, "-o", tmp_path / name, "--codec", "ffv1", *arguments)
        assert done.returncode == 0, done.stderr
    plain, blue = (
        np.mean([picture.planes[1].mean() for picture in reading.pictures(tmp_path / name)])
        for name in ("plain.mkv", "blue.mkv")
    )
    assert blue > plain + 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "still.png cannot be read: No such file or directory"),
        (b"not a picture", "--reference: still 1 is no picture that can be read: use JPEG, PNG, WebP or TIFF"),
        (still((200, 200, 200)), "--reference: still 1 has no colour: use colour stills"),
        (still((230, 120, 60))[:60], "--reference: still 1 is damaged: give another copy"),
    ],
    ids=["missing", "text", "gray", "damaged"],
)
def test_a_still_that_cannot_be_used_gives_one_line(content: bytes | None, words: str, tmp_path: Path) -> None:
    film = films.make(tmp_path, LOOKED_AT)
    if content is not None:
        (tmp_path / "still.png").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    done = command(film, "-o", tmp_path / "out.mp4", "--reference", tmp_path / "still.png")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("kinochrome: ") and done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr
    assert sorted(tmp_path.iterdir()) == before
