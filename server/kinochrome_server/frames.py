"""Training stills out of films: of each shot the sharpest frames, no two alike.

A film is walked as it is when it is coloured: cut into segments, each looked at by a worker, which finds the cuts and
keeps the sharpest frame of every half second. Shots run on over segments, so choosing among these candidates is done
here, in the order of the film, and no more of them are held than those of a stretch of the current shot. A film's
stills get their names all at once, when it has been read to its end.

How a shot is represented: its first `every` seconds are parted into up to `per_shot` equal places, each `every` seconds
that follow are one more, and each place is given to its sharpest frame. What is blank, blurred or like a still that is
kept already leaves its place empty. See `stills` for how these are told.
"""

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as settle
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
from av.video.frame import VideoFrame

from kinochrome_proto.errors import BadFilm, BadSettings, OutputInTheWay

from . import stills
from .chroma import Float
from .compose import COLOUR_SPREAD
from .cuts import DELAY, with_cuts
from .decoding import Account, OutOfOrder, Shown, in_order
from .delayed import delayed
from .facts import Facts
from .fields import Deinterlacer, deinterlaced
from .film import Film
from .packets import Role, StoredPacket
from .planes import Picture, Plane, luma_of
from .pool import WorkerPool
from .segments import WARM_UP, Segment
from .sources import Source
from .worker import Bench, Probe

RATED_LINES = 256
"""Short side of the pictures that are rated; smaller films are rated as they are."""
WINDOW_S = Fraction(1, 2)
"""Seconds of film of which one frame stands as a candidate; and that a place in a shot lasts at least."""
MOST_CANDIDATES = 128
"""Held of a stretch of a shot: where there are more, each comes to stand for twice the time."""
FADE = 3
"""Blank frames in a row that part shots, as a fade does, which is no cut."""
BLURRED = 0.12
"""Sharpness below which a frame is no still."""
ALIKE = 0.85
"""Correlation of fingerprints from which on two stills are the same again."""
ALIKE_IN_SHOT = 0.6
"""The same for two of one shot: an unsteady camera alone makes more of a difference than `ALIKE` allows."""
IN_COLOUR = 0.1
"""Share of a film's stills in colour from which on all of them are saved in colour: a colour film has its gray days."""
MOST_WARNINGS = 5
"""Of one film that are told one by one."""

_OURS = re.compile(r"\d{9,}\.(jpg|png)")


@dataclass(frozen=True)
class Wanted:
    """What stills are to be like, and how many of a shot."""

    per_shot: int = 2
    """At most, of a shot no longer than `every`; they are spread over it."""
    every: float = 10.0
    """Seconds after which a shot gives one more still."""
    size: int = 256
    """Pixels of the short side; smaller films are not enlarged. 0 keeps the film's own."""
    format: str = "jpg"
    """A key of `stills.ENCODINGS`."""
    lenient: bool = False
    """Whether of a damaged film what can be read will do."""


@dataclass
class Tally:
    """What came of a film, or of several. Every place in a shot is counted once: with a still, or by what it lacks."""

    shots: int = 0
    kept: int = 0
    blurred: int = 0
    duplicate: int = 0
    blank: int = 0
    damaged: int = 0
    """Of frames that the decoder had to make up in part, or that lean on such."""

    def add(self, other: "Tally") -> None:
        for count in fields(self):
            setattr(self, count.name, getattr(self, count.name) + getattr(other, count.name))


