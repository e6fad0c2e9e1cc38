"""The page that tells of a run: complete in itself, true to the log, and made at any time of the run."""

import base64
import io
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kinochrome_trainer import charts, report
from kinochrome_trainer.errors import BadRun

HOSTILE = '<script src="https://example.invalid/x.js">alert(1)</script> & "quotes"'
RECIPE: dict[str, Any] = {
    "system": "pix2pix",
    "about": HOSTILE,
    "phases": [{"size": 64, "batch": 8, "steps": 100}, {"size": 96, "batch": 4, "steps": 300}],
    "generator": {"name": "light-unet", "width": 48, "dropout": 0.0},
    "loss": {"l1": 100.0, "layers": ["relu2_2", "relu3_2"]},
}
HEADER = "step,seconds,pictures_per_second,size,lr,l1,<i>late</i>\n"


def make_run(folder: Path, log: str, sheets: int = 0) -> Path:
    folder.mkdir()
    described = {
        "recipe": RECIPE,
        "data": {"colour": ["a&b.zip"], "stills": 12018},
        "versions": {"torch": "2.9"},
        "git": {"commit": "0123abc", "dirty": True},
    }
    (folder / "recipe.json").write_text(json.dumps(described))
    (folder / "log.csv").write_text(log)
    (folder / "samples").mkdir()
    for index in range(1, sheets + 1):
        Image.new("RGB", (900, 300), (index, 90, 60)).save(folder / "samples" / f"step-{20 * index:08}.jpg")
    return folder


def lines(count: int) -> str:
    """A log of `count` lines, 20 steps each; the first phase is of five lines, the second loss is not at work yet."""
    rows = [f"{20 * n},{2.0 * n},80.0,{64 if n <= 5 else 96},2e-4,{0.1 + 1 / n:.5f},\n" for n in range(1, count + 1)]
    return HEADER + "".join(rows)


@dataclass
class Page(HTMLParser):
    """What a browser makes of the page."""

    text: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    open_tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "img", "link"):
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag, "tags nest"

    def handle_data(self, data: str) -> None:
        if self.open_tags and self.open_tags[-1] != "style" and data.strip():
            self.words.append(re.sub(r"[ \n]+", " ", data).strip())

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def after(self, words: str) -> str:
        """The words that follow some: the value of a fact, a row, a chart."""
        return self.words[self.words.index(words) + 1]

    def pictures(self) -> list[Image.Image]:
        return [decoded(attributes["src"]) for attributes in self.of("img")]


def decoded(uri: str) -> Image.Image:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    picture.load()
    return picture


def page(run: Path) -> Page:
    file = report.write(run)
    assert file == run / "report.html"
    assert [entry.name for entry in run.iterdir() if "report" in entry.name] == ["report.html"]  # nothing half-written
    return Page(file.read_text(encoding="utf-8"))


def test_the_page_is_complete_in_itself(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", lines(20), sheets=3)
    Image.new("RGB", (300, 200), (200, 0, 0)).save(run / "evaluation-worst.jpg")
    made = page(run)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in made.tags}
    for _, attributes in made.tags:
        for name, value in attributes.items():
            assert name not in ("href", "src", "xlink:href") or value.startswith(("data:", "#")), (name, value)
            assert "http" not in value
            assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", value))
    assert "url(" not in made.text.split("</style>")[0] and "@import" not in made.text
    assert len(made.pictures()) == 4
    assert not made.open_tags
    policy = [meta["content"] for meta in made.of("meta") if "http-equiv" in meta]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_text_from_the_run_is_text_on_the_page(tmp_path: Path) -> None:
    made = page(make_run(tmp_path / "<b>run", lines(3)))
    assert made.words.count("<b>run") == 1
    assert f": {HOSTILE}" in made.words
    assert made.after("colour") == "a&b.zip"
    assert "Not at work so far: <i>late</i>." in made.words


