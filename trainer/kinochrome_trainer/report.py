"""One page that tells of a training run, complete in itself: it opens from disk and can be sent to somebody.

    headline, loss curves, learning rate and speed, sample sheets, evaluation, recipe, versions

It is made of what lies in the run's folder, at any time of the run.
"""

import base64
import csv
import io
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from .charts import Numbers, curve, running_mean, short
from .errors import BadRun

NOT_LOSSES = ("step", "seconds", "pictures_per_second", "size", "lr")  # columns of log.csv
LONGEST = 12  # lists of more entries are counted, not shown
STRIP = 8  # earlier sample sheets shown
SHEET_BYTES, STRIP_BYTES, EXTREMES_BYTES = 1_500_000, 120_000, 700_000  # of a picture, at most: a page is sent about


@dataclass(frozen=True)
class Chart:
    title: str
    latest: str
    """Newest value, with its unit."""
    svg: Markup


@dataclass(frozen=True)
class Picture:
    caption: str
    uri: str
    """data:image/jpeg;base64,…"""


@dataclass(frozen=True)
class Table:
    """Figures or settings: a name and a value a row, or, with columns, a name and a value for each of them."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]


def write(run: Path) -> Path:
    """Write `run/report.html` of what the run's folder holds by now; return its path.

    Raises BadRun when the folder is no training run, OSError when the report cannot be written.
    """
    described = _table(run / "recipe.json")
    if not described:
        raise BadRun(f"{run} is no training run: its recipe.json is missing or damaged")
    recipe = described.get("recipe", {})
    log = _log(run / "log.csv")
    sheets = sorted((run / "samples").glob("step-*.jpg"))
    newest, earlier = sheets[-1:], _spread(sheets[:-1], STRIP)
    charts, silent = _losses(log)
    page = _template().render(
        run=run.resolve().name,
        system=recipe.get("system", ""),
        about=recipe.get("about", ""),
        facts=_facts(recipe, described.get("data", {}), log, sheets),
        losses=charts,
        silent=silent,
        pace=_pace(log),
        newest=[*_pictures(newest, 1600, SHEET_BYTES)],
        strip=[*_pictures(earlier, 480, STRIP_BYTES)],
        evaluation=tables(_table(run / "evaluation.json")),
        extremes=[
            *_pictures([run / f"evaluation-{which}.jpg" for which in ("worst", "best")], 1200, EXTREMES_BYTES),
        ],
        recipe=tables({key: value for key, value in recipe.items() if key != "about"}),
        origin=tables({key: value for key, value in described.items() if key != "recipe"}),
    )
    report = run / "report.html"
    partial = run / f".report-{os.getpid()}.html"
    try:
        partial.write_text(page, encoding="utf-8", errors="replace")
        partial.replace(report)
    finally:
        partial.unlink(missing_ok=True)
    return report


def _template() -> jinja2.Template:
    text = (resources.files(__package__) / "report.html.jinja").read_text(encoding="utf-8")
    options = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    return jinja2.Environment(autoescape=True, **options).from_string(text)  # type: ignore[arg-type]


def _table(file: Path) -> dict[str, Any]:
    """A JSON object, or nothing where the file is missing or damaged."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def _log(file: Path) -> dict[str, Numbers]:
    """The columns of log.csv, each (lines,), NaN for a cell that is empty or no number. Always has a column `step`."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines, restval="")
            rows = [row for row in reader if math.isfinite(_number(row.get("step", "")))]
            names = [name for name in reader.fieldnames or [] if name]
    except (OSError, ValueError, csv.Error):
        rows, names = [], []
    return {
        name: np.array([_number(row[name]) for row in rows], np.float64) for name in {"step": 0} | dict.fromkeys(names)
    }


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _column(log: dict[str, Numbers], name: str) -> Numbers:
    return log.get(name, np.full(len(log["step"]), np.nan))


def _elapsed(log: dict[str, Numbers]) -> Numbers:
    """Seconds spent on each line of the log. The log's clock starts anew where a run was carried on."""
    seconds = np.nan_to_num(_column(log, "seconds"))
    gone = np.diff(seconds, prepend=0.0)
    return np.where(gone < 0, seconds, gone)


def _facts(
    recipe: dict[str, Any], data: dict[str, Any], log: dict[str, Numbers], sheets: list[Path]
) -> list[tuple[str, str]]:
    """Name and value of what one wants to know first."""
    done = max([0, *log["step"][-1:].astype(int).tolist(), *(_step(sheet) for sheet in sheets[-1:])])
    total = _steps(recipe)
    facts = [("Steps", f"{grouped(done)} of {grouped(total)}" if total else grouped(done))]
    elapsed = _elapsed(log)
    if seconds := float(elapsed.sum()):
        pictures = float(np.nansum(elapsed * _column(log, "pictures_per_second")))
        facts += [
            ("Time", duration(seconds)),
            ("Pictures drawn", f"about {grouped(round_to(pictures, 2))}"),
            ("Speed", f"{pictures / seconds:.3g} pictures/s"),
        ]
    stills = [(name, data.get(key)) for name, key in (("Colour stills", "stills"), ("Gray stills", "gray_stills"))]
    return facts + [(name, grouped(count)) for name, count in stills if isinstance(count, int) and count]


def _steps(recipe: dict[str, Any]) -> int | None:
    """Length of the run; None when the recipe leaves it to the number of stills."""
    phases = recipe.get("phases") or [recipe]
    steps = [int(phase.get("steps") or 0) for phase in phases]
    return sum(steps) if all(steps) else None


