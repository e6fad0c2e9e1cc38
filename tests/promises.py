"""The promises, held against a film and what was made of it."""

import hashlib
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from tests import reading

BLACK = 24  # 8-bit code value: a film that never gets brighter has no colour to show
COARSEST_CLOCK_S = Fraction(1, 2000) + Fraction(1, 10**9)  # Matroska's whole milliseconds: at most half of one off
TECHNICAL = {  # what containers say of themselves, not of the film
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
    "creation_time",
    "handler_name",
    "vendor_id",
    "duration",
    "bps",
    "number_of_frames",
    "number_of_bytes",
    "timecode",
    "language",
    "title_language",
}


@dataclass
class Kept:
    """How each promise was kept: "yes", "-" where there was nothing to keep, or what is wrong."""

    film: str
    promises: dict[str, str] = field(default_factory=dict)

    def note(self, promise: str, fault: str = "", nothing: bool = False) -> None:
        self.promises[promise] = fault or ("-" if nothing else "yes")

    @property
    def broken(self) -> dict[str, str]:
        return {name: how for name, how in self.promises.items() if how not in ("yes", "-")}


@dataclass(frozen=True)
class Layout:
    """What a container says of its streams and itself."""

    tags: dict[str, str]
    chapters: list[tuple[str, float, float]]
    streams: dict[str, list[tuple[str | None, int, dict[str, str]]]]
    """By type: language, disposition, other tags."""
    attachments: list[tuple[str, str]]


def layout(file: Path) -> Layout:
    with av.open(str(file), metadata_errors="surrogateescape") as container:
        streams: dict[str, list[tuple[str | None, int, dict[str, str]]]] = {}
        for stream in container.streams:
            if stream.type in ("audio", "subtitle", "video"):
                language = None if stream.language in (None, "und") else stream.language
                about = (language, int(stream.disposition), plain(stream.metadata))
                streams.setdefault(stream.type, []).append(about)
        chapters = [
            (
                chapter["metadata"].get("title", ""),
                round(float(chapter["start"] * (chapter["time_base"] or 1)), 3),
                round(float(chapter["end"] * (chapter["time_base"] or 1)), 3),
            )
            for chapter in container.chapters()
        ]
        attached = [
            (one.name or "", hashlib.sha256(one.data).hexdigest()) for one in container.streams.attachments if one.data
        ]
        return Layout(plain(container.metadata), chapters, streams, attached)


def plain(tags: "dict[str, str]") -> dict[str, str]:
    """Without what containers say of themselves; keys in one case, as Matroska has them in another than MP4."""
    kept = {key.lower(): value for key, value in tags.items()}
    return {
        key: value
        for key, value in kept.items()
        if key not in TECHNICAL and not key.startswith(("com.apple", "com.android", "_statistics"))
    }


def luma(kept: Kept, film: list[reading.Picture], out: list[reading.Picture]) -> None:
    """Every Y plane is the film's byte for byte, at its depth and in its range, and turned as it was."""
    for index, (a, b) in enumerate(zip(film, out, strict=False)):
        if (a.depth, a.full_range, a.rotation) != (b.depth, b.full_range, b.rotation):
            return kept.note("luma", f"frame {index}: depth, range or rotation differ")
        if not a.patched and not np.array_equal(a.luma, b.luma):
            return kept.note("luma", f"frame {index} differs")
    fault = "" if len(film) == len(out) else f"{len(out)} of {len(film)} frames"
    return kept.note("luma", fault, nothing=all(picture.patched for picture in film))


def time(kept: Kept, film: list[reading.Picture], out: list[reading.Picture], slack: Fraction) -> None:
    """Every frame is shown when it was."""
    before, after = [picture.time for picture in film], [picture.time for picture in out]
    if None in before:
        return kept.note("time", "" if None not in after and len(after) == len(before) else "frames differ")
    off = [abs(a - b) for a, b in zip(before, after, strict=False) if a is not None and b is not None]
    fault = "" if len(before) == len(after) else f"{len(after)} of {len(before)} frames"
    return kept.note("time", fault or (f"{float(max(off)):.6f} s off" if off and max(off) > slack else ""))


def sound(kept: Kept, film: Path, out: Path, left_out: int) -> None:
    """Packets of copied streams are the film's, one by one, at their times."""
    before, after = reading.tracks(film, "audio", "subtitle"), reading.tracks(out, "audio", "subtitle")
    before = [track for track in before if track.packets]
    after = [track for track in after if track.packets]
    if len(after) + left_out < len(before):
        return kept.note("sound", f"{len(after)} of {len(before)} tracks")
    for track in after:
        twin = next((one for one in before if one.type == track.type and one.packets == track.packets), None)
        if twin is None:
            return kept.note("sound", f"{track.type} packets differ")
        off = np.abs(np.array(twin.times) - np.array(track.times)).max(initial=0)
        if off > float(COARSEST_CLOCK_S):
            return kept.note("sound", f"{track.type} is {off:.4f} s off")
    return kept.note("sound", nothing=not before)


def tags(kept: Kept, film: Path, out: Path, left_out: int) -> None:
    """Titles, languages, dispositions, chapters and attachments are the film's."""
    before, after = layout(film), layout(out)
    if missing := {key: value for key, value in before.tags.items() if after.tags.get(key) != value}:
        return kept.note("tags", f"lost {sorted(missing)}")
    if before.chapters != after.chapters:
        return kept.note("tags", f"chapters {before.chapters} became {after.chapters}")
    if before.attachments != after.attachments:
        return kept.note("tags", "attachments differ")
    for kind, streams in before.streams.items():
        twins = after.streams.get(kind, [])
        if left_out and len(twins) < len(streams):
            continue
        for (language, disposition, _), (other, others, _) in zip(streams, twins, strict=False):
            if language != other:
                return kept.note("tags", f"{kind} in {language} became {other}")
            if disposition & ~Disposition.default.value != others & ~Disposition.default.value:
                return kept.note("tags", f"{kind} disposition {disposition} became {others}")
    return kept.note("tags")


def colour(kept: Kept, film: list[reading.Picture], out: list[reading.Picture]) -> None:
    """What is not black is in colour."""
    brightest = max((int(picture.luma.max()) >> (picture.depth - 8) for picture in film), default=0)
    if brightest <= BLACK or min(film[0].luma.shape) < 16:
        return kept.note("colour", nothing=True)
    strongest = max(picture.chroma_strength() for picture in out)
    return kept.note("colour", "" if strongest > 1 else f"chroma strays by {strongest:.2f} at most")
