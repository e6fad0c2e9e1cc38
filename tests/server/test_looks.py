"""What a user may ask of the colours, and what colours become of it."""

import struct
import zlib

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from skimage import data

from kinochrome_proto.errors import BadSettings
from kinochrome_server.looks import LARGEST_FILE, Grade, Look

Float = npt.NDArray[np.float32]

SKIN, GRASS, SKY = (-0.05, 0.06), (-0.05, -0.04), (0.06, -0.03)
"""Cb, Cr as a colorizer paints them that is not sure: pale."""


def encoded(rgb: npt.NDArray[np.uint8], ending: str = ".png") -> bytes:
    return cv2.imencode(ending, np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes()


def still(*colours: tuple[int, int, int]) -> bytes:
    """A still of stripes, each from dark to full."""
    light = np.linspace(0.1, 1, 200)[:, np.newaxis, np.newaxis]
    stripes = [light * np.array(colour) * np.ones((1, 60, 1)) for colour in colours]
    return encoded(np.hstack(stripes).astype(np.uint8))


GREEN, TEAL, SEPIA, GRAY = (60, 190, 40), (20, 170, 180), (210, 150, 80), (220, 220, 220)


def frame(chroma: tuple[float, float], luma: float = 0.5) -> tuple[npt.NDArray[np.uint8], Float]:
    """A thumbnail and chroma of one colour."""
    thumbnail = np.full((160, 224), round(luma * 255), np.uint8)
    return thumbnail, np.full((2, 40, 56), np.array(chroma)[:, np.newaxis, np.newaxis], np.float32)


def graded(look: Look, chroma: tuple[float, float], luma: float = 0.5) -> npt.NDArray[np.float64]:
    out = Grade(look)(*frame(chroma, luma))
    assert out.shape == (2, 40, 56) and out.dtype == np.float32
    np.testing.assert_allclose(out, np.broadcast_to(out[:, :1, :1], out.shape), atol=1e-6)
    return out[:, 0, 0].astype(float)


def hue_apart(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Degrees between the hues of two chromas."""
    (b1, r1), (b2, r2) = np.asarray(one), np.asarray(other)
    return abs(float(np.degrees(np.angle(complex(b1, r1) / complex(b2, r2)))))


def chroma_of(rgb: tuple[int, int, int]) -> tuple[float, float]:
    red, green, blue = (value / 255 for value in rgb)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return (blue - luma) / 1.772, (red - luma) / 1.402


def painted(rgb: npt.NDArray[np.uint8], share: float = 0.5) -> tuple[npt.NDArray[np.uint8], Float]:
    """A photograph as thumbnail, and its own chroma made pale, as a careful colorizer would paint it."""
    small = cv2.resize(rgb, (224, 160), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    luma = small @ np.array([0.299, 0.587, 0.114], np.float32)
    chroma = np.stack(((small[..., 2] - luma) / 1.772, (small[..., 0] - luma) / 1.402)) * np.float32(share)
    coarse = [cv2.resize(plane, (56, 40), interpolation=cv2.INTER_AREA) for plane in chroma]
    return np.rint(luma * 255).astype(np.uint8), np.stack(coarse)


def test_the_default_look_changes_nothing() -> None:
    thumbnail, chroma = painted(data.coffee())
    assert Grade(Look())(thumbnail, chroma) is chroma


def test_saturation_is_a_factor_and_stays_in_range() -> None:
    np.testing.assert_allclose(graded(Look(saturation=1.5), SKIN), 1.5 * np.array(SKIN), rtol=1e-5)
    np.testing.assert_array_equal(graded(Look(saturation=0), SKIN), 0)
    np.testing.assert_array_equal(graded(Look(saturation=3), (-0.4, 0.3)), (-0.5, 0.5))


def test_warmth_turns_middle_grays_and_leaves_black_and_white() -> None:
    warm, cold = graded(Look(warmth=1), (0, 0)), graded(Look(warmth=-1), (0, 0))
    assert warm[0] < -0.03 and warm[1] > 0.03
    np.testing.assert_allclose(cold, -warm, atol=1e-6)
    for luma in (0, 1):
        np.testing.assert_allclose(graded(Look(warmth=1), (0, 0), luma), 0, atol=1e-6)


def test_saturation_is_applied_last() -> None:
    look = Look(saturation=0, warmth=1, references=(still(SEPIA),))
    np.testing.assert_array_equal(graded(look, SKY), 0)


def test_pale_colours_become_stronger_where_the_palette_has_them_strong() -> None:
    look = Look(references=(still(GREEN, GRAY),))
    green = graded(look, GRASS)
    assert np.hypot(*green) > 1.5 * np.hypot(*GRASS)
    assert hue_apart(green, chroma_of(GREEN)) < hue_apart(GRASS, chroma_of(GREEN))


@pytest.mark.parametrize("luma", [0.2, 0.5, 0.8])
def test_colours_go_to_what_is_near_in_hue(luma: float) -> None:
    look = Look(references=(still(TEAL, SEPIA),))
    assert hue_apart(graded(look, SKY, luma), chroma_of(TEAL)) < 0.7 * hue_apart(SKY, chroma_of(TEAL))
    assert hue_apart(graded(look, SKIN, luma), chroma_of(SEPIA)) < 0.7 * hue_apart(SKIN, chroma_of(SEPIA))


def test_what_is_far_from_the_palette_keeps_its_hue_better() -> None:
    look = Look(references=(still(GREEN, GRAY),))
    red = (-0.1, 0.25)
    assert hue_apart(graded(look, red), red) < 20
    assert hue_apart(graded(look, SKIN), SKIN) < hue_apart(chroma_of(GREEN), SKIN) / 2


def test_grays_stay_nearly_gray_where_the_palette_has_gray_and_are_tinted_where_it_has_none() -> None:
    for luma in (0.3, 0.5, 0.8):
        kept = np.hypot(*graded(Look(references=(still(SEPIA, TEAL, GRAY, GRAY),)), (0, 0), luma))
        tinted = np.hypot(*graded(Look(references=(still(SEPIA),)), (0, 0), luma))
        assert kept < 0.02 < tinted


def test_the_map_is_smooth_enough_not_to_raise_flicker() -> None:
    """A change of a painted colour comes out at most three times as large, wherever it is."""
    grade = Grade(Look(references=(encoded(data.coffee()),)))
    chance = np.random.default_rng(1)
    luma = chance.integers(0, 256, (40, 56), np.uint8)
    chroma = chance.uniform(-0.2, 0.2, (2, 40, 56)).astype(np.float32)
    step = chance.normal(0, 0.002, chroma.shape).astype(np.float32)
    before, after = grade(luma, chroma), grade(luma, chroma + step)
    gain = np.hypot(*(after - before)) / np.hypot(*step)
    assert gain.max() < 3
    brighter = grade(np.minimum(luma, 254) + np.uint8(1), chroma)
    assert np.abs(brighter - before).max() < 0.005


def test_a_film_comes_nearer_to_the_colours_of_a_photograph() -> None:
    target = painted(data.coffee(), share=1)[1].reshape(2, -1)
    for film in (data.chelsea(), data.rocket(), data.astronaut()):
        thumbnail, chroma = painted(film)
        out = Grade(Look(references=(encoded(data.coffee()),)))(thumbnail, chroma)
        assert _distance(out.reshape(2, -1), target) < 0.95 * _distance(chroma.reshape(2, -1), target)


def _distance(one: Float, other: Float) -> float:
    """Sliced Wasserstein distance of two clouds of chroma (2, n): the mean over directions of the 1-D distances."""
    parts = np.linspace(0.005, 0.995, 100)
    turns = np.arange(16) * np.pi / 16
    ways = np.stack((np.cos(turns), np.sin(turns)), 1)
    apart = [np.abs(np.quantile(way @ one, parts) - np.quantile(way @ other, parts)).mean() for way in ways]
    return float(np.mean(apart))


def test_the_same_stills_give_the_same_colours_and_all_of_them_count() -> None:
    thumbnail, chroma = painted(data.chelsea())
    stills = encoded(data.coffee(), ".jpg"), still(TEAL)
    both = Grade(Look(references=stills))(thumbnail, chroma)
    np.testing.assert_array_equal(both, Grade(Look(references=stills))(thumbnail, chroma))
    np.testing.assert_allclose(both, Grade(Look(references=stills[::-1]))(thumbnail, chroma), atol=1e-4)
    for one in stills:
        assert np.abs(both - Grade(Look(references=(one,)))(thumbnail, chroma)).max() > 0.01


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tiff"])
def test_stills_come_in_the_usual_formats(ending: str) -> None:
    expected = graded(Look(references=(encoded(data.coffee()),)), SKIN)
    np.testing.assert_allclose(graded(Look(references=(encoded(data.coffee(), ending),)), SKIN), expected, atol=0.01)


def test_lossless_webp_and_sixteen_bits_are_read_too() -> None:
    expected = graded(Look(references=(encoded(data.coffee()),)), SKIN)
    bgr = np.ascontiguousarray(data.coffee()[..., ::-1])
    webp = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    deep = cv2.imencode(".png", bgr.astype(np.uint16) * 257)[1].tobytes()
    assert webp[12:16] == b"VP8L"
    for reference in (webp, deep):
        np.testing.assert_allclose(graded(Look(references=(reference,)), SKIN), expected, atol=0.002)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"saturation": 3.1}, "--saturation 3.1 is out of bounds: use 0 to 3"),
        ({"saturation": float("nan")}, "--saturation nan is out of bounds: use 0 to 3"),
        ({"warmth": -1.5}, "--warmth -1.5 is out of bounds: use -1 to 1"),
        ({"stabilize": 2.0}, "--stabilize 2 is out of bounds: use 0 to 1"),
        ({"seed": -1}, "--seed -1 is out of bounds"),
        ({"references": (b"",) * 9}, "--reference was given 9 times: use at most 8 stills"),
        ({"references": (b"", bytes(LARGEST_FILE + 1))}, "still 2 is larger than 32 MiB: scale it down"),
    ],
)
def test_what_is_out_of_bounds_is_named(settings: dict[str, float], said: str) -> None:
    with pytest.raises(BadSettings) as error:
        Look(**settings)  # type: ignore[arg-type]
    assert said in str(error.value) and "\n" not in str(error.value)


def _png_that_says(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def _huge() -> dict[str, bytes]:
    """Small files whose headers tell of 20000x20000 pixels."""
    jpeg, size = encoded(data.coffee(), ".jpg"), struct.pack(">HH", 400, 600)
    tiff = bytearray(encoded(data.coffee(), ".tiff"))
    (at,) = struct.unpack_from("<I", tiff, 4)
    for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", tiff, at)[0], 12):
        if struct.unpack_from("<H", tiff, entry)[0] in (256, 257):
            struct.pack_into("<HIHH", tiff, entry + 2, 3, 1, 20_000, 0)
    extent = (19_999).to_bytes(3, "little")
    return {
        "png": _png_that_says(20_000, 20_000),
        "jpeg": jpeg.replace(size, struct.pack(">HH", 20_000, 20_000), 1),
        "webp": b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + extent + extent,
        "tiff": bytes(tiff),
    }


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_a_picture_too_large_is_refused_before_it_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = _huge()[kind]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(BadSettings, match=r"^--reference: still 1 has 20000x20000 pixels: scale it to 64 million"):
        Grade(Look(references=(huge,)))


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is no picture that can be read: use JPEG, PNG, WebP or TIFF"),
        (b"some text, perhaps", "is no picture that can be read: use JPEG, PNG, WebP or TIFF"),
        (_png_that_says(100, 100), "is damaged: give another copy"),
        (_png_that_says(0, 100), "is damaged: give another copy"),
        (still(GRAY), "has no colour: use colour stills"),
        (cv2.imencode(".jpg", data.camera())[1].tobytes(), "has no colour: use colour stills"),
    ],
)
def test_a_still_that_cannot_be_used_is_named_by_its_number(content: bytes, said: str) -> None:
    with pytest.raises(BadSettings) as error:
        Grade(Look(references=(still(TEAL), content)))
    assert str(error.value) == f"--reference: still 2 {said}"


def test_cut_and_spoilt_headers_are_refused_in_words() -> None:
    for ending in (".png", ".jpg", ".webp", ".tiff"):
        whole = encoded(data.coffee()[:32, :32], ending)
        for length in range(0, 400, 3):
            try:
                Grade(Look(references=(whole[:length],)))
            except BadSettings as error:
                assert "still 1 " in str(error)
