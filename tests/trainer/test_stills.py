"""Stills from folders and archives, the order in which they are drawn, and their shrunk copies."""

import os
import pickle
import resource
import shutil
import signal
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kinochrome_trainer.errors import BadData, BadRecipe
from kinochrome_trainer.recipe import Data
from kinochrome_trainer.stills import Stills, _Order, batches, check, shrunk
from tests.trainer import pictures

DATA = Data(workers=0)


def drawn(stills: Stills, data: Data = DATA, **changes: object) -> list[Tensor]:
    """Six batches of three crops of 32 pixels, or as `changes` say."""
    settings = {"size": 32, "batch": 3, "seed": 1, "first_step": 0, "steps": 6} | changes
    return list(batches(stills, data, **settings))  # type: ignore[arg-type]


def test_a_folder_and_its_archive_are_the_same(tmp_path: Path) -> None:
    folder = pictures.make(tmp_path / "stills")
    one, other = Stills([folder]), Stills([pictures.zipped(folder)])
    assert len(one) == len(other) == 12
    assert [name for _, name in one.entries] == [name for _, name in other.entries]
    assert one.open(3).tobytes() == other.open(3).tobytes()


def test_a_step_draws_the_same_however_one_got_there(tmp_path: Path) -> None:
    stills = Stills([pictures.make(tmp_path / "stills")])
    straight, resumed = drawn(stills), drawn(stills, Data(workers=1), first_step=4)
    assert len(straight) == 6 and len(resumed) == 2
    for a, b in zip(straight[4:], resumed, strict=True):
        assert a.shape == (3, 3, 32, 32) and a.dtype == torch.uint8
        assert torch.equal(a, b)
    assert not torch.equal(straight[0], straight[1])


def test_another_size_shows_the_same_crops(tmp_path: Path) -> None:
    stills = Stills([pictures.make(tmp_path / "stills", size=(90, 80))])
    small, large = drawn(stills, size=16)[0].float(), drawn(stills, size=48)[0].float()
    assert large.shape == (3, 3, 48, 48)
    assert (torch.nn.functional.avg_pool2d(large, 3) - small).abs().mean() < 6


def test_streams_are_drawn_independently_and_again_the_same(tmp_path: Path) -> None:
    stills = Stills([pictures.make(tmp_path / "stills")])
    orders = [
        list(_Order(stills, 0.5, batch=50, seed=1, first_step=0, steps=20, stream=stream)) for stream in (0, 1, 1)
    ]
    assert orders[1] == orders[2]
    one, other = (np.array(order)[..., 0].ravel() for order in orders[:2])
    assert (one == other).mean() == pytest.approx(1 / 12, abs=0.03)  # chance: twelve stills