def _losses(log: dict[str, Numbers]) -> tuple[list[Chart], list[str]]:
    """A chart for each loss, and the names of those that have no value yet."""
    names = [name for name in log if name not in NOT_LOSSES]
    drawn = [name for name in names if np.isfinite(log[name]).any()]
    charts = []
    for name in drawn:
        latest = number(float(running_mean(log[name])[-1]))
        charts.append(Chart(name, latest, Markup(curve(name, log["step"], log[name], _marks(log)))))
    return charts, [name for name in names if name not in drawn]


def _pace(log: dict[str, Numbers]) -> list[Chart]:
    charts = []
    for name, title, unit in (("lr", "learning rate", ""), ("pictures_per_second", "speed", "pictures/s")):
        values = _column(log, name)
        if np.isfinite(values).any():
            svg = Markup(curve(name, log["step"], values, _marks(log), smoothed=False))
            charts.append(Chart(title, f"{number(float(values[-1]))} {unit}".strip(), svg))
    return charts


def _marks(log: dict[str, Numbers]) -> list[tuple[float, str]]:
    """Where phases of another crop size begin, when there are several: step and size."""
    sizes = _column(log, "size")
    known = np.isfinite(sizes)
    steps, sizes = log["step"][known], sizes[known]
    starts = [0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist()] if len(sizes) else []
    if len(starts) < 2:
        return []
    return [(float(steps[start - 1]) if start else 0.0, f"{sizes[start]:.0f} px") for start in starts]


def _spread(files: list[Path], count: int) -> list[Path]:
    """At most `count` of the files, evenly from the first to the last."""
    if len(files) <= count:
        return files
    return [files[index] for index in np.linspace(0, len(files) - 1, count).round().astype(int)]


def _step(sheet: Path) -> int:
    digits = sheet.stem.removeprefix("step-")
    return int(digits) if digits.isdecimal() else 0


def _pictures(files: list[Path], width: int, limit: int) -> Iterator[Picture]:
    """Each picture at most `width` pixels wide and `limit` bytes large. What is missing or broken is left out."""
    for file in files:
        caption = f"Step {grouped(_step(file))}" if file.stem.startswith("step-") else file.stem.rpartition("-")[2]
        try:
            with Image.open(file) as opened:
                picture = opened.convert("RGB")
        except (OSError, SyntaxError, ValueError):
            continue
        if picture.width > width:
            picture = picture.resize((width, max(1, round(picture.height * width / picture.width))), reducing_gap=3)
        yield Picture(
            caption.capitalize(), f"data:image/jpeg;base64,{base64.b64encode(_jpeg(picture, limit)).decode()}"
        )


def _jpeg(picture: Image.Image, limit: int) -> bytes:
    """JPEG of at most `limit` bytes: of less quality, then smaller, until it fits."""
    for quality in (88, 78, 65):
        file = io.BytesIO()
        picture.save(file, "jpeg", quality=quality)
        if file.tell() <= limit:
            return file.getvalue()
    return _jpeg(picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4))), limit)


def tables(value: dict[str, Any], title: str = "") -> list[Table]:
    """A nested table as flat ones: plain values first, then each section.

    Sections share a table where one has all the keys of the others.
    """
    plain = {key: entry for key, entry in value.items() if not _is_section(entry)}
    found = [Table(title, [], [(key, [shown(entry)]) for key, entry in plain.items()])] if plain else []
    sections = {key: _section(entry) for key, entry in value.items() if key not in plain}
    while sections:
        first = next(iter(sections))
        if any(map(_is_section, sections[first].values())):
            found += tables(sections.pop(first), _under(title, first))
            continue
        leaves = [entry for entry in sections.values() if not any(map(_is_section, entry.values()))]
        keys = max((entry.keys() for entry in leaves if entry.keys() >= sections[first].keys()), key=len)
        alike = {key: sections.pop(key) for key in list(sections) if sections[key].keys() <= keys}
        found += [_matrix(title, list(keys), alike)] if len(alike) > 1 else tables(alike[first], _under(title, first))
    return found


def _matrix(title: str, keys: list[str], sections: dict[str, dict[str, Any]]) -> Table:
    """Sections side by side, the fewer of sections and keys across: pages are narrow."""

    def cell(section: dict[str, Any], key: str) -> str:
        return shown(section[key]) if key in section else ""

    if len(sections) <= len(keys):
        return Table(title, list(sections), [(key, [cell(entry, key) for entry in sections.values()]) for key in keys])
    return Table(title, keys, [(name, [cell(entry, key) for key in keys]) for name, entry in sections.items()])


def _is_section(value: object) -> bool:
    """Whether a value has a name and a value for several things, or is a list of such; a long list is none."""
    if isinstance(value, list) and len(value) <= LONGEST:
        return bool(value) and all(isinstance(entry, dict) for entry in value)
    return isinstance(value, dict) and bool(value)


def _section(value: dict[str, Any] | list[dict[str, Any]]) -> dict[str, Any]:
    return value if isinstance(value, dict) else {str(index): entry for index, entry in enumerate(value, 1)}


def _under(title: str, key: str) -> str:
    return f"{title} · {key}" if title else key


def shown(value: object) -> str:
    """A value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return grouped(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list) and len(value) > LONGEST:
        return f"{grouped(len(value))} entries"
    if isinstance(value, list) and value:
        return ", ".join(map(shown, value))
    if value in (None, "", [], {}):
        return "none"
    return str(value)


def number(value: float) -> str:
    """Four significant digits."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    return grouped(round(value)) if abs(value) >= 1000 else short(value)


def grouped(value: int) -> str:
    """12 018, with narrow spaces that do not break."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def round_to(value: float, digits: int) -> int:
    return int(float(f"{value:.{digits}g}"))


def duration(seconds: float) -> str:
    """50 s, 12 min, 3 h 20 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
