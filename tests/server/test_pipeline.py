"""The promises on films of every kind, with a lossless codec where luma is compared."""

import errno
import io
import re
import threading
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from kinochrome_proto.errors import BadFilm, BadSettings, Cancelled, UnknownColorizer
from kinochrome_server import colorizers
from kinochrome_server.codecs import Encoding, choose_codec, choose_container
from kinochrome_server.engines.cpu import CpuEngine
from kinochrome_server.facts import Facts, probe
from kinochrome_server.film import Film
from kinochrome_server.looks import Look
from kinochrome_server.packets import Role, read_packets
from kinochrome_server.pipeline import Report, Settings, colorize
from kinochrome_server.pool import WorkerPool
from kinochrome_server.segments import LOOK_AHEAD
from kinochrome_server.sources import FileSource
from kinochrome_server.worker import Bench, Colorize, Job, Probe
from tests import films, reading
from tests.films import Kind

MS = Fraction(1, 1000)  # the clock of Matroska: times in it survive exactly

KINDS = {
    "420": Kind("film.mkv", time_base=MS, pts=range(0, 60 * 40, 40)),
    "422": Kind("film.mkv", pix_fmt="yuv422p"),
    "444": Kind("film.mkv", pix_fmt="yuv444p"),
    "10 bit": Kind("film.mkv", pix_fmt="yuv420p10le"),
    "12 bit 422": Kind("film.mkv", codec="ffv1", pix_fmt="yuv422p12le"),
    "16 bit": Kind("film.mkv", codec="ffv1", pix_fmt="yuv420p16le"),
    "gray": Kind("film.mkv", codec="ffv1", pix_fmt="gray"),
    "10 bit gray": Kind("film.mkv", codec="ffv1", pix_fmt="gray10le"),
    "full range": Kind("film.mkv", full_range=True, matrix=1),
    "bt709": Kind("film.mkv", matrix=1),
    "odd size": Kind("film.mkv", codec="ffv1", size=(161, 121)),
    "tiny": Kind("film.mkv", codec="ffv1", size=(2, 2), frames=3),
    "rgb": Kind("film.mov", codec="png", pix_fmt="rgb24", frames=10),
    "palette": Kind("film.gif", codec="gif", pix_fmt="gray", frames=10, time_base=Fraction(1, 100)),
    "open groups of pictures": Kind(
        "film.mkv", codec="mpeg2video", gop=15, frames=150, options={"bf": "2", "b": "4M", "sc_threshold": "1000000000"}
    ),
    "hevc": Kind("film.mkv", codec="libx265", options={"x265-params": "log-level=none:keyint=25"}, frames=120),
    "vp9": Kind("film.webm", codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
    "intra refresh": Kind(
        "film.mkv", frames=170, gop=50, options={"x264-params": "intra-refresh=1:bframes=0:scenecut=0"}
    ),
    "B-frames in AVI": Kind("film.avi", frames=130, gop=60, options={"bf": "3"}),
    "no timestamps": Kind("film.h264", frames=130, gop=60, options={"bf": "2"}),
    "turned": Kind("film.mp4", rotation=90),
    "one frame": Kind("film.mkv", frames=1),
}


@pytest.fixture(scope="module", autouse=True)
def shared_workers(pool: WorkerPool) -> None:
    """All films here are coloured by the same workers."""
    global POOL
    POOL = pool


POOL: WorkerPool


def run(film: Path, out: Path, **settings: object) -> tuple[Report, list[str]]:
    said: list[str] = []

    with out.open("wb") as sink:
        given = Settings(container=out.suffix[1:], **settings)  # type: ignore[arg-type]
        report = colorize(FileSource(film), sink, given, on_warning=said.append, pool=POOL)
    return report, said


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_luma_is_the_sources_byte_for_byte_and_chroma_is_new(kind: Kind, tmp_path: Path) -> None:
    film = films.make(tmp_path, kind)
    report, _ = run(film, tmp_path / "out.mkv", codec="ffv1")
    source, coloured = reading.pictures(film), reading.pictures(tmp_path / "out.mkv")
    assert report.frames == len(source) == len(coloured) == kind.frames
    for before, after in zip(source, coloured, strict=True):
        assert after.depth == before.depth
        assert np.array_equal(after.luma, before.luma)
    assert coloured[0].full_range == kind.full_range
    if kind.size != (2, 2):
        assert max(picture.chroma_strength() for picture in coloured) > 0.5


@pytest.mark.parametrize("name", ["film.h264", "film.avi"])
def test_frames_without_times_of_their_own_get_steady_ones(name: str, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind(name, frames=130, gop=60, options={"bf": "2"}))
    _, said = run(film, tmp_path / "out.mp4")
    times = [picture.time for picture in reading.pictures(tmp_path / "out.mp4")]
    assert None not in times and len(times) == 130
    steps = {float(b - a) for a, b in pairwise(times) if a is not None and b is not None}
    assert all(abs(step - 1 / 24) < 1e-4 for step in steps)
    assert any("no timestamps: its frames are counted at 24 a second" in text for text in said) == (name == "film.h264")


def test_a_picture_that_changes_size_is_refused_where_it_does(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    parts = [films.make(tmp_path, Kind("one.h264")), films.make(tmp_path / "a", Kind("two.h264", size=(320, 240)))]
    film = tmp_path / "film.h264"
    film.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(BadFilm, match="its picture changes from 160x120 yuv420p to 320x240 yuv420p"):
        run(film, tmp_path / "out.mkv")


def test_tags_that_are_not_utf8_cost_nothing(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv"))
    film.write_bytes(film.read_bytes().replace(b"A test film", b"Caf\xe9 \xfc film"))
    run(film, tmp_path / "out.mkv")
    assert b"Caf\xe9 \xfc film" in (tmp_path / "out.mkv").read_bytes()


def test_a_turned_film_is_painted_as_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    paint = CpuEngine.run
    monkeypatch.setattr(CpuEngine, "run", lambda self, luma: seen.append(luma) or paint(self, luma))  # type: ignore[func-returns-value]
    for kind in (
        Kind("straight.mp4", size=(320, 160), frames=4),
        Kind("turned.mp4", size=(320, 160), frames=4, rotation=90),
    ):
        source = FileSource(films.make(tmp_path, kind))
        facts = Facts.from_plain(Probe(source).run(Bench(), print, sparing=False))
        with Film(source, facts) as film:
            (segment,) = film.segments(tmp_path.joinpath, lenient=False, warn=print)
        encoding = Encoding.of(choose_codec("ffv1", choose_container("mkv")), facts)
        default = colorizers.load()
        job = Job(
            source, facts, default.path, default.sha256, "cpu", encoding, Look(), False, False, False, False, False
        )
        Colorize(job, segment, tmp_path / "chunk").run(Bench(), lambda frames: None, sparing=False)
    straight, turned = seen
    assert turned.shape == (4, straight.shape[2], straight.shape[1])
    shown = reading.pictures(tmp_path / "turned.mp4")[0].rotation // 90
    expected = np.rot90(straight, shown, (1, 2)).astype(int)  # two encodings of the same pictures
    assert np.abs(turned - expected).mean() < 3 < 10 < np.abs(turned[:, ::-1] - expected).mean()


def test_matrix_is_tagged_even_where_the_source_says_nothing(tmp_path: Path) -> None:
    for name, kind, matrix in (
        ("sd", Kind(size=(160, 120)), 6),
        ("hd", Kind(size=(1280, 720), frames=3), 1),
        ("said", Kind(matrix=1), 1),
    ):
        (tmp_path / name).mkdir()
        film = films.make(tmp_path / name, kind)
        run(film, tmp_path / name / "out.mp4")
        assert reading.pictures(tmp_path / name / "out.mp4")[0].matrix == matrix, name


IRREGULAR = [0, 37, 41, 100, 101, 350, 351, 352, 1000, 1017, *range(1100, 1100 + 50 * 33, 33)]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("shift", [0, 10_000], ids=["from zero", "from ten seconds"])
def test_times_are_the_sources_exactly(suffix: str, shift: int, tmp_path: Path) -> None:
    times = [shift + time for time in IRREGULAR]
    kind = Kind("film.mkv", frames=60, time_base=MS, pts=times, gop=20, audio="aac", options={"bf": "3"})
    film = films.make(tmp_path, kind)
    run(film, tmp_path / f"out{suffix}", codec="h264")
    assert [picture.time for picture in reading.pictures(film)] == [time * MS for time in times]
    assert [picture.time for picture in reading.pictures(tmp_path / f"out{suffix}")] == [time * MS for time in times]


@pytest.mark.parametrize(
    ("clock", "times"),
    [(Fraction(1), range(30)), (MS, [0, 40, 3000, *range(3040, 3040 + 57 * 40, 40)])],
    ids=["a frame a second", "a long pause"],
)
def test_slow_films_with_b_frames_are_not_taken_for_joined_ones(
    clock: Fraction, times: Sequence[int], tmp_path: Path
) -> None:
    kind = Kind("film.mkv", time_base=clock, pts=times, frames=len(times), options={"bf": "3", "b-adapt": "0"})
    film = films.make(tmp_path, kind)
    _, said = run(film, tmp_path / "out.mp4")
    assert [picture.time for picture in reading.pictures(tmp_path / "out.mp4")] == [time * clock for time in times]
    assert not [text for text in said if "clock" in text]


@pytest.mark.parametrize("suffix", [".mov", ".mp4"])
def test_a_timecode_is_carried(suffix: str, tmp_path: Path) -> None:
    plain = films.make(tmp_path, Kind("plain.mov", frames=10))
    with av.open(str(plain)) as source, av.open(str(tmp_path / "film.mov"), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
        copy.metadata["timecode"] = "10:00:00:00"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    _, said = run(tmp_path / "film.mov", tmp_path / f"out{suffix}")
    assert not said
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        assert container.streams.video[0].metadata["timecode"] == "10:00:00:00"
        assert len(container.streams.data) == 1


def test_sound_of_recordings_joined_with_an_overlap_is_moved_not_refused(tmp_path: Path) -> None:
    kind = Kind("a.ts", codec="mpeg2video", frames=96, gop=12, audio="mp2")
    one = films.make(tmp_path, kind).read_bytes()
    with (
        av.open(str(tmp_path / "a.ts")) as source,
        av.open(str(tmp_path / "b.ts"), "w", container_options={"output_ts_offset": "3.6"}) as target,
    ):
        copies = {stream.index: target.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                target.mux(packet)
    film = tmp_path / "film.ts"
    film.write_bytes(one + (tmp_path / "b.ts").read_bytes())
    report, said = run(film, tmp_path / "out.mkv")
    assert report.frames == len(reading.pictures(film))
    assert any("audio overlaps itself" in text for text in said)
    (sound,), (copied,) = reading.tracks(film, "audio"), reading.tracks(tmp_path / "out.mkv", "audio")
    assert copied.packets == sound.packets
    assert copied.times == sorted(copied.times)


def test_mp4_keeps_a_film_clock_that_milliseconds_cannot(tmp_path: Path) -> None:
    kind = Kind("film.mp4", time_base=Fraction(1001, 30000), audio="aac", frames=70)
    film = films.make(tmp_path, kind)
    run(film, tmp_path / "out.mp4")
    times = [picture.time for picture in reading.pictures(tmp_path / "out.mp4")]
    assert times == [index * Fraction(1001, 30000) for index in range(70)]


def test_sound_subtitles_chapters_and_tags_come_through(tmp_path: Path) -> None:
    kind = Kind("film.mkv", audio="aac", languages=("eng", "deu"), subtitle="ass", chapters=True, frames=72)
    film = films.make(tmp_path, kind)
    _, said = run(film, tmp_path / "out.mkv")
    before, after = (reading.tracks(file, "audio", "subtitle") for file in (film, tmp_path / "out.mkv"))
    assert [track.language for track in after] == ["eng", "deu", "fra"]
    assert after == before
    assert all(track.packets for track in after)
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["One", "Two"]
        assert container.metadata["title"] == "A test film"
    assert not said


def test_attachments_come_through(tmp_path: Path) -> None:
    plain = films.make(tmp_path, Kind("plain.mkv", frames=5))
    with av.open(str(plain)) as source, av.open(str(tmp_path / "film.mkv"), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
        target.add_attachment("font.ttf", "application/x-truetype-font", b"FONT" * 100)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    run(tmp_path / "film.mkv", tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        (attachment,) = container.streams.attachments
        assert (attachment.name, attachment.data) == ("font.ttf", b"FONT" * 100)


def test_a_stream_the_container_cannot_hold_is_named(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", audio="aac", subtitle="ass"))
    _, said = run(film, tmp_path / "out.mp4")
    assert len(said) == 1
    assert "subtitle stream 2 (ass)" in said[0].replace("ssa", "ass")
    assert "mp4 cannot hold it" in said[0]
    assert len(reading.tracks(tmp_path / "out.mp4", "audio")[0].packets) > 10


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rotation_and_aspect_are_carried(suffix: str, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4", rotation=90, aspect=Fraction(16, 15)))
    run(film, tmp_path / f"out{suffix}")
    assert reading.pictures(tmp_path / f"out{suffix}")[0].rotation == reading.pictures(film)[0].rotation != 0
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 15)


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4", frames=300, gop=30, audio="aac"))
    results = []
    for workers in (1, 2, 5):
        sink = io.BytesIO()
        with WorkerPool(workers) as pool:
            colorize(FileSource(film), sink, Settings(container="mp4"), pool=pool)
        results.append(sink.getvalue())
    assert results[0] == results[1] == results[2]


def test_a_film_is_cut_at_keyframes_into_segments_of_some_length(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mp4", frames=200, gop=10, options={"sc_threshold": "0"}))
    source = FileSource(film)
    with Film(source, probe(source)) as opened:
        segments = list(opened.segments(tmp_path.joinpath, lenient=False, warn=print))
    assert [segment.packets for segment in segments] == [30, 30, 100, 40]
    for segment in segments:
        with segment.file.open("rb") as file:
            packets = list(read_packets(file))
        own = [packet for packet in packets if packet.role == Role.OWN]
        assert own[0].is_keyframe
        before = [packet for packet in packets if packet.role == Role.BEFORE]
        after = [packet for packet in packets if packet.role == Role.AFTER]
        assert len(before) == (20 if segment.index else 0)  # from the last keyframe that lies WARM_UP before
        assert len(after) == (LOOK_AHEAD if segment.index < 3 else 0)


def test_cancelling_stops_the_run(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind(frames=400))
    cancelled = threading.Event()

    def lose_patience(frames: int, expected: int) -> None:
        cancelled.set()

    with pytest.raises(Cancelled):
        colorize(FileSource(film), io.BytesIO(), Settings(), on_progress=lose_patience, cancelled=cancelled, pool=POOL)
    assert not [thread for thread in threading.enumerate() if thread.name == "reader"]


def test_a_full_disk_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind(frames=400, gop=25, options={"sc_threshold": "0"}))

    class FullDisk(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device"):
        colorize(FileSource(film), FullDisk(), Settings(container="mkv"), pool=POOL)
    assert not [thread for thread in threading.enumerate() if thread.name == "reader"]


def test_progress_ends_at_the_number_of_frames(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind(frames=75))
    seen: list[tuple[int, int]] = []

    colorize(FileSource(film), io.BytesIO(), Settings(), on_progress=lambda *progress: seen.append(progress), pool=POOL)
    assert seen[-1] == (75, 75)
    assert [frames for frames, _ in seen] == sorted(frames for frames, _ in seen)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (Settings(codec="h263"), BadSettings, "no codec 'h263': choose from"),
        (Settings(container="avi"), BadSettings, "no output container 'avi'"),
        (Settings(colorizer="nope"), UnknownColorizer, "no colorizer 'nope': choose from default"),
        (Settings(colorizer="missing.onnx"), UnknownColorizer, "No such file"),
    ],
)
def test_settings_that_do_not_exist_are_refused(
    settings: Settings, error: type[Exception], words: str, tmp_path: Path
) -> None:
    film = films.make(tmp_path, Kind(frames=2))
    with pytest.raises(error, match=words):
        colorize(FileSource(film), io.BytesIO(), settings, pool=POOL)


def test_a_codec_that_would_lose_luma_is_refused(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", codec="ffv1", pix_fmt="yuv420p12le", frames=2))
    with pytest.raises(BadSettings, match=r"h264 cannot hold 12-bit luma .* use --codec h265 or ffv1"):
        colorize(FileSource(film), io.BytesIO(), Settings(codec="h264"), pool=POOL)


@pytest.mark.parametrize("name", ["film.mkv", "film.avi", "film.mp4"])
def test_a_cut_off_film_is_refused_unless_lenient(name: str, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind(name, gop=10, frames=120, faststart=True, options={"bf": "0"}))
    film.write_bytes(film.read_bytes()[: film.stat().st_size * 7 // 10])
    with pytest.raises(BadFilm, match=r"is cut off.*--lenient colours what can be read"):
        run(film, tmp_path / "out.mkv")
    report, said = run(film, tmp_path / "out.mkv", lenient=True)
    assert 40 <= report.frames < 120
    assert len(reading.pictures(tmp_path / "out.mkv")) == report.frames
    assert any("is cut off" in text for text in said)


def test_a_damaged_frame_is_refused_unless_lenient(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mov", codec="png", pix_fmt="rgb24", frames=20))
    data = bytearray(film.read_bytes())
    places = [index for index in range(len(data)) if data[index : index + 4] == b"IHDR"]
    data[places[10] + 4 : places[10] + 12] = b"\0" * 8  # the eleventh frame says that it is 0x0 large
    film.write_bytes(data)
    with pytest.raises(BadFilm, match=r"a frame at 0\.4\d s cannot be decoded; --lenient"):
        run(film, tmp_path / "out.mkv")
    report, said = run(film, tmp_path / "out.mkv", lenient=True)
    assert report.frames == 19
    assert sum("cannot be decoded and is left out" in text for text in said) == 1


def test_frames_that_the_decoder_patched_up_are_not_passed_off_as_whole(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.h264", frames=60, gop=30, options={"bf": "0", "sc_threshold": "0"}))
    units = film.read_bytes().split(b"\0\0\1")
    lost = next(place for place, unit in enumerate(units) if unit and unit[0] & 0x1F == 5)  # the first IDR picture
    film.write_bytes(b"\0\0\1".join(units[:lost] + units[lost + 1 :]))
    _, said = run(film, tmp_path / "out.mkv")
    marked = re.compile(r"\d+ frames at 0\.00 s and after are marked as damaged: .* the decoder's guess")
    assert any(marked.search(text) for text in said)
    with pytest.raises(BadFilm, match="--strict: "):
        run(film, tmp_path / "out.mkv", strict=True)


def test_of_many_damages_the_first_are_told_and_the_rest_counted(tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mov", codec="png", pix_fmt="rgb24", frames=30))
    data = bytearray(film.read_bytes())
    places = [index for index in range(len(data)) if data[index : index + 4] == b"IHDR"]
    for place in places[1:16]:
        data[place + 4 : place + 12] = b"\0" * 8
    film.write_bytes(data)
    report, said = run(film, tmp_path / "out.mkv", codec="ffv1", lenient=True)
    assert report.frames == 15
    assert sum("cannot be decoded and is left out" in text for text in said) == 10
    assert said[-1] == "and 5 more places like these"


@pytest.mark.parametrize(
    ("kind", "suffix", "words"),
    [
        (
            Kind("film.mp4", options={"x264-params": "interlaced=1"}),
            ".webm",
            "vp9 cannot mark fields: use --deinterlace",
        ),
        (Kind("film.mkv", options={"x264-params": "interlaced=1"}, time_base=MS), ".mp4", ""),
        (Kind("film.mov", codec="png", pix_fmt="rgba", frames=3), ".mp4", "transparency"),
        (Kind("film.mp4", frames=3), ".mkv", "whole milliseconds"),
        (Kind("film.mkv", time_base=MS, frames=3), ".mkv", ""),
        (Kind("film.mp4", frames=3), ".mp4", ""),
    ],
    ids=["interlaced", "interlaced and marked", "alpha", "fine clock", "coarse clock", "plain"],
)
def test_what_does_not_come_through_whole_is_said(kind: Kind, suffix: str, words: str, tmp_path: Path) -> None:
    _, said = run(films.make(tmp_path, kind), tmp_path / f"out{suffix}")
    assert any(words in text for text in said) if words else not said
