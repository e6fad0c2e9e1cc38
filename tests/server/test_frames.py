"""Stills out of films: which frames they are, what they look like, and what becomes of the folder they go to."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinochrome_proto.errors import BadFilm, BadSettings, OutputInTheWay
from kinochrome_server import frames, stills
from kinochrome_server.facts import Facts
from kinochrome_server.frames import Gleaner, Tally, Wanted
from kinochrome_server.pool import WorkerPool
from kinochrome_server.sources import FileSource
from kinochrome_server.worker import Probe
from tests import films

Picture = npt.NDArray[np.uint8]
"""Luma (H, W), or Y, Cb, Cr (3, H, W)."""

SIZE = (192, 144)
RATE = 24
PNG = Wanted(format="png")


def scene(seed: int, size: tuple[int, int] = SIZE) -> Picture:
    """Luma (H, W) with detail at every scale, as natural pictures have."""
    chance = np.random.default_rng(seed)
    total = np.zeros(size[::-1], np.float32)
    for cell in (2, 4, 8, 16, 32):
        grid = chance.normal(0, (cell / 32) ** 0.5, (size[1] // cell + 2, size[0] // cell + 2)).astype(np.float32)
        total += cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
    low, high = total.min(), total.max()
    light: Picture = (20 + 210 * (total - low) / (high - low)).astype(np.uint8)
    return light


def blurred(picture: Picture) -> Picture:
    soft: Picture = cv2.GaussianBlur(picture, (0, 0), 3.0).astype(np.uint8)
    return soft


def shot(picture: Picture, seconds: float = 1.0) -> list[Picture]:
    return [picture] * round(seconds * RATE)


def write(
    file: Path,
    pictures: Iterable[Picture],
    *,
    codec: str = "ffv1",
    matrix: int = 6,
    full_range: bool = False,
    aspect: Fraction = Fraction(1),
    rotation: int = 0,
    gop: int = 12,
) -> Path:
    """A film of these pictures: gray, or of three planes 4:4:4, whose code values they are."""
    with av.open(str(file), "w") as output:
        video = output.add_stream(codec, rate=RATE, options={"qp": "0"} if codec == "libx264" else {})
        assert isinstance(video, VideoStream)
        context = video.codec_context
        for index, picture in enumerate(pictures):
            height, width = picture.shape[-2:]
            if index == 0:
                (context.width, context.height), context.pix_fmt = (width, height), "yuv444p"
                context.gop_size, context.time_base = gop, Fraction(1, RATE)
                context.color_range, context.colorspace = 2 if full_range else 1, matrix
                context.sample_aspect_ratio = aspect
                if rotation:
                    video.set_display_rotation(rotation)
            planes = picture if picture.ndim == 3 else np.stack((picture, *[np.full_like(picture, 128)] * 2))
            frame = VideoFrame.from_ndarray(planes, "yuv444p")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    return file


def glean(
    pool: WorkerPool, out: Path, *paths: Path, wanted: Wanted = PNG, overwrite: bool = False
) -> tuple[list[Path], Tally]:
    """All stills of these films, and what was counted."""
    gleaner, total = Gleaner(wanted, pool), Tally()
    for path, folder in zip(paths, frames.folders(paths, out, overwrite=overwrite), strict=True):
        total.add(gleaner.glean(FileSource(path), folder, overwrite=overwrite))
    assert not list(out.glob(".*"))  # nothing is left of the work
    return sorted(file for file in out.rglob("*") if file.is_file()), total


def read(file: Path) -> Picture:
    """As stored: (h, w) or (h, w, 3), BGR."""
    picture = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return picture.astype(np.uint8)


def milliseconds(files: Sequence[Path]) -> list[int]:
    return [int(file.stem) for file in files]


def test_every_shot_gives_a_still_of_its_own(tmp_path: Path, pool: WorkerPool) -> None:
    film = write(tmp_path / "film.mkv", [frame for seed in range(4) for frame in shot(scene(seed))])
    found, tally = glean(pool, tmp_path / "out", film)
    assert [file.parent.name for file in found] == ["film"] * 4
    assert [time // 1000 for time in milliseconds(found)] == [0, 1, 2, 3]  # one of each second, thus of each shot
    assert all(len(file.stem) == 9 and file.suffix == ".png" for file in found)
    for seed, file in enumerate(found):
        light = (scene(seed).astype(float) - 16) * 255 / 219
        assert np.abs(read(file) - light.clip(0, 255)).max() <= 1
    assert tally == Tally(shots=4, kept=4)


def test_a_shot_in_which_nothing_moves_gives_one_still(tmp_path: Path, pool: WorkerPool) -> None:
    found, tally = glean(pool, tmp_path / "out", write(tmp_path / "film.mkv", shot(scene(1), 3)))
    assert len(found) == 1
    assert tally == Tally(shots=1, kept=1, duplicate=1)


def test_of_a_shot_that_changes_stills_are_spread_over_it(tmp_path: Path, pool: WorkerPool) -> None:
    wide = scene(1, (SIZE[0] + 480, SIZE[1]))
    pan = [wide[:, 4 * index : 4 * index + SIZE[0]] for index in range(120)]
    film = write(tmp_path / "film.mkv", pan)
    for most in (1, 2, 4):
        found, tally = glean(pool, tmp_path / str(most), film, wanted=Wanted(per_shot=most, format="png"))
        assert tally.shots == 1
        assert [most * time // 5000 for time in milliseconds(found)] == list(range(most))  # one in each part


def test_long_shots_give_one_more_for_every_so_many_seconds(tmp_path: Path, pool: WorkerPool) -> None:
    wide = scene(1, (SIZE[0] + 4 * 24 * 7, SIZE[1]))
    pan = [wide[:, 4 * index : 4 * index + SIZE[0]] for index in range(7 * RATE)]
    film = write(tmp_path / "film.mkv", pan)
    found, _ = glean(pool, tmp_path / "out", film, wanted=Wanted(per_shot=1, every=2, format="png"))
    assert [time // 2000 for time in milliseconds(found)] == [0, 1, 2]  # the seventh second is too little for another


def test_a_clock_that_leaps_costs_no_time(tmp_path: Path, pool: WorkerPool) -> None:
    film = write(tmp_path / "film.mkv", shot(scene(1)))
    facts = Facts.from_plain(pool.submit(Probe(FileSource(film))).result())
    choice = frames._Choice(facts, Wanted(), tmp_path, frames._Fingerprints())
    for place, pts in enumerate((0, 500, 10**15, 10**15 + 6000)):
        unit = np.eye(256, dtype=np.float16)[place]
        choice.add(place == 0, [frames.Candidate(0, pts, "", 0.5, 0.0, unit.tobytes().hex())])
    choice.finish()
    assert [candidate.pts for candidate in choice.kept] == [0, 10**15]


def test_the_sharp_frame_is_taken_and_a_blurred_shot_is_not(tmp_path: Path, pool: WorkerPool) -> None:
    one, other = scene(1), scene(2)
    mixed = [blurred(one) if index != 17 else one for index in range(RATE)]
    film = write(tmp_path / "film.mkv", [*mixed, *shot(blurred(other)), *shot(scene(3))])
    found, tally = glean(pool, tmp_path / "out", film, wanted=Wanted(per_shot=1, format="png"))
    assert milliseconds(found)[0] == round(1000 * 17 / RATE)
    assert [time // 1000 for time in milliseconds(found)] == [0, 2]
    assert (tally.shots, tally.kept, tally.blurred) == (3, 2, 1)


@pytest.mark.parametrize("seed", range(4))
def test_grain_and_exposure_do_not_make_a_picture_sharp(seed: int) -> None:
    sharp = scene(seed, (340, 256)).astype(np.float32)
    soft = cv2.GaussianBlur(sharp, (0, 0), 3.0)
    grainy = (soft + np.random.default_rng(seed).normal(0, 2.5, soft.shape)).clip(0, 255).astype(np.uint8)
    dim = (0.6 * sharp + 10).astype(np.uint8)
    assert stills.sharpness(dim) > 2 * stills.sharpness(grainy)
    assert stills.sharpness(dim) == pytest.approx(stills.sharpness(sharp.astype(np.uint8)), rel=0.25)
    assert stills.sharpness(soft.astype(np.uint8)) < frames.BLURRED < stills.sharpness(dim)


def test_what_was_kept_before_is_dropped_across_shots_and_films(tmp_path: Path, pool: WorkerPool) -> None:
    chance = np.random.default_rng(0)
    again = (scene(1) * 0.9 + chance.normal(0, 4, SIZE[::-1])).clip(0, 255).astype(np.uint8)  # a worn, darker copy
    first = write(tmp_path / "first.mkv", [*shot(scene(1)), *shot(scene(2)), *shot(again)])
    second = write(tmp_path / "second.mkv", [*shot(scene(2)), *shot(scene(3))])
    found, tally = glean(pool, tmp_path / "out", first, second, wanted=Wanted(per_shot=1, format="png"))
    assert [(file.parent.name, int(file.stem) // 1000) for file in found] == [("first", 0), ("first", 1), ("second", 1)]
    assert (tally.shots, tally.kept, tally.duplicate) == (5, 3, 2)


@pytest.mark.parametrize("level", [16, 128, 235])
def test_blank_frames_are_skipped_and_part_shots(tmp_path: Path, pool: WorkerPool, level: int) -> None:
    plain = np.full(SIZE[::-1], level, np.uint8)
    film = write(tmp_path / "film.mkv", [*shot(plain), *shot(scene(1)), *shot(plain), *shot(scene(2))])
    found, tally = glean(pool, tmp_path / "out", film, wanted=Wanted(per_shot=1, format="png"))
    assert [time // 1000 for time in milliseconds(found)] == [1, 3]
    assert tally.kept == 2 and tally.blank >= 1


def test_titles_on_black_are_blank() -> None:
    title = np.full((256, 340), 2, np.uint8)
    cv2.putText(title, "THE END", (90, 140), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 235, 2)
    assert stills.is_blank(title)
    assert not stills.is_blank(scene(1))


def test_pixels_are_made_square_and_nothing_is_enlarged(tmp_path: Path, pool: WorkerPool) -> None:
    film = write(tmp_path / "film.mkv", shot(scene(1)), codec="libx264", aspect=Fraction(4, 3))
    for size, shape in ((0, (144, 256)), (256, (144, 256)), (72, (72, 128))):
        found, _ = glean(pool, tmp_path / str(size), film, wanted=Wanted(size=size, format="png"))
        assert read(found[0]).shape == shape


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_the_picture_stands_upright(tmp_path: Path, pool: WorkerPool, degrees: int) -> None:
    picture = scene(1)
    film = write(tmp_path / "film.mov", shot(picture), codec="libx264", rotation=degrees)
    found, _ = glean(pool, tmp_path / "out", film)
    with av.open(str(film)) as container:
        turned = next(container.decode(video=0)).rotation  # counter-clockwise, by which a player turns it
    light = ((np.rot90(picture, turned // 90).astype(float) - 16) * 255 / 219).clip(0, 255)
    assert np.abs(read(found[0]) - light).mean() < 2


def test_black_bars_are_cut_off(tmp_path: Path, pool: WorkerPool) -> None:
    boxed = np.full(SIZE[::-1], 16, np.uint8)
    boxed[24:120] = np.maximum(scene(1), 60)[24:120]
    found, _ = glean(pool, tmp_path / "out", write(tmp_path / "film.mkv", shot(boxed)))
    height, width = read(found[0]).shape
    assert (92 <= height <= 96, width) == (True, 192)
    assert read(found[0]).min() > 30


@pytest.mark.parametrize("format", ["png", "jpg"])
@pytest.mark.parametrize(("matrix", "full_range"), [(1, False), (6, True), (6, False), (9, False)])
def test_colours_are_those_of_the_films_matrix_and_range(
    tmp_path: Path, pool: WorkerPool, matrix: int, full_range: bool, format: str
) -> None:
    # Four quarters of known R'G'B', under a texture of luma that leaves their means alone.
    kr, kb = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    patches = np.array([[200, 90, 80], [70, 160, 90], [80, 90, 190], [180, 170, 70]], float)
    luma = patches @ (kr, 1 - kr - kb, kb)
    cb, cr = (patches[:, 2] - luma) / (2 * (1 - kb)), (patches[:, 0] - luma) / (2 * (1 - kr))
    texture = scene(5).astype(float)
    planes = np.zeros((3, *SIZE[::-1]))
    quarters = [(slice(y, y + 72), slice(x, x + 96)) for y in (0, 72) for x in (0, 96)]
    for index, (rows, columns) in enumerate(quarters):
        detail = texture[rows, columns] - texture[rows, columns].mean()
        planes[0, rows, columns] = luma[index] + 0.3 * detail
        planes[1, rows, columns], planes[2, rows, columns] = cb[index], cr[index]
    if full_range:
        codes = planes + np.array([0, 128, 128])[:, None, None]
    else:
        codes = planes * (np.array([219, 224, 224]) / 255)[:, None, None] + np.array([16, 128, 128])[:, None, None]
    film = write(
        tmp_path / "film.mkv",
        shot(codes.round().clip(0, 255).astype(np.uint8)),
        codec="libx264",
        matrix=matrix,
        full_range=full_range,
    )
    found, _ = glean(pool, tmp_path / "out", film, wanted=Wanted(format=format))
    picture = read(found[0]).astype(float)
    assert picture.shape == (144, 192, 3)
    for patch, (rows, columns) in zip(patches, quarters, strict=True):
        inner = picture[rows, columns][8:-8, 8:-8].mean(axis=(0, 1))[::-1]
        detail = texture[rows, columns] - texture[rows, columns].mean()
        assert inner == pytest.approx(patch + 0.3 * detail[8:-8, 8:-8].mean(), abs=2)


def test_a_film_is_gray_or_in_colour_as_a_whole(tmp_path: Path, pool: WorkerPool) -> None:
    def painted(seed: int, strength: float) -> Picture:
        light, hues = scene(seed), [scene(seed + offset).astype(float) - 125 for offset in (100, 200)]
        chroma = [np.clip(128 + strength * cv2.GaussianBlur(hue, (0, 0), 5), 16, 240) for hue in hues]
        return np.stack((light, *chroma)).astype(np.uint8)

    tinted = np.stack((scene(9), np.full(SIZE[::-1], 116, np.uint8), np.full(SIZE[::-1], 138, np.uint8)))
    mixed = write(tmp_path / "mixed.mkv", [*shot(painted(1, 1.0)), *shot(painted(2, 0.0))])
    sepia = write(tmp_path / "sepia.mkv", shot(tinted))
    found, _ = glean(pool, tmp_path / "out", mixed, sepia, wanted=Wanted(per_shot=1, format="png"))
    assert [(file.parent.name, read(file).ndim) for file in found] == [("mixed", 3), ("mixed", 3), ("sepia", 2)]


def test_fields_are_made_whole(tmp_path: Path, pool: WorkerPool) -> None:
    film = films.make_woven(tmp_path, "tff", "film.mkv", "libx264")
    found, _ = glean(pool, tmp_path / "out", film, wanted=Wanted(size=0, format="png"))
    assert found
    for file in found:
        lines = read(file).astype(int)[34:94]  # where a block runs, which combs when fields are not parted
        combing = np.abs(2 * lines[1:-1] - lines[:-2] - lines[2:]).mean()
        assert combing < 8


def test_frames_that_the_decoder_patched_are_skipped(tmp_path: Path, pool: WorkerPool) -> None:
    film = write(
        tmp_path / "film.ts", [frame for seed in range(3) for frame in shot(scene(seed))], codec="libx264", gop=24
    )
    content = bytearray(film.read_bytes())
    # A bit that says of a packet of 188 bytes that it came in broken, over the second third of the film.
    for start in range(len(content) * 4 // 9 // 188 * 188, len(content) * 5 // 9, 188):
        content[start + 1] |= 0x80
    film.write_bytes(content)
    found, tally = glean(pool, tmp_path / "out", film, wanted=Wanted(per_shot=1, format="png", lenient=True))
    assert {0, 2} <= {round(time / 1000 - 0.5) for time in milliseconds(found)}
    for file in found:
        nearest = min(
            np.abs(read(file) - ((scene(seed).astype(float) - 16) * 255 / 219).clip(0, 255)).mean() for seed in range(3)
        )
        assert nearest < 2
    assert tally.shots >= 2


def test_a_broken_film_says_so_and_leaves_nothing(tmp_path: Path, pool: WorkerPool) -> None:
    text, cut = tmp_path / "text.mp4", tmp_path / "cut.mkv"
    text.write_text("no film\n" * 99)
    whole = write(tmp_path / "whole.mkv", [*shot(scene(1), 3), *shot(scene(2), 3)])
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    out = tmp_path / "out"
    out.mkdir()
    gleaner = Gleaner(Wanted(format="png"), pool)
    for film in (text, cut, tmp_path / "missing.mp4"):
        with pytest.raises(BadFilm, match=film.name) as caught:
            gleaner.glean(FileSource(film), out / film.stem)
        assert "\n" not in str(caught.value)
        assert list(out.iterdir()) == []
    # What the cut film showed was not kept, so it is no duplicate elsewhere.
    assert gleaner.glean(FileSource(whole), out / "whole").kept == 2
    warnings: list[str] = []
    lenient = Gleaner(replace(Wanted(), lenient=True), pool)
    assert lenient.glean(FileSource(cut), out / "cut", on_warning=warnings.append).kept == 1
    assert warnings


def test_nothing_is_overwritten_unasked(tmp_path: Path, pool: WorkerPool) -> None:
    film, out = write(tmp_path / "film.mkv", [*shot(scene(1)), *shot(scene(2))]), tmp_path / "out"
    first, _ = glean(pool, out, film)
    (out / "film" / "mine.png").write_bytes(b"mine")
    with pytest.raises(OutputInTheWay, match="--overwrite"):
        glean(pool, out, film)
    write(film, shot(scene(3)))
    again, _ = glean(pool, out, film, overwrite=True)
    assert {file.name for file in again} == {"mine.png", again[0].name}  # of the earlier run nothing is left
    assert (out / "film" / "mine.png").read_bytes() == b"mine"
    assert len(first) == 2


def test_films_of_one_name_have_folders_of_their_own(tmp_path: Path) -> None:
    names = ["a/film.mp4", "b/film.mkv", "c/Film.mov", "film-2.mp4"]
    chosen = frames.folders([Path(name) for name in names], tmp_path / "new" / "out", overwrite=False)
    assert [folder.name for folder in chosen] == ["film", "film-3", "Film-4", "film-2"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputInTheWay, match="file"):
        frames.folders([Path("film.mp4")], tmp_path / "file", overwrite=True)


def test_the_same_films_give_the_same_bytes(tmp_path: Path, pool: WorkerPool) -> None:
    film = write(tmp_path / "film.mkv", [frame for seed in range(8) for frame in shot(scene(seed))])
    one, _ = glean(pool, tmp_path / "one", film, wanted=Wanted())
    with WorkerPool(1) as alone:
        other, _ = glean(alone, tmp_path / "other", film, wanted=Wanted())
    assert [(file.name, file.read_bytes()) for file in one] == [(file.name, file.read_bytes()) for file in other]
    assert len(one) == 8


def test_an_endless_shot_is_thinned_to_the_sharper_candidates(tmp_path: Path, pool: WorkerPool) -> None:
    film = write(tmp_path / "film.mkv", shot(scene(1)))
    facts = Facts.from_plain(pool.submit(Probe(FileSource(film))).result())
    choice = frames._Choice(facts, Wanted(every=1e6), tmp_path, frames._Fingerprints())
    ticks = round(1 / (2 * facts.time_base))
    for index in range(5000):
        sharp = 0.9 if index in (1000, 4000) else 0.2
        print_ = np.random.default_rng(index).normal(0, 0.06, 256).astype(np.float16).tobytes().hex()
        choice.add(index == 0, [frames.Candidate(0, index * ticks, "", sharp, 0.0, print_)])
        assert len(choice._stretch) <= frames.MOST_CANDIDATES
    choice.finish()
    assert [candidate.pts // ticks for candidate in choice.kept] == [1000, 4000]


def test_an_unknown_format_is_refused(pool: WorkerPool) -> None:
    with pytest.raises(BadSettings, match="jpg or png"):
        Gleaner(Wanted(format="webp"), pool)
