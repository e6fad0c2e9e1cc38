"""Films whose clocks are broken."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from tests import films, reading
from tests.films import Kind
from tests.server.colouring import LONG, MS, STEADY, run

pytestmark = pytest.mark.usefixtures("shared_workers")


def rising(film: Path, count: int) -> list[Fraction]:
    """The times of the film's frames, which are so many and in order."""
    times = [picture.time for picture in reading.pictures(film)]
    known = [time for time in times if time is not None]
    assert len(known) == len(times) == count
    assert all(a < b for a, b in pairwise(known))
    return known


def retimed(film: Path, times: Sequence[int]) -> Path:
    """The same film, its frames shown at these milliseconds, in the order in which they were."""
    out = film.with_name(f"retimed-{film.name}")
    with av.open(str(film)) as source, av.open(str(out), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        new = dict(zip(sorted(packet.pts for packet in packets if packet.pts is not None), times, strict=True))
        for packet, decoded in zip(packets, times, strict=True):
            assert packet.pts is not None
            packet.stream, packet.time_base = copy, MS
            packet.dts, packet.pts = decoded - 200, new[packet.pts]
            target.mux(packet)
    return out


@pytest.mark.parametrize("out", ["out.mkv", "out.mp4"])
@pytest.mark.parametrize("bframes", ["0", "2"])
def test_repeated_timestamps_are_told_apart(bframes: str, out: str, tmp_path: Path) -> None:
    times = [40 * index for index in range(60)]
    times[11] = times[10]
    times[31] = times[32] = times[30]
    kind = Kind("film.mkv", frames=60, gop=60, time_base=MS, pts=STEADY[:60], options={"bf": bframes, **LONG})
    film = retimed(films.make(tmp_path, kind), times)
    _, said = run(film, tmp_path / out, codec="ffv1")
    made = rising(tmp_path / out, 60)
    assert [time for place, time in enumerate(made) if place not in (11, 31, 32)] == [
        time * MS for place, time in enumerate(times) if place not in (11, 31, 32)
    ]
    assert sum("3 frames at 0.00 s and after repeat timestamps" in text for text in said) == len(said) == 1
    for before, after in zip(reading.pictures(film), reading.pictures(tmp_path / out), strict=True):
        assert np.array_equal(before.luma, after.luma)


@pytest.mark.parametrize("out", ["out.mkv", "out.mp4"])
@pytest.mark.parametrize("bframes", ["0", "2"])
def test_a_clock_that_jumps_back_carries_on(bframes: str, out: str, tmp_path: Path) -> None:
    part = films.make(tmp_path, Kind("part.ts", frames=72, gop=24, audio="aac", options={"bf": bframes}))
    film = tmp_path / "film.ts"
    film.write_bytes(3 * part.read_bytes())
    _, said = run(film, tmp_path / out, codec="ffv1")
    times = rising(tmp_path / out, 3 * 72)
    jumps = [text for text in said if "its clock jumps back after" in text and "times carry on from there" in text]
    assert len(jumps) == 2
    # The transport stream's packet counters jump at each join, so the frame before it may have lost its end.
    marked = [text for text in said if "marked as damaged" in text]
    assert sum(int(text.partition(" frames at ")[0].rpartition(" ")[2]) for text in marked) == 2
    assert not [text for text in said if text not in jumps + marked and "milliseconds" not in text]
    steps = [b - a for a, b in pairwise(times)]
    assert all(abs(step - Fraction(1, 24)) < MS for place, step in enumerate(steps) if place % 72 != 71)
    assert all(Fraction(1, 50) < step < Fraction(1, 4) for step in steps[71::72])
    once, sound = reading.tracks(part, "audio")[0], reading.tracks(tmp_path / out, "audio")[0]
    assert sound.packets == 3 * once.packets
    assert all(a < b for a, b in pairwise(sound.times))
    count = len(once.packets)
    for place in (1, 2):  # sound and picture jump together
        moved = sound.times[place * count] - sound.times[0]
        assert abs(moved - float(times[place * 72] - times[0])) < 0.002
    source = reading.pictures(part)
    for place, after in enumerate(reading.pictures(tmp_path / out)):
        assert np.array_equal(source[place % 72].luma, after.luma)


def without_some_times(film: Path, every: int) -> Path:
    """An MPEG transport stream in which only one picture in so many says when it is shown."""
    data, seen = bytearray(film.read_bytes()), 0
    for start in range(0, len(data), 188):
        if not data[start + 1] & 0x40:
            continue  # no picture starts here
        payload = start + 4 + (1 + data[start + 4] if data[start + 3] & 0x20 else 0)
        if data[payload : payload + 4] != b"\0\0\1\xe0":
            continue
        seen += 1
        if seen % every != 1:
            length = data[payload + 8]
            data[payload + 7] &= 0x3F
            data[payload + 9 : payload + 9 + length] = b"\xff" * length
    out = film.with_name(f"timeless-{film.name}")
    out.write_bytes(data)
    return out


@pytest.mark.parametrize("bframes", ["0", "2"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_frames_without_times_lie_between_their_neighbours(codec: str, bframes: str, tmp_path: Path) -> None:
    """libav counts MPEG-2 itself, and of H.264 gives the times that are there."""
    kind = Kind("film.ts", codec=codec, frames=130, time_base=Fraction(1, 25), gop=60, options={"bf": bframes, **LONG})
    whole = films.make(tmp_path, kind)
    film = without_some_times(whole, 4)
    with av.open(str(film)) as container:
        stated = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert (None in stated) == (codec == "libx264")
    _, said = run(film, tmp_path / "out.mp4", codec="ffv1")
    times, source = rising(tmp_path / "out.mp4", 130), reading.pictures(whole)
    assert times == [picture.time for picture in source]
    for before, after in zip(source, reading.pictures(tmp_path / "out.mp4"), strict=True):
        assert np.array_equal(before.luma, after.luma)
    if codec == "libx264":
        assert any("have no timestamps of their own" in text for text in said)
    else:
        assert not said