@dataclass(frozen=True)
class Candidate:
    """The best frame of a window of time. Its stills lie beside the segments until they are chosen or not."""

    segment: int
    pts: int
    fault: str
    """What keeps it from being a still, "blank", "damaged" or "blurred"; or "", and only then there are files of it."""
    sharpness: float
    colour_spread: float
    fingerprint: str
    """Of `stills.fingerprint`, hexadecimal."""

    def file(self, folder: Path, colour: bool) -> Path:
        # No ending of a picture's: what a kill leaves here must not be taken for stills.
        return folder / f"{self.segment:06d}-{self.pts}.{'colour' if colour else 'gray'}.passing"

    def discard(self, folder: Path) -> None:
        for colour in (False, True):
            self.file(folder, colour).unlink(missing_ok=True)

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Larger is better."""
        return not self.fault, self.fault == "blank", self.sharpness


@dataclass(frozen=True)
class Rake:
    """Look at every frame of a segment: gives the parts of shots in it, and their candidates."""

    source: Source
    facts: Facts
    segment: Segment
    wanted: Wanted
    folder: Path
    """Where the candidates' stills go."""

    @property
    def subject(self) -> str:
        return f"{self.source.name}, at {self.segment.seconds:.1f} s"

    def run(self, bench: Bench, tell: Callable[[int], None], *, sparing: bool) -> dict[str, Any]:
        del sparing
        decoder = bench.decoder(self.source, self.facts)

        def attempt(by_rank: bool) -> dict[str, Any]:
            account, raking = Account(), _Raking(self)
            shown = decoder.frames(
                self.segment, account, lenient=self.wanted.lenient, before=WARM_UP, after=DELAY, by_rank=by_rank
            )
            try:
                for seen in with_cuts(_whole(shown, self.facts)):
                    if seen.role != Role.AFTER:
                        raking.add(seen)
                        tell(seen.role == Role.OWN)
            except OutOfOrder:
                tell(-raking.frames)
                raking.discard()
                raise
            return {"parts": raking.finish(), "warnings": account.warnings}

        return in_order(attempt)


@dataclass(eq=False)
class _Seen:
    """A frame on its way through a worker."""

    role: Role
    pts: int
    frame: VideoFrame
    luma: Plane
    """(H, W), a view of the frame."""
    thumbnail: stills.Pixels
    """(h, w), full range."""
    is_damaged: bool
    starts_shot: bool = False

    @property
    def inside(self) -> stills.Pixels:
        """What of `thumbnail` lies between black bars."""
        return stills.Bars.around(self.thumbnail).without(self.thumbnail)


def _whole(shown: Iterator[Shown], facts: Facts) -> Iterator[_Seen]:
    """The same frames, deinterlaced where they are of two fields."""
    picture = _picture(facts)
    shape = stills.shape_of(picture, RATED_LINES)
    deinterlacer = Deinterlacer(facts.picture, facts.time_base) if facts.picture.field_order else None

    def judged() -> Iterator[tuple[Shown, bool]]:
        is_damaged = False
        for one in shown:
            stored = cast(StoredPacket | None, one.frame.opaque)
            patched = one.frame.is_corrupt or (stored is not None and stored.is_corrupt)
            is_damaged = patched or (is_damaged and not one.frame.key_frame)  # others up to the next lean on it
            yield one, is_damaged

    def push(judgement: tuple[Shown, bool]) -> list[VideoFrame]:
        one, _ = judgement
        one.frame.pts = one.pts
        return deinterlacer.push(one.frame) if deinterlacer else [one.frame]

    for (one, is_damaged), frame in delayed(judged(), push, deinterlacer.flush if deinterlacer else list):
        luma = luma_of(frame, picture)
        yield _Seen(one.role, one.pts, frame, luma, stills.small_luma(luma, picture, shape), is_damaged)


def _picture(facts: Facts) -> Picture:
    """Of the frames that stills are made of."""
    return deinterlaced(facts.picture) if facts.picture.field_order else facts.picture


