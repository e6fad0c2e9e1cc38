"""Evaluations of whole sets: baselines by construction, intervals, and what is left behind."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinochrome_trainer import baselines, evaluation, metrics
from kinochrome_trainer.colour import rgb_to_ycbcr
from kinochrome_trainer.errors import BadData
from kinochrome_trainer.stills import Stills
from tests.trainer import pictures
from tests.trainer.painters import OneColour


def flat(folder: Path, colours: dict[str, tuple[int, int, int]]) -> Stills:
    """Stills of one colour each, in the order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, colour in colours.items():
        Image.new("RGB", (32, 24), colour).save(folder / f"{name}.png")
    return Stills([folder])


def patterned(folder: Path, name: str, seed: int, tint: tuple[float, float, float]) -> None:
    """A still whose luma pattern follows from the seed and whose colour is a tint of it, of the same luma."""
    folder.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).uniform(60, 140, (6, 8))
    luma = coarse.repeat(5, 0).repeat(5, 1)[..., np.newaxis]
    offset = np.array(tint) - np.dot(tint, (0.299, 0.587, 0.114))
    Image.fromarray((luma + offset).round().clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")


def test_painting_nothing_is_as_good_as_gray(tmp_path: Path) -> None:
    stills = Stills([pictures.make(tmp_path / "stills", 3)])
    seen: list[tuple[int, int, str]] = []
    found = evaluation.evaluate(OneColour(), stills, 32, on_progress=lambda *progress: seen.append(progress))
    assert seen[-3:] == [(1, 3, ""), (2, 3, ""), (3, 3, "")]
    assert found.stills == 3 and found.broken == 0 and found.working_size == 32
    ours, gray = found.versions["ours"], found.versions["gray"]
    for name in gray:
        assert ours[name].mean == pytest.approx(gray[name].mean, abs=1e-3)
        assert found.gain[name].mean == pytest.approx(0, abs=1e-3)
    assert gray["colourfulness"].mean == pytest.approx(0, abs=0.01)
    assert found.versions["truth"]["colourfulness"].mean > 20
    assert "recognition" not in ours and "diversity" not in ours
    assert any("no classifier was named" in note for note in found.notes)


def test_the_mean_chroma_is_that_of_the_other_stills(tmp_path: Path) -> None:
    colours = {"a": (200, 100, 100), "b": (100, 200, 100), "c": (100, 100, 200)}
    stills = flat(tmp_path / "flat", colours)
    glance = baselines.survey(stills)
    rgb = torch.tensor(list(colours.values())).float().view(3, 3, 1, 1) / 255
    chroma = rgb_to_ycbcr(rgb)[1].flatten(1)
    assert torch.allclose(glance.chroma, chroma, atol=1e-4)
    assert torch.allclose(glance.mean_chroma(1).flatten(), (chroma[0] + chroma[2]) / 2, atol=1e-4)

    twins = flat(tmp_path / "twins", {"a": (200, 100, 100), "b": (200, 100, 100)})
    found = evaluation.evaluate(OneColour(), twins, 16)
    assert found.versions["mean_chroma"]["mae"].mean == pytest.approx(0, abs=0.1)  # the other is the same


def test_the_nearest_neighbour_finds_the_twin(tmp_path: Path) -> None:
    folder = tmp_path / "stills"
    for name, seed, tint in (("a", 1, (90.0, 0.0, 0.0)), ("b", 2, (0.0, 0.0, 90.0)), ("c", 1, (90.0, 0.0, 0.0))):
        patterned(folder, name, seed, tint)
    found = evaluation.evaluate(OneColour(), Stills([folder]), 32)
    rows = {(Path(row.still).stem, row.version): row for row in found.rows}
    assert Path(rows["a", "nearest_neighbour"].neighbour).stem == "c"
    assert Path(rows["c", "nearest_neighbour"].neighbour).stem == "a"  # never itself
    twin, gray = rows["a", "nearest_neighbour"].figures, rows["a", "gray"].figures
    assert twin and gray and twin.mae < 0.5 and gray.mae > 10

    library = tmp_path / "library"
    patterned(library, "twin of b", 2, (0.0, 0.0, 90.0))
    patterned(library, "other", 7, (0.0, 90.0, 0.0))
    found = evaluation.evaluate(OneColour(), Stills([folder]), 32, neighbours=Stills([library]))
    rows = {(Path(row.still).stem, row.version): row for row in found.rows}
    lent = rows["b", "nearest_neighbour"]
    assert Path(lent.neighbour).stem == "twin of b" and lent.figures and lent.figures.mae < 0.5


def test_a_single_still_has_no_others(tmp_path: Path) -> None:
    found = evaluation.evaluate(OneColour(), flat(tmp_path / "flat", {"a": (200, 100, 100)}), 16)
    assert set(found.versions) == {"ours", "gray", "truth"}
    assert any("one still has no others" in note for note in found.notes)


def test_a_painter_of_the_right_colour_gains_over_gray(tmp_path: Path) -> None:
    stills = flat(tmp_path / "flat", {"a": (150, 90, 80), "b": (160, 100, 90), "c": (100, 100, 100)})
    _, chroma = rgb_to_ycbcr(torch.tensor((150.0, 90, 80)).view(1, 3, 1, 1) / 255)
    painter = OneColour((float(chroma[0, 0, 0, 0]), float(chroma[0, 1, 0, 0])))
    found = evaluation.evaluate(painter, stills, 16)
    assert found.ranked[0] == 2  # gray in truth: any colour is worse than none
    assert found.gain["psnr"].low <= found.gain["psnr"].mean <= found.gain["psnr"].high
    rows = {(Path(row.still).stem, row.version): row.figures for row in found.rows}
    first = rows["a", "ours"]
    assert first and first.mae < 0.5 and first.within == 1


def test_colourings_of_a_stochastic_painter_are_compared(tmp_path: Path) -> None:
    stills = flat(tmp_path / "flat", {"a": (120, 120, 120), "b": (100, 100, 100)})
    painter = OneColour(noise_length=3, reach=0.01)
    found = evaluation.evaluate(painter, stills, 16, seeds=3)
    shifts = [float(one[0, 0]) for seed in range(3) if (one := metrics.noise(painter, seed)) is not None]
    # Both chroma channels shift alike: |dR| + |dG| + |dB| per unit, by ycbcr_to_rgb
    per_unit = (1.402 + (0.114 * 1.772 + 0.299 * 1.402) / 0.587 + 1.772) / 3
    pairs = [abs(shifts[i] - shifts[j]) for i in range(3) for j in range(i)]
    expected = 255 * 0.01 * per_unit * sum(pairs) / 3
    assert found.versions["ours"]["diversity"].mean == pytest.approx(expected, rel=1e-3)
    assert "diversity" not in found.versions["gray"]
    # the figures are those of seed 0
    assert found.versions["ours"]["mae"].mean == pytest.approx(255 * 0.01 * per_unit * abs(shifts[0]), rel=1e-3)
    assert evaluation.evaluate(painter, stills, 16, seeds=3).plain() == found.plain()


def test_intervals_hold_the_mean_and_shrink_with_more_stills() -> None:
    chance = np.random.default_rng(1)
    values = chance.normal(10, 2, (400, 2))
    (many, _), (few, _) = evaluation.means(values), evaluation.means(values[:25])
    assert many.low < many.mean < many.high
    # ±1.96·σ/√n, which the bootstrap of a mean comes near
    assert many.high - many.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert few.high - few.low > 3 * (many.high - many.low)
    assert evaluation.means(values) == evaluation.means(values)
    (alone,) = evaluation.means(np.array([[3.0]]))
    assert alone == evaluation.Mean(3, 3, 3)


def test_everything_is_left_behind_whole(tmp_path: Path) -> None:
    stills = Stills([pictures.make(tmp_path / "stills", 4)])
    painter = OneColour((0.05, 0.0))
    found = evaluation.evaluate(painter, stills, 32, threshold=0.1)
    folder = tmp_path / "results" / "here"
    evaluation.write(found, folder, painter, stills, {"step": 7})
    assert sorted(file.name for file in folder.iterdir()) == sorted(evaluation.NAMES)

    table = json.loads((folder / "evaluation.json").read_text())
    assert table["step"] == 7 and table["working_size"] == 32 and table["stills"] == 4
    assert table["settings"]["threshold"] == 0.1
    assert table["truth_colourfulness"] == table["truth"]["colourfulness"] > 20
    low, high = table["intervals"]["ours"]["psnr"]
    assert low <= table["ours"]["psnr"] <= high
    assert table["gain"]["psnr"] == pytest.approx(table["ours"]["psnr"] - table["gray"]["psnr"], abs=1e-5)

    with (folder / "evaluation-stills.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * len(evaluation.VERSIONS)
    ours = [float(row["psnr"]) for row in rows if row["version"] == "ours"]
    assert np.mean(ours) == pytest.approx(table["ours"]["psnr"], abs=1e-3)
    for name in ("evaluation-worst.jpg", "evaluation-best.jpg"):
        with Image.open(folder / name) as sheet:
            assert sheet.height == 4 * 180 and sheet.width >= 3 * 192

    for words in evaluation.tables(found):
        assert all(len(row) == len(words.heading) for row in words.rows)
        assert words.title == "4 stills at 32 lines, threshold 10 % of full scale; ± half of a 95 % interval"
        assert words.rows[0][0] in ("PSNR, dB", "CDC ×1000") and "±" in words.rows[0][2]


def test_broken_stills_are_left_out_up_to_a_hundredth(tmp_path: Path) -> None:
    folder = pictures.make(tmp_path / "stills", 101, (20, 16))
    (folder / "a" / "broken.jpg").write_bytes(b"no picture")
    found = evaluation.evaluate(OneColour(), Stills([folder]), 16)
    assert found.stills == 101 and found.broken == 1
    assert next(evaluation.tables(found)).title.endswith("1 broken left out; ± half of a 95 % interval")
    (folder / "a" / "another.jpg").write_bytes(b"no picture")
    with pytest.raises(BadData, match=r"2 of 103 stills are broken, the first: .*another\.jpg is broken"):
        evaluation.evaluate(OneColour(), Stills([folder]), 16)


def test_a_still_too_small_for_ssim_is_named(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    Image.new("RGB", (40, 10)).save(tmp_path / "tiny" / "x.png")
    with pytest.raises(BadData, match=r"x\.png is too small to measure: a side has less than 11 pixels"):
        evaluation.evaluate(OneColour(), Stills([tmp_path / "tiny"]), 16)
