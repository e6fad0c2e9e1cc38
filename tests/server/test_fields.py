"""Interlaced film, kept so or made whole: --deinterlace."""

from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from kinochrome_server.fields import marked
from kinochrome_server.looks import Look
from tests import films, reading
from tests.films import Kind
from tests.server.colouring import run
from tests.server.painters import by_luma

pytestmark = pytest.mark.usefixtures("shared_workers")


WOVEN = [
    pytest.param("film.mp4", "libx264", True, id="h264"),
    pytest.param("film.mkv", "ffv1", True, id="ffv1"),
    pytest.param("film.mkv", "ffv1", False, id="not marked"),
]
OUTPUTS = [("out.mp4", "h264"), ("out.mkv", "ffv1")]
CODES = {"": 1, "tff": 2, "bff": 3}


def orders(film: Path) -> set[str]:
    """What the frames say of themselves."""
    with av.open(str(film)) as container:
        return {marked(frame) for frame in container.decode(video=0)}


def stated_order(film: Path) -> int:
    with av.open(str(film)) as container:
        return container.streams.video[0].codec_context.field_order


def combing(luma: npt.NDArray[Any]) -> float:
    lines = luma.astype(int)
    return float(np.abs(2 * lines[1:-1] - lines[:-2] - lines[2:]).mean())


@pytest.mark.parametrize(("out", "codec"), OUTPUTS)
@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize(("name", "source_codec", "is_marked"), WOVEN)
def test_woven_fields_come_out_whole(
    name: str, source_codec: str, is_marked: bool, order: str, out: str, codec: str, tmp_path: Path
) -> None:
    film = films.make_woven(tmp_path, order, name, source_codec, is_marked=is_marked)
    _, said = run(film, tmp_path / out, codec=codec, deinterlace=True)
    assert not any("field" in text or "interlace" in text for text in said)
    before, after = reading.pictures(film), reading.pictures(tmp_path / out)
    assert [picture.time for picture in after] == [picture.time for picture in before]
    assert len(after) == 60
    worst = max(combing(two.luma) / combing(one.luma) for one, two in zip(before, after, strict=True))
    assert worst < 0.6
    assert orders(tmp_path / out) == {""} and stated_order(tmp_path / out) in (0, CODES[""])
    if codec == "ffv1":  # the field that comes first is the film's own
        first = 0 if order == "tff" else 1
        for one, two in zip(before, after, strict=True):
            assert np.array_equal(one.luma[first::2], two.luma[first::2])


@pytest.mark.parametrize(("out", "codec"), OUTPUTS)
@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize(("name", "source_codec", "is_marked"), WOVEN)
def test_interlaced_film_stays_as_it_is_unasked(
    name: str, source_codec: str, is_marked: bool, order: str, out: str, codec: str, tmp_path: Path
) -> None:
    film = films.make_woven(tmp_path, order, name, source_codec, is_marked=is_marked)
    _, said = run(film, tmp_path / out, codec=codec)
    assert sum("fields are seen in the film that it does not mark" in text for text in said) == (not is_marked)
    assert orders(tmp_path / out) == {order} and stated_order(tmp_path / out) == CODES[order]
    if codec == "ffv1":
        for one, two in zip(reading.pictures(film), reading.pictures(tmp_path / out), strict=True):
            assert np.array_equal(one.luma, two.luma)


def test_progressive_film_is_left_alone_by_deinterlacing(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=40))
    run(film, tmp_path / "asked.mkv", codec="ffv1", deinterlace=True)
    run(film, tmp_path / "plain.mkv", codec="ffv1")
    assert (tmp_path / "asked.mkv").read_bytes() == (tmp_path / "plain.mkv").read_bytes()


def test_the_colours_of_each_field_follow_its_own_moment(tmp_path: Path) -> None:
    film = films.make_woven(tmp_path, "tff", "film.mkv", "ffv1")
    run(film, tmp_path / "out.mkv", codec="ffv1", colorizer=by_luma(tmp_path), look=Look(stabilize=0))
    for picture in reading.pictures(tmp_path / "out.mkv")[5:30]:
        for parity in (0, 1):
            luma = picture.luma[parity::2].astype(float)  # each of its lines has one of chroma at twice the distance
            for plane in picture.planes[1:3]:
                chroma = plane[parity::2].astype(float)
                rows = chroma.shape[0]
                own = cv2.resize(luma, (plane.shape[1], rows), interpolation=cv2.INTER_AREA)
                other = cv2.resize(
                    picture.luma[1 - parity :: 2].astype(float), (plane.shape[1], rows), interpolation=cv2.INTER_AREA
                )
                fit, misfit = (abs(np.corrcoef(chroma.ravel(), guide.ravel())[0, 1]) for guide in (own, other))
                assert fit > misfit + 0.005