def test_processes_share_each_batch_without_a_crop_twice(tmp_path: Path) -> None:
    stills = Stills([pictures.make(tmp_path / "stills")])
    whole = drawn(stills, batch=4)
    parts = [drawn(stills, batch=4, share=(rank, 2)) for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(batch, torch.cat([first, second]))
    with pytest.raises(BadRecipe, match="batch=3 cannot be shared by 2 processes"):
        drawn(stills, share=(0, 2))


def test_sixteen_bit_scans_keep_their_tones(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, -1).repeat(8, 0)
    for name in ("ramp.png", "ramp.tif"):
        folder = tmp_path / name[-3:]
        folder.mkdir()
        Image.fromarray(ramp).save(folder / name)
        found = np.asarray(Stills([folder]).open(0))
        assert np.abs(found[0, :, 0].astype(int) - np.arange(256)).max() <= 1
        assert np.array_equal(found[..., 0], found[..., 2])


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine of one core
def test_workers_read_an_archive_that_their_parent_has_open(tmp_path: Path) -> None:
    stills = Stills([pictures.zipped(pictures.make(tmp_path / "stills", 200, (160, 120)))])
    check(stills)
    expected = drawn(Stills([tmp_path / "stills"]), batch=16, steps=30)
    for a, b in zip(expected, drawn(stills, Data(workers=2), batch=16, steps=30), strict=True):
        assert torch.equal(a, b)
    assert not stills.faults


def test_balance_evens_out_folders(tmp_path: Path) -> None:
    pictures.make(tmp_path / "many", 30)
    pictures.make(tmp_path / "few", 2)
    stills = Stills([tmp_path / "many", tmp_path / "few"])
    few = {index for index, (source, _) in enumerate(stills.entries) if source.name == "few"}
    share = {}
    for balance in (0.0, 1.0):
        order = _Order(stills, balance, batch=50, seed=1, first_step=0, steps=40)
        counts = Counter(index in few for batch in order for index, _ in batch)
        share[balance] = counts[True] / counts.total()
    assert share[0.0] == pytest.approx(2 / 32, abs=0.03)
    assert share[1.0] == pytest.approx(1 / 2, abs=0.05)


def test_what_is_no_set_of_stills_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no archive")
    for source, words in (("empty", "holds no still"), ("no", "does not exist"), ("text.zip", "neither a folder nor")):
        with pytest.raises(BadData, match=words):
            Stills([tmp_path / source])


def test_who_names_a_film_is_told_how_to_take_stills(tmp_path: Path) -> None:
    film = tmp_path / "films" / "Home Movie.MP4"
    film.parent.mkdir()
    film.touch()
    with pytest.raises(BadData, match=r"Movie.MP4 is a film: .* `kinochrome frames .*Movie.MP4 -o DIR`"):
        Stills([film])
    with pytest.raises(BadData, match=r"films holds films, not stills: .* `kinochrome frames FILM -o DIR`"):
        Stills([film.parent])
    pictures.make(film.parent)
    assert len(Stills([film.parent])) == 12
    with pytest.raises(BadData, match=r"gone.mp4 does not exist"):
        Stills([tmp_path / "gone.mp4"])


def test_the_files_that_macos_puts_beside_pictures_are_no_stills(tmp_path: Path) -> None:
    folder = pictures.make(tmp_path / "stills")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._000.jpg").write_bytes(b"attributes")
    assert len(Stills([folder])) == 12


def test_a_few_broken_stills_are_borne_and_counted_many_are_not(tmp_path: Path) -> None:
    folder = pictures.make(tmp_path / "stills", 120, (16, 16))
    whole = drawn(Stills([folder]), batch=8, steps=40)
    (folder / "a" / "001.jpg").write_bytes(b"broken")
    assert check(Stills([folder])) == 1
    for workers in (0, 1):
        stills = Stills([folder])  # not checked: what is broken is met while training
        for before, after in zip(whole, drawn(stills, Data(workers=workers), batch=8, steps=40), strict=True):
            same = (before == after).flatten(1).all(1)
            assert same.sum() >= 5  # the neighbour stands in for the broken one alone
        assert list(stills.faults) == [0] and "001.jpg is broken" in stills.faults[0]
    (folder / "a" / "003.jpg").write_bytes(b"broken")
    with pytest.raises(BadData, match=r"2 of 120 stills looked at are broken, the first: still .*001\.jpg"):
        check(Stills([folder]))
    for workers in (0, 1):
        with pytest.raises(BadData, match=r"^2 of 120 stills are broken, the first: still .*001\.jpg[^\n]*$"):
            drawn(Stills([folder]), Data(workers=workers), batch=8, steps=40)


def test_stills_that_go_away_end_the_training_with_one_line(tmp_path: Path) -> None:
    folder = pictures.make(tmp_path / "stills", 120, (16, 16))
    stills = Stills([folder])
    shutil.rmtree(folder)
    with pytest.raises(BadData, match=r"^\d+ of 120 stills are broken, the first: [^\n]*No such file[^\n]*$"):
        drawn(stills, Data(workers=1))


def test_halves_are_disjoint_complete_and_the_same_again(tmp_path: Path) -> None:
    sources = [pictures.make(tmp_path / name / "stills", 21) for name in ("one", "other")]  # the same names in both
    stills = Stills(sources)
    gray, colour = stills.halves(1)
    assert abs(len(gray) - len(colour)) <= 1
    assert sorted(gray.origins + colour.origins) == sorted(stills.origins)
    assert not set(gray.origins) & set(colour.origins)
    assert gray.origins == stills.halves(1)[0].origins != stills.halves(2)[0].origins
    assert {folder for folder in gray.folders()} == {folder for folder in colour.folders()} == set(stills.folders())
    assert gray.open(3).tobytes() == stills.open(stills.origins.index(gray.origins[3])).tobytes()
    moved = tmp_path / "moved"
    (tmp_path / "one").rename(moved)
    names = [name for _, name in Stills([moved / "stills"]).halves(1)[0].origins]
    assert names == [name for _, name in Stills([pictures.make(tmp_path / "stills", 21)]).halves(1)[0].origins]
    pictures.make(tmp_path / "single", 1)
    with pytest.raises(BadData, match="two stills or more, not 1"):
        Stills([tmp_path / "single"]).halves(1)


def photographs(folder: Path, count: int = 6, size: tuple[int, int] = (400, 300)) -> Path:
    """Soft pictures of many colours, larger than training needs; every third is already small."""
    chance = np.random.default_rng(3)
    for index in range(count):
        coarse = Image.fromarray(chance.integers(0, 256, (12, 16, 3), np.uint8))
        picture = coarse.resize(size if index % 3 else (80, 60), Image.Resampling.BICUBIC)
        file = folder / str(index % 2) / f"{index:03}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file, quality=95)
    return folder


def psnr(one: Image.Image, other: Image.Image) -> float:
    error = np.square(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("zipped", [False, True])
def test_shrunk_stills_show_the_same_pictures(tmp_path: Path, zipped: bool) -> None:
    folder = photographs(tmp_path / "stills")
    stills = Stills([pictures.zipped(folder) if zipped else folder])
    small = shrunk(stills, 60, tmp_path / "cache")
    assert len(small) == len(stills) and small.folders() == stills.folders() and small.origins == stills.origins
    for index, (_, name) in enumerate(stills.origins):
        ours, truth = small.open(index), stills.open(index)
        assert min(ours.size) == 60
        assert psnr(ours, truth.resize(ours.size, Image.Resampling.LANCZOS)) > 38, name
    copied = [entry != origin for entry, origin in zip(small.entries, small.origins, strict=True)]
    assert copied == [int(Path(name).stem) % 3 != 0 for _, name in small.origins]  # the small ones stay where they are
    for one, other in zip(drawn(stills), drawn(small, Data(workers=1)), strict=True):
        assert (one.float() - other.float()).abs().mean() < 4  # the same crops
    assert [half.origins for half in small.halves(1)] == [half.origins for half in stills.halves(1)]


def test_copies_are_made_once_and_again_when_a_still_changes(tmp_path: Path) -> None:
    folder, cache = photographs(tmp_path / "stills"), tmp_path / "cache"
    seen: list[tuple[int, int]] = []
    first = shrunk(Stills([folder]), 60, cache, lambda done, count: seen.append((done, count)))
    assert seen == [(done, 6) for done in range(1, 7)]
    (archive,) = cache.iterdir()
    with zipfile.ZipFile(archive) as file:
        assert all(member.compress_type == zipfile.ZIP_STORED for member in file.infolist())

    def no_reading(done: int, count: int) -> None:
        raise AssertionError("the copies were there")

    second = shrunk(Stills([folder]), 60, cache, no_reading)
    assert second.entries == first.entries and second.checked

    changed = folder / "1" / "001.jpg"
    Image.open(changed).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(changed, quality=95)
    third = shrunk(Stills([folder]), 60, cache)
    index = third.origins.index((folder, "1/001.jpg"))
    assert psnr(third.open(index), first.open(index).transpose(Image.Transpose.FLIP_TOP_BOTTOM)) > 35
    shrunk(Stills([folder]), 50, cache)
    assert len(list(cache.iterdir())) == 3


def test_copies_go_where_caches_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stills = Stills([photographs(tmp_path / "stills")])
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for setting, root in (("", tmp_path / "home/.cache"), ("relative", None), (str(tmp_path / "x"), tmp_path / "x")):
        monkeypatch.setenv("XDG_CACHE_HOME", setting)
        source, _ = shrunk(stills, 60).entries[1]
        assert source.parent == (root or tmp_path / "home/.cache") / "kinochrome" / "stills"


def test_stills_that_are_small_enough_stay_as_they_are(tmp_path: Path) -> None:
    stills = Stills([photographs(tmp_path / "stills")])
    assert shrunk(stills, 200, tmp_path / "cache") is stills  # 300 is not more than 1.5 times 200
    assert not (tmp_path / "cache").exists()


def test_a_half_written_archive_is_not_used(tmp_path: Path) -> None:
    folder, cache = photographs(tmp_path / "stills"), tmp_path / "cache"
    shrunk(Stills([folder]), 60, cache)
    (archive,) = cache.iterdir()
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    (cache / "left.partial").touch()
    (cache / "being-written.partial").touch()
    long_ago = time.time() - 100_000
    os.utime(cache / "left.partial", (long_ago, long_ago))
    assert min(shrunk(Stills([folder]), 60, cache).open(1).size) == 60
    assert archive.read_bytes() == whole  # the same stills give the same archive
    assert sorted(file.suffix for file in cache.iterdir()) == [".partial", ".zip"]
    assert not (cache / "left.partial").exists()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """While entered, writing a file past `size` bytes fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_training_goes_on_without_copies_when_they_cannot_be_written(tmp_path: Path) -> None:
    stills = Stills([photographs(tmp_path / "stills")])
    warnings: list[str] = []
    (tmp_path / "file").touch()
    assert shrunk(stills, 60, tmp_path / "file" / "cache", on_warning=warnings.append) is stills
    with files_of_at_most(4096):
        assert shrunk(stills, 60, tmp_path / "cache", on_warning=warnings.append) is stills
    assert not list((tmp_path / "cache").iterdir())
    assert len(warnings) == 2 and all(
        text.startswith("no shrunk copies of the stills can be kept (") for text in warnings
    )
    assert "Not a directory" in warnings[0] and "File too large" in warnings[1]


def test_making_copies_finds_every_broken_still(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "stills", 1000, (40, 30))
    broken = [folder / "1" / "101.jpg", folder / "0" / "304.jpg", folder / "1" / "303.jpg"]
    for file in broken:
        file.write_bytes(file.read_bytes()[:-100])  # its header is whole
    for _ in range(2):  # found, then known from the archive
        small = shrunk(stills := Stills([folder]), 15, tmp_path / "cache")
        assert small.checked and check(small) == len(small.faults) == 3
        assert {small.origins[index][1] for index in small.faults} == {str(file.relative_to(folder)) for file in broken}
        halves = small.halves(1)
        assert sum(len(half.faults) for half in halves) == 3
        assert stills.faults == small.faults
    for file in sorted(folder.rglob("*.jpg"))[:20]:
        file.write_bytes(b"broken")
    with pytest.raises(
        BadData, match=r"\d\d of 1000 stills are broken, the first: still .*000.jpg is broken: no picture$"
    ):
        shrunk(Stills([folder]), 15, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_stills_travel_to_a_process_that_is_spawned(tmp_path: Path) -> None:
    stills = Stills([pictures.zipped(pictures.make(tmp_path / "stills"))])
    expected = stills.open(2).tobytes()  # the archive is open now
    assert pickle.loads(pickle.dumps(stills)).open(2).tobytes() == expected
