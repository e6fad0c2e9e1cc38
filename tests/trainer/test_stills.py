"""Stills from folders and archives, and the order in which they are drawn."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from kinochrome_trainer.errors import BadData
from kinochrome_trainer.recipe import Data
from kinochrome_trainer.stills import Stills, _Order, batches, check
from tests.trainer import pictures

DATA = Data(size=32, workers=0)


def test_a_folder_and_its_archive_are_the_same(tmp_path: Path) -> None:
    folder = pictures.make(tmp_path / "stills")
    one, other = Stills([folder]), Stills([pictures.zipped(folder)])
    assert len(one) == len(other) == 12
    assert [name for _, name in one.entries] == [name for _, name in other.entries]
    assert one.open(3).tobytes() == other.open(3).tobytes()


def test_a_step_draws_the_same_however_one_got_there(tmp_path: Path) -> None:
    stills = Stills([pictures.make(tmp_path / "stills")])
    straight = list(batches(stills, DATA, batch=3, seed=1, first_step=0, steps=6))
    resumed = list(batches(stills, Data(size=32, workers=1), batch=3, seed=1, first_step=4, steps=6))
    assert len(straight) == 6 and len(resumed) == 2
    for a, b in zip(straight[4:], resumed, strict=True):
        assert a.shape == (3, 3, 32, 32) and a.dtype == torch.uint8
        assert torch.equal(a, b)
    assert not torch.equal(straight[0], straight[1])


def test_balance_evens_out_folders(tmp_path: Path) -> None:
    pictures.make(tmp_path / "many", 30)
    pictures.make(tmp_path / "few", 2)
    stills = Stills([tmp_path / "many", tmp_path / "few"])
    few = {index for index, (source, _) in enumerate(stills.entries) if source.name == "few"}
    share = {}
    for balance in (0.0, 1.0):
        order = _Order(stills, Data(balance=balance), 50, 1, 0, 40)
        drawn = Counter(index in few for batch in order for index, _ in batch)
        share[balance] = drawn[True] / drawn.total()
    assert share[0.0] == pytest.approx(2 / 32, abs=0.03)
    assert share[1.0] == pytest.approx(1 / 2, abs=0.05)


def test_what_is_no_set_of_stills_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no archive")
    for source, words in (("empty", "holds no still"), ("no", "does not exist"), ("text.zip", "neither a folder nor")):
        with pytest.raises(BadData, match=words):
            Stills([tmp_path / source])


def test_a_few_broken_stills_are_borne_many_are_not(tmp_path: Path) -> None:
    folder = pictures.make(tmp_path / "stills", 120, (16, 16))
    (folder / "a" / "001.jpg").write_bytes(b"broken")
    stills = Stills([folder])
    assert check(stills) == 1
    assert len(list(batches(stills, DATA, batch=8, seed=1, first_step=0, steps=20))) == 20
    (folder / "a" / "003.jpg").write_bytes(b"broken")
    with pytest.raises(BadData, match=r"2 of 120 stills looked at are broken, the first: still .*001\.jpg"):
        check(Stills([folder]))
