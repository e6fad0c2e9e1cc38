"""The shapes that TensorRT's engines are built for are those that films have."""

from fractions import Fraction

import pytest

from kinochrome_proto.manifest import LUMA, NOISE, Manifest
from kinochrome_server.chroma import Geometry
from kinochrome_server.engines.choice import picture
from kinochrome_server.engines.tensorrt_shapes import Profile
from kinochrome_server.planes import Picture

FILMS = [(480, 640), (720, 1280), (1080, 1920), (804, 1920), (696, 1920), (100, 1000), (17, 640), (500, 501)]


def _thumbnail(height: int, width: int, manifest: Manifest) -> tuple[int, int]:
    film = Picture(width, height, "yuv420p", 8, Fraction(1), 0, False, 1, 1, 1, "", False, "yuv420p", False)
    return Geometry.of(film, manifest, "yuv420p").thumbnail


def _manifest(size: int, multiple: int, noise_length: int = 0) -> Manifest:
    return Manifest("test", size, multiple, 4, "ycbcr-bt601-full", "Apache-2.0", noise_length=noise_length)


@pytest.mark.parametrize("film", FILMS)
@pytest.mark.parametrize(("size", "multiple"), [(256, 8), (256, 32), (110, 16), (250, 16), (64, 64), (30, 64), (7, 4)])
def test_every_film_has_its_shape_within(film: tuple[int, int], size: int, multiple: int) -> None:
    manifest = _manifest(size, multiple)
    for height, width in [film, film[::-1]]:
        lines, columns = _thumbnail(height, width, manifest)
        profile = Profile.of(manifest, 4, lines, columns)
        least, _, largest = profile.shapes()[LUMA]
        assert least[2] <= lines <= largest[2]
        assert least[3] <= columns <= largest[3]
        assert profile.tall == (lines > columns)
    wide = Profile.usual(manifest, 4)
    assert Profile.of(manifest, 4, *_thumbnail(*film, manifest)) == wide, "what is built at load serves wide films"
    assert Profile.of(manifest, 4, *picture(manifest).shape[1:]) == wide, "and the picture that engines are tried on"


def test_shapes_are_ordered_and_whole() -> None:
    manifest = _manifest(250, 16, noise_length=8)
    for profile in [Profile.usual(manifest, 4), Profile.of(manifest, 4, 512, 256)]:
        shapes = profile.shapes()
        assert shapes[NOISE] == ((1, 8), (4, 8), (4, 8))
        for least, usual, largest in shapes.values():
            assert all(a <= b <= c for a, b, c in zip(least, usual, largest, strict=True))
        for _, one, height, width in shapes[LUMA]:
            assert (one, height % 16, width % 16) == (1, 0, 0)


def test_other_shapes_are_other_words() -> None:
    manifest = _manifest(256, 8)
    profiles = [
        Profile.usual(manifest, 4),
        Profile.usual(manifest, 5),
        Profile.usual(_manifest(256, 8, noise_length=8), 4),
        Profile.of(manifest, 4, 264, 264),
        Profile.of(manifest, 4, 264, 256),
    ]
    assert len({profile.words() for profile in profiles}) == len(profiles)


@pytest.mark.parametrize(("size", "multiple", "side"), [(250, 16, 256), (32, 8, 32), (3, 8, 8), (96, 64, 128)])
def test_the_working_side_is_the_nearest_multiple(size: int, multiple: int, side: int) -> None:
    manifest = Manifest("test", size, multiple, 4, "ycbcr-bt601-full", "Apache-2.0")
    assert manifest.working_side == side
    assert Profile.usual(manifest, 1).short == side