def test_the_headline_tells_steps_time_pictures_and_speed(tmp_path: Path) -> None:
    log = lines(10) + "220,1.5,80.0,96,2e-4,0.1,\n240,2.5,80.0,96,2e-4,0.1,\n"  # carried on: the clock starts anew
    made = page(make_run(tmp_path / "run", log))
    assert made.after("Steps") == "240 of 400"
    assert made.after("Time") == "22 s"
    assert made.after("Pictures drawn") == "about 1\N{NARROW NO-BREAK SPACE}800"
    assert made.after("Speed") == "80 pictures/s"
    assert made.after("Colour stills") == "12\N{NARROW NO-BREAK SPACE}018"


def test_curves_follow_the_log(tmp_path: Path) -> None:
    made = page(make_run(tmp_path / "run", lines(20)))
    assert len(made.of("svg")) == 3  # a loss, the learning rate, the speed; the other loss has no value
    assert all("viewbox" in svg and "width" not in svg for svg in made.of("svg"))
    assert made.after("l1") == "0.15"
    assert made.after("learning rate") == "2e\N{MINUS SIGN}4"
    assert made.words.count("64 px") == made.words.count("96 px") == 3  # phases are marked in each
    assert "var(--accent)" in made.text and not re.search(r"#0[1-3]0[1-3]0[1-3]\b", made.text)
    identifiers = [attributes["id"] for _, attributes in made.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize(
    ("log", "charts_made"),
    [
        ("", 0),
        (HEADER, 0),
        (HEADER + "20,2.0,80.0,64,2e-4,0.5,\n", 3),
        (HEADER + "20,2.0,80.0,64,2e-4,nan,\n40,4.0,80.0,64,2e-4,inf,\n", 2),
        (HEADER + "20,2.0,80.0,64,2e-4,0.5,\n40,4.0,80.0,64,2e-4,nan,\n60,6.0,80.0,64,2e-4,0.5,\n", 3),
        (lines(5) + "120,12.0,80", 3),  # a line that is being written
        (lines(5) + "12", 3),
        ("step,seconds,pictures_per_second,lr,l1\n20,2.0,80.0,2e-4,0.5\n", 3),  # a run that tells no size
    ],
)
def test_a_run_of_any_age_has_a_page(tmp_path: Path, log: str, charts_made: int) -> None:
    made = page(make_run(tmp_path / "run", log))
    assert len(made.of("svg")) == charts_made
    assert "No sheet is made yet." in made.words
    assert ("Nothing is logged yet." in made.words) == (charts_made < 3)


def test_a_loss_that_ends_as_no_number_says_so(tmp_path: Path) -> None:
    made = page(make_run(tmp_path / "run", lines(5) + "120,12.0,80.0,96,2e-4,nan,\n"))
    assert made.after("l1") == "not a number"


def test_the_newest_sheet_is_large_and_earlier_ones_are_a_strip(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", lines(30), sheets=30)
    (run / "samples" / "step-00000400.jpg").write_bytes(b"broken")
    made = page(run)
    shades = [int(np.asarray(picture)[..., 0].mean().round()) for picture in made.pictures()]
    assert shades[0] == pytest.approx(30, abs=2) and made.pictures()[0].width == 900
    assert 7 <= len(shades) - 1 <= 8  # the broken one may be among those chosen, and is left out
    assert shades[1:] == sorted(shades[1:]) and shades[1] <= 3 and shades[-1] >= 27
    assert all(picture.width == 480 for picture in made.pictures()[1:])
    assert made.words.count("Step 600") == 1


def test_large_sheets_make_no_large_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", lines(30))
    noise = np.random.default_rng(1).integers(0, 256, (2600, 1500, 3), np.uint8)  # worse than any photograph
    for step in range(20, 220, 20):
        Image.fromarray(noise).save(run / "samples" / f"step-{step:08}.jpg", quality=95)
    for which in ("worst", "best"):
        Image.fromarray(noise).save(run / f"evaluation-{which}.jpg", quality=95)
    assert len(page(run).pictures()) == 11
    assert (run / "report.html").stat().st_size < 6e6


def test_evaluation_is_shown_whatever_its_figures_are(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", lines(3))
    (run / "evaluation.json").write_text(
        '{"stills": 228, "ours": {"psnr": 22.944461, "fid": 41.25, "n": 1234}, '
        '"gray": {"psnr": 22.29514, "fid": NaN, "n": 1}, '
        '"truth": {"fid": 0.5}, "ab_error": {"ours": {"mean": 16.09, "interval": [15.8, 16.4]}}, '
        '"notes": [], "<u>": true, "clips": [' + ", ".join(13 * ['{"mean": 1.0}']) + "]}"
    )
    made = page(run)
    assert made.after("stills") == "228"
    start = made.words.index("psnr")
    assert made.words[start - 3 : start + 3] == ["ours", "gray", "truth", "psnr", "22.94", "22.3"]
    assert made.words[start + 3 : start + 7] == ["fid", "41.25", "not a number", "0.5"]
    assert made.words[made.words.index("ab_error · ours") :][:5] == [
        "ab_error · ours",
        "mean",
        "16.09",
        "interval",
        "15.8, 16.4",
    ]
    assert made.after("<u>") == "yes" and made.after("notes") == "none" and made.after("clips") == "13 entries"
    (run / "evaluation.json").write_text("{half")
    assert "Evaluation" not in page(run).words


def test_recipe_versions_and_commit_are_listed(tmp_path: Path) -> None:
    made = page(make_run(tmp_path / "run", lines(3)))
    for name, value in (("name", "light-unet"), ("dropout", "0"), ("layers", "relu2_2, relu3_2"), ("torch", "2.9")):
        assert made.after(name) == value
    start = made.words.index("phases")  # phases side by side
    assert made.words[start + 1 : start + 6] == ["1", "2", "size", "64", "96"]
    assert made.after("commit") == "0123abc" and made.after("dirty") == "yes"


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", lines(3))
    before = report.write(run).read_bytes()

    def full(*arguments: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="full"):
        report.write(run)
    assert (run / "report.html").read_bytes() == before
    assert not list(run.glob(".report*"))


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRun, match=r"is no training run: its recipe.json is missing or damaged"):
        report.write(tmp_path)


def test_running_mean_passes_over_gaps_and_keeps_them() -> None:
    y = np.ones(400)
    y[100:120] = np.nan
    y[300] = 11
    smooth = charts.running_mean(y)  # over ten values
    assert np.isnan(smooth).sum() == 20
    assert smooth[99] == smooth[120] == 1.0 == smooth[0]
    assert smooth[300] == pytest.approx(2.0)


def test_a_long_curve_is_thinned_without_losing_its_level() -> None:
    x = np.arange(50_000.0)
    thin_x, thin_y = charts.thinned(x, x * 2)
    assert len(thin_x) == charts.POINTS
    assert np.allclose(thin_y, 2 * thin_x)
    assert len(charts.curve("long", x, x)) < 80_000


def test_a_spike_at_the_start_does_not_flatten_the_rest() -> None:
    y = np.full(1000, 0.5) + np.linspace(0, 0.1, 1000)
    y[:5] = 100.0
    low, high = charts.bounds(y, charts.running_mean(y))
    assert 0.3 < low < 0.5 and 0.6 < high < 0.8
    y[-30:] = 40.0  # what a run ends with is never cut off
    assert charts.bounds(y, charts.running_mean(y))[1] > 40


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.035, "0.035"), (20.0, "20"), (4000.0, "4k"), (1.5e6, "1.5M"), (2e-4, "2e−4"), (-0.5, "−0.5")],
)
def test_ticks_are_short(value: float, text: str) -> None:
    assert charts.short(value) == text