class _Raking:
    """Finds the candidates of a segment: the best frame of each window of each part of a shot."""

    def __init__(self, task: Rake) -> None:
        self._task, self._picture = task, _picture(task.facts)
        self._parts: list[tuple[bool, list[Candidate]]] = []
        """Whether a shot starts with it, and its candidates."""
        self._window: int | None = None
        self._best: tuple[Candidate, _Seen] | None = None
        self._blank = 0
        """Blank frames in a row, up to now."""
        self.frames = 0

    def add(self, seen: _Seen) -> None:
        """Take the next frame, of the segment or of those before it."""
        inside = seen.inside
        # Titles on black are wide bars with words between them: blank as a whole.
        is_blank = stills.is_blank(seen.thumbnail) or stills.is_blank(inside)
        starts = seen.starts_shot or (not is_blank and self._blank >= FADE)
        self._blank = self._blank + 1 if is_blank else 0
        if seen.role != Role.OWN:
            return
        self.frames += 1
        window = int(seen.pts * self._task.facts.time_base // WINDOW_S)
        if starts or window != self._window:
            self._settle()
        if starts or not self._parts:
            self._parts.append((starts, []))
        self._window = window
        fault = "damaged" if seen.is_damaged else "blank" if is_blank else ""
        sharp = 0.0 if fault else stills.sharpness(inside)
        candidate = Candidate(self._task.segment.index, seen.pts, fault, sharp, 0.0, "")
        if self._best is None or candidate.rank > self._best[0].rank:
            self._best = candidate, seen

    def finish(self) -> list[dict[str, Any]]:
        """The parts, in plain JSON values."""
        self._settle()
        return [
            {"starts": starts, "candidates": [asdict(candidate) for candidate in candidates]}
            for starts, candidates in self._parts
        ]

    def discard(self) -> None:
        for _, candidates in self._parts:
            for candidate in candidates:
                candidate.discard(self._task.folder)

    def _settle(self) -> None:
        """Keep the window's best frame, as stills in gray and in colour: which it will be, the whole film says."""
        if self._best is None:
            return
        (candidate, seen), self._best = self._best, None
        if candidate.sharpness >= BLURRED:
            wanted, folder = self._task.wanted, self._task.folder
            bars = stills.Bars.around(seen.thumbnail)
            still = stills.still(seen.frame, seen.luma, self._picture, bars, wanted.size, wanted.format)
            print_ = stills.fingerprint(bars.without(seen.thumbnail)).astype(np.float16).tobytes().hex()
            candidate = replace(candidate, colour_spread=still.colour_spread, fingerprint=print_)
            candidate.file(folder, colour=False).write_bytes(still.gray)
            if still.colour:
                candidate.file(folder, colour=True).write_bytes(still.colour)
        elif not candidate.fault:
            candidate = replace(candidate, fault="blurred")
        self._parts[-1][1].append(candidate)


class Gleaner:
    """Takes stills from films, one film after the other; of what any two films share it keeps the first."""

    def __init__(self, wanted: Wanted, pool: WorkerPool) -> None:
        """Raises BadSettings."""
        if wanted.format not in stills.ENCODINGS:
            raise BadSettings(f"--format {wanted.format} is unknown: use {' or '.join(stills.ENCODINGS)}")
        self._wanted, self._pool = wanted, pool
        self._kept = _Fingerprints()

    def glean(
        self,
        source: Source,
        folder: Path,
        *,
        overwrite: bool = False,
        on_progress: Callable[[int, int], None] = lambda frames, expected: None,
        on_warning: Callable[[str], None] = lambda text: None,
    ) -> Tally:
        """Take a film's stills, all or none: each is named for its time in milliseconds from the film's first moment.

        Args:
            source: the film, whole.
            folder: where they go. It is made when there are any; what is in it already stays.
            overwrite: whether stills of an earlier run there are replaced.
            on_progress: called, from another thread, with the frames looked at and those that the film says it has.
            on_warning: called with each warning.

        Raises BadFilm, OutputInTheWay, OSError of the disk.
        """
        marked = len(self._kept)
        try:
            with _scratch(folder.parent) as scratch:
                return self._glean(source, folder, scratch, overwrite, on_progress, on_warning)
        except BaseException:
            self._kept.forget(marked)  # its stills are nowhere: others may have them
            raise

    def _glean(
        self,
        source: Source,
        folder: Path,
        scratch: Path,
        overwrite: bool,
        on_progress: Callable[[int, int], None],
        on_warning: Callable[[str], None],
    ) -> Tally:
        try:
            source.open().close()
        except OSError as error:
            raise BadFilm(f"{source.name} cannot be read: {error.strerror}") from None
        facts = Facts.from_plain(self._pool.submit(Probe(source)).result())
        warnings = _Warnings(on_warning)
        choice = _Choice(facts, self._wanted, scratch, self._kept)
        counter = _Counter(facts.frames_expected, on_progress)
        cancelled = threading.Event()
        waiting: deque[tuple[Segment, Future[dict[str, Any]]]] = deque()

        def take() -> None:
            segment, future = waiting[0]
            raked = future.result()
            waiting.popleft()
            segment.file.unlink()
            for text in raked["warnings"]:
                warnings.add(text)
            for part in raked["parts"]:
                choice.add(part["starts"], [Candidate(**entry) for entry in part["candidates"]])

        try:
            with Film(source, facts) as film:
                for segment in film.segments(
                    lambda name: scratch / name, lenient=self._wanted.lenient, warn=warnings.add
                ):
                    task = Rake(source, facts, segment, self._wanted, scratch)
                    waiting.append((segment, self._pool.submit(task, cancelled, counter.add)))
                    if len(waiting) > 2 * self._pool.count:
                        take()
                while waiting:
                    take()
        except BaseException:
            cancelled.set()
            settle([future for _, future in waiting])  # they write where everything is about to be deleted
            raise
        choice.finish()
        warnings.sum_up()
        _publish(choice, folder, scratch, facts, self._wanted.format, overwrite)
        return choice.tally


class _Choice:
    """Chooses among one film's candidates, which come in the order of the film."""

    def __init__(self, facts: Facts, wanted: Wanted, scratch: Path, kept: "_Fingerprints") -> None:
        self._clock, self._wanted, self._scratch, self._fingerprints = facts.time_base, wanted, scratch, kept
        self._every = Fraction(wanted.every)
        self._stretch: list[Candidate] = []
        """Candidates of the current stretch of the current shot."""
        self._begins = 0
        """Ticks at which the stretch begins."""
        self._window = self._usual = max(1, round(WINDOW_S / facts.time_base))
        """Ticks for which each of them stands."""
        self._is_first = True
        """Whether the stretch is its shot's first."""
        self._shots_first = len(kept)
        """Stills kept before this shot."""
        self.kept: list[Candidate] = []
        self.tally = Tally()

    def add(self, starts_shot: bool, candidates: Sequence[Candidate]) -> None:
        """Take a part of a shot."""
        if starts_shot or not self.tally.shots:
            self._end_shot()
            self.tally.shots += 1
            self._begins, self._shots_first = candidates[0].pts, len(self._fingerprints)
        for candidate in candidates:
            passed = (candidate.pts - self._begins) * self._clock // self._every  # stretches; clocks may leap
            if passed > 0:
                self._end_stretch()
                self._begins += max(1, round(passed * self._every / self._clock))
            self._stretch.append(candidate)
            if self._window > self._usual:
                self._thin()
            while len(self._stretch) > MOST_CANDIDATES:
                self._window *= 2
                self._thin()

    def finish(self) -> None:
        """There are no more."""
        self._end_shot()

    @property
    def is_in_colour(self) -> bool:
        """Whether the film is."""
        coloured = sum(candidate.colour_spread > COLOUR_SPREAD for candidate in self.kept)
        return coloured > IN_COLOUR * len(self.kept)

    def _thin(self) -> None:
        """Keep the best of each window."""
        best: dict[int, Candidate] = {}
        for candidate in self._stretch:
            window = (candidate.pts - self._begins) // self._window
            worse, better = sorted((candidate, best.get(window, candidate)), key=lambda either: either.rank)
            if worse is not better:
                worse.discard(self._scratch)
            best[window] = better
        self._stretch = list(best.values())

    def _end_shot(self) -> None:
        """The rest of a long shot counts when it is nearer to a whole stretch than to none."""
        if self._is_first or (self._stretch and self._seconds() >= self._every / 2):
            self._end_stretch()
        for candidate in self._stretch:
            candidate.discard(self._scratch)
        self._stretch, self._window, self._is_first = [], self._usual, True

    def _seconds(self) -> Fraction:
        return (self._stretch[-1].pts - self._begins) * self._clock

    def _end_stretch(self) -> None:
        """Give its places to the sharpest."""
        stretch, self._stretch, self._window = self._stretch, [], self._usual
        most = self._wanted.per_shot if self._is_first else 1
        self._is_first = False
        while len(stretch) > 1 and "blank" in (stretch[0].fault, stretch[-1].fault):
            stretch.pop(0 if stretch[0].fault == "blank" else -1)  # has no files
        if not stretch:
            return
        first, ticks = stretch[0].pts, stretch[-1].pts - stretch[0].pts + 1
        places = max(1, min(most, int(ticks * self._clock / WINDOW_S)))
        for place in range(places):
            here = [candidate for candidate in stretch if (candidate.pts - first) * places // ticks == place]
            best = max(here, key=lambda candidate: candidate.rank, default=None)
            for candidate in here:
                if candidate is not best or not self._keep(candidate):
                    candidate.discard(self._scratch)

    def _keep(self, candidate: Candidate) -> bool:
        """Count it; say whether it is kept."""
        fault = candidate.fault
        if not fault:
            unit = np.frombuffer(bytes.fromhex(candidate.fingerprint), np.float16).astype(np.float32)
            known = self._fingerprints
            alike = known.most_alike(unit) >= ALIKE or known.most_alike(unit, self._shots_first) >= ALIKE_IN_SHOT
            fault = "duplicate" if alike else "kept"
            if fault == "kept":
                known.add(unit)
                self.kept.append(candidate)
        setattr(self.tally, fault, getattr(self.tally, fault) + 1)
        return fault == "kept"


class _Fingerprints:
    """Of the stills kept so far, of all films: a kilobyte each."""

    def __init__(self) -> None:
        self._rows = np.zeros((64, stills.FINGERPRINT**2), np.float32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def most_alike(self, unit: Float, since: int = 0) -> float:
        """Correlation with the nearest one, of all but the first so many; -1 when there is none."""
        return float((self._rows[since : self._count] @ unit).max(initial=-1))

    def add(self, unit: Float) -> None:
        if self._count == len(self._rows):
            self._rows = np.concatenate((self._rows, np.zeros_like(self._rows)))
        self._rows[self._count] = unit
        self._count += 1

    def forget(self, count: int) -> None:
        """All but the first so many."""
        self._count = count


class _Counter:
    """Frames looked at, told by several threads."""

    def __init__(self, expected: int, on_progress: Callable[[int, int], None]) -> None:
        self._lock, self._frames, self._expected, self._on_progress = threading.Lock(), 0, expected, on_progress

    def add(self, count: int) -> None:
        with self._lock:
            self._frames += count
            self._on_progress(self._frames, self._expected)


class _Warnings:
    """Of one film, of which there may be thousands."""

    def __init__(self, on_warning: Callable[[str], None]) -> None:
        self._count, self._on_warning = 0, on_warning

    def add(self, text: str) -> None:
        self._count += 1
        if self._count <= MOST_WARNINGS:
            self._on_warning(text)

    def sum_up(self) -> None:
        if self._count > MOST_WARNINGS:
            self._on_warning(f"and {self._count - MOST_WARNINGS} more warnings like these")


def folders(films: Sequence[Path], out: Path, *, overwrite: bool) -> list[Path]:
    """A folder in `out` for the stills of each film: its name without ending, and a number where several share one.

    Raises OutputInTheWay when `out` cannot be a folder or, without `overwrite`, one of them holds anything.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputInTheWay(f"{out} cannot be made a folder: {error.strerror}") from None
    stems = {film.stem.casefold() for film in films}
    taken: set[str] = set()
    chosen: list[Path] = []
    for film in films:
        name, number = film.stem, 1
        while name.casefold() in (taken if number == 1 else taken | stems):
            number += 1
            name = f"{film.stem}-{number}"
        taken.add(name.casefold())
        chosen.append(out / name)
    for folder in chosen:
        _refuse_filled(folder, overwrite=overwrite)
    return chosen


def _refuse_filled(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputInTheWay(f"{folder} is in the way: move it, or choose another -o")
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise OutputInTheWay(f"{folder} holds files already: --overwrite replaces the stills in it")


@contextlib.contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """A hidden folder for what is not finished, on the same disk; deleted in the end."""
    try:
        folder = Path(tempfile.mkdtemp(dir=beside, prefix=".", suffix=".passing"))
    except OSError as error:
        raise OutputInTheWay(f"{beside} cannot be written to: {error.strerror}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(choice: _Choice, folder: Path, scratch: Path, facts: Facts, format: str, overwrite: bool) -> None:
    """Give the stills their names; of a new folder, all in one moment."""
    finished = scratch / "finished"
    finished.mkdir()
    colour = choice.is_in_colour
    for candidate in choice.kept:
        time = max(0, round(1000 * (candidate.pts * facts.time_base - facts.start)))
        os.replace(candidate.file(scratch, colour), finished / f"{time:09d}.{format}")
    _refuse_filled(folder, overwrite=overwrite)
    if folder.is_dir():
        for old in folder.iterdir():
            if _OURS.fullmatch(old.name):
                old.unlink()
        for new in finished.iterdir():
            os.replace(new, folder / new.name)
    elif choice.kept:
        os.rename(finished, folder)
