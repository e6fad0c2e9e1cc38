"""Encoders: the same frames give the same bytes, and segments encoded apart make one film in every container."""

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinochrome_proto.errors import BadSettings
from kinochrome_server.codecs import CODECS, CONTAINERS, Codec, Container, Encoding, choose_codec, choose_container
from kinochrome_server.facts import Facts
from kinochrome_server.fields import marked
from kinochrome_server.planes import Picture, assemble, chroma_shape, luma_of, picture_of

SIZE = WIDTH, HEIGHT = 496, 240
PAIRS = [(container, codec) for container in CONTAINERS.values() for codec in container.codecs]


def facts(
    format: str = "yuv420p",
    depth: int = 8,
    field_order: str = "",
    aspect: Fraction = Fraction(1),
    full_range: bool = False,
) -> Facts:
    picture = Picture(
        *(*SIZE, format, depth, aspect, 0, full_range, 6, 2, 2, field_order, False, format, False),
    )
    return Facts(picture, Fraction(1, 25), Fraction(25), 14, bool(field_order), True, Fraction(0), Fraction(0))


def frames(encoding: Encoding, count: int = 14, start: int = 0) -> Iterator[VideoFrame]:
    """A scene that moves, of `facts().picture.depth`, interlaced where the encoding is."""
    depth, fields = encoding.facts.picture.depth, encoding.field_order
    rows, columns = chroma_shape(encoding.width, encoding.height, encoding.pix_fmt)
    chance = np.random.default_rng(3)
    scene = np.kron(chance.integers(40, 200, (60, 120)), np.ones((8, 8)))

    def moment(time: int) -> Any:
        grain = np.random.default_rng(time).normal(0, 3, (HEIGHT, WIDTH))
        seen = scene[time : time + HEIGHT, 2 * time : 2 * time + WIDTH] + grain
        return (seen * (1 << (depth - 8))).astype(np.uint8 if depth == 8 else np.uint16)

    chroma = np.full((rows, columns), 140 << (encoding.depth - 8), np.uint8 if encoding.depth == 8 else np.uint16)
    for index in range(start, start + count):
        luma = moment(2 * index)
        if fields:
            luma[("tff", "bff").index(fields) ^ 1 :: 2] = moment(2 * index + 1)[("tff", "bff").index(fields) ^ 1 :: 2]
        frame = assemble(luma, (chroma, chroma), encoding.pix_fmt, depth)
        frame.pts, frame.time_base = index, Fraction(1, 25)
        yield frame


def encoded(encoding: Encoding, count: int = 14, start: int = 0) -> "list[Packet[VideoStream]]":
    encoder = encoding.open()
    return [packet for frame in [*frames(encoding, count, start), None] for packet in encoder.encode(frame)]


def lender(encoding: Encoding, container: Container, sink: io.BytesIO) -> tuple[Any, VideoStream]:
    output = av.open(sink, "w", format=container.format, container_options=container.options_for(Fraction(1, 25), []))
    codec = encoding.codec
    video = output.add_stream(codec.encoder, encoding.facts.frame_rate, options=dict(codec.options))
    assert isinstance(video, VideoStream)
    encoding.configure(video.codec_context)
    video.time_base = encoding.facts.time_base
    container.tag(video, codec)
    output.start_encoding()
    return output, video


def film(encoding: Encoding, container: Container, counts: tuple[int, ...] = (14, 9)) -> io.BytesIO:
    """Segments encoded apart and put together as the muxer does."""
    sink = io.BytesIO()
    output, video = lender(encoding, container, sink)
    lead = encoding.decoding_lead(video.codec_context)
    decoded = list(range(-lead, sum(counts)))
    start = 0
    for count in counts:
        for packet in encoded(encoding, count, start):
            out = Packet(bytes(packet))
            out.stream, out.time_base = video, Fraction(1, 25)
            out.pts, out.dts, out.duration, out.is_keyframe = packet.pts, decoded.pop(0), 1, packet.is_keyframe
            output.mux_one(out)
        start += count
    output.close()
    sink.seek(0)
    return sink


def usual(container: Container, name: str, described: Facts | None = None) -> Encoding:
    return Encoding.of(choose_codec(name, container), described or facts())


ENCODE = """
import hashlib, sys
sys.path[:0] = {path!r}
from kinochrome_server.codecs import CODECS, Encoding
from tests.server.test_codecs import encoded, facts
digest = hashlib.sha256()
encoding = Encoding.of(CODECS[{codec!r}], facts(field_order={fields!r}))
for packet in encoded(encoding):
    digest.update(bytes(packet))
print(digest.hexdigest())
"""


@pytest.mark.parametrize(
    ("codec", "fields"), [*((codec, "") for codec in CODECS), ("h264", "bff"), ("prores", "tff"), ("ffv1", "tff")]
)
def test_bytes_do_not_depend_on_what_lies_in_fresh_memory(codec: str, fields: str) -> None:
    """x264's AVX-512 macroblock-tree code reads memory that nobody wrote, and its bytes differed from run to run."""
    results = set()
    for filling in (0, 85, 165, 200):  # glibc fills fresh memory with this byte
        environment = os.environ | {
            "GLIBC_TUNABLES": f"glibc.malloc.perturb={filling}:glibc.malloc.mmap_threshold=4294967296"
        }
        script = ENCODE.format(path=sys.path, codec=codec, fields=fields)
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""  # encoders that talk past libav are silenced
        results.add(done.stdout)
    assert len(results) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "preset"),
    [(codec, name) for codec in CODECS for name in CODECS[codec].presets if name != "placebo"],  # rightly named
)
def test_every_preset_encodes_and_decoding_times_never_pass_showing(codec: str, preset: str) -> None:
    encoding = Encoding.of(CODECS[codec].with_settings(None, preset), facts())
    _, video = lender(encoding, CONTAINERS["mkv"], io.BytesIO())
    packets = encoded(encoding, 30)
    shown = sorted(cast(int, packet.pts) for packet in packets)
    assert shown == list(range(30))
    lead = encoding.decoding_lead(video.codec_context)
    assert max(place - cast(int, packet.pts) for place, packet in enumerate(packets)) <= lead
    assert packets[0].is_keyframe and packets[0].pts == 0


@pytest.mark.parametrize(("container", "codec"), PAIRS, ids=lambda part: getattr(part, "name", part))
def test_segments_encoded_apart_make_one_film(container: Container, codec: str) -> None:
    encoding = usual(container, codec)
    with av.open(film(encoding, container), "r") as back:
        video = back.streams.video[0]
        video.codec_context.options = {"err_detect": "explode"}
        decoded = list(back.decode(video))
        seconds = [frame.pts * frame.time_base for frame in decoded if frame.pts is not None and frame.time_base]
        assert [round(second * 25) for second in seconds] == list(range(23))
        assert not any(frame.is_corrupt for frame in decoded)
        picture = picture_of(decoded[0], None)
        for original, frame in zip([*frames(encoding, 14), *frames(encoding, 9, 14)], decoded, strict=True):
            wanted, got = (luma_of(each, picture).astype(int) for each in (original, frame))
            assert np.abs(wanted - got).mean() < 4 * (1 << (encoding.depth - 8))  # the right picture at the right time
            if codec == "ffv1":
                assert np.array_equal(wanted, got)


@pytest.mark.parametrize(("container", "codec"), PAIRS, ids=lambda part: getattr(part, "name", part))
@pytest.mark.parametrize("fields", ["", "bff"])
def test_the_lenders_header_is_that_of_every_segment(container: Container, codec: str, fields: str) -> None:
    encoding = usual(container, codec, facts(field_order=fields))
    _, video = lender(encoding, container, io.BytesIO())
    segments = encoding.open().context
    segments.open()
    lending = video.codec_context
    assert segments.extradata == lending.extradata
    assert segments.profile == lending.profile and segments.pix_fmt == lending.pix_fmt
    assert segments.reorder_depth == lending.reorder_depth and segments.field_order == lending.field_order


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_what_is_said_not_to_fit_does_not(container: Container) -> None:
    for name in CODECS:
        if name in container.codecs:
            continue
        with pytest.raises(BadSettings, match=f"^{container.name} cannot hold {name}: write to "):
            choose_codec(name, container)
        with pytest.raises((ValueError, av.error.FFmpegError)):
            lender(Encoding.of(CODECS[name], facts()), container, io.BytesIO())


def test_a_misfit_names_what_fits() -> None:
    with pytest.raises(BadSettings) as refused:
        choose_codec("av1", CONTAINERS["mov"])
    assert str(refused.value) == ("mov cannot hold av1: write to mp4, mkv or webm, or use --codec h264, h265 or prores")


@pytest.mark.parametrize(
    ("codec", "crf", "preset", "message"),
    [
        ("h264", 52, "", "--crf 52 is out of range for h264: 0 (best) to 51"),
        ("av1", 0, "", "--crf 0 is out of range for av1: 1 (best) to 63"),
        (
            "ffv1",
            18,
            "",
            "codec ffv1 has no --crf: it is lossless; those that have one: h264, h265, av1, vp9",
        ),
        (
            "prores",
            18,
            "",
            "codec prores has no --crf: its quality goes by --preset; those that have one: h264, h265, av1, vp9",
        ),
        ("ffv1", None, "fast", "codec ffv1 has no presets: leave out --preset"),
        ("vp9", None, "fast", "vp9 has no preset 'fast': choose from 5, 4, 3, 2, 1, 0"),
        (
            "prores",
            None,
            "fast",
            "prores has no preset 'fast': choose from proxy, lt, standard, hq, 4444, 4444xq",
        ),
    ],
)
def test_settings_out_of_range_are_refused(codec: str, crf: int | None, preset: str, message: str) -> None:
    with pytest.raises(BadSettings) as refused:
        choose_codec(codec, CONTAINERS["mkv"], crf=crf, preset=preset)
    assert str(refused.value) == message


@pytest.mark.parametrize("codec", [codec for codec in CODECS.values() if codec.crf], ids=lambda codec: codec.name)
def test_crf_runs_from_best_to_worst(codec: Codec) -> None:
    assert codec.crf
    sizes = [
        sum(packet.size for packet in encoded(Encoding.of(codec.with_settings(crf, ""), facts()), 6))
        for crf in (codec.crf[0], 30, codec.crf[1])
    ]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize(
    ("codec", "preset", "depth", "format", "expected"),
    [
        ("h264", "", 9, "yuv420p9le", "yuv420p10le"),
        ("h265", "", 12, "yuv422p12le", "yuv422p12le"),
        ("av1", "", 9, "yuv422p9le", "yuv420p10le"),
        ("prores", "", 8, "yuv420p", "yuv422p10le"),
        ("prores", "4444", 8, "yuv420p", "yuv444p10le"),
        ("prores", "lt", 10, "yuv444p10le", "yuv422p10le"),
        ("ffv1", "", 14, "yuv420p14le", "yuv420p14le"),
        ("ffv1", "", 16, "gray16le", "yuv420p16le"),
    ],
)
def test_the_output_holds_the_films_depth(codec: str, preset: str, depth: int, format: str, expected: str) -> None:
    encoding = Encoding.of(CODECS[codec].with_settings(None, preset), facts(format, depth))
    encoding.check()
    assert encoding.pix_fmt == expected
    assert list(encoding.caveats(CONTAINERS["mkv"])) == []


def test_luma_that_no_format_holds_is_refused() -> None:
    with pytest.raises(BadSettings) as refused:
        Encoding.of(CODECS["vp9"], facts("yuv420p10le", 10))
    assert str(refused.value) == (
        "codec vp9 cannot hold 10-bit luma of this film (yuv420p10le): "
        "use --codec h264, h265, av1, prores or ffv1, or a lower depth by --pix-fmt"
    )


def test_a_lower_depth_is_written_when_asked_for_and_said() -> None:
    encoding = Encoding.of(CODECS["h264"], facts("yuv420p10le", 10), pix_fmt="yuv420p")
    assert list(encoding.caveats(CONTAINERS["mp4"])) == ["luma is rounded from 10 bits to 8, those of yuv420p"]
    assert len(encoded(encoding, 3)) == 3


@pytest.mark.parametrize("format", ["gray", "gbrp", "yuvj420p", "yuva420p", "nv12", "yuv420p12le"])
def test_formats_are_planar_yuv_that_the_encoder_takes(format: str) -> None:
    with pytest.raises(BadSettings) as refused:
        Encoding.of(CODECS["h264"], facts(), pix_fmt=format)
    assert str(refused.value) == (
        f"h264 cannot write --pix-fmt {format}: "
        "choose from yuv420p, yuv422p, yuv444p, yuv420p10le, yuv422p10le, yuv444p10le"
    )


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("depth", "format"), [(8, "yuv420p10le"), (8, "yuv444p16le"), (10, "yuv420p12le")])
def test_deeper_luma_comes_back_exactly(full_range: bool, depth: int, format: str) -> None:
    source = facts("yuv420p" if depth == 8 else "yuv420p10le", depth, full_range=full_range)
    encoding = Encoding.of(CODECS["ffv1"], source, pix_fmt=format)
    with av.open(film(encoding, CONTAINERS["mkv"], (3,)), "r") as back:
        for original, frame in zip(frames(encoding, 3), back.decode(video=0), strict=True):
            picture = picture_of(frame, None)
            assert picture.depth == encoding.depth and picture.full_range == full_range
            assert np.array_equal(luma_of(frame, picture), luma_of(original, picture))


INTERLACED = [
    (container, codec) for container, codec in PAIRS if CODECS[codec].keeps_fields and container.name != "webm"
]


@pytest.mark.parametrize("fields", ["tff", "bff"])
@pytest.mark.parametrize(("container", "codec"), INTERLACED, ids=lambda part: getattr(part, "name", part))
def test_interlaced_film_stays_interlaced(container: Container, codec: str, fields: str) -> None:
    encoding = usual(container, codec, facts(field_order=fields))
    assert encoding.field_order == fields and list(encoding.caveats(container)) == []
    with av.open(film(encoding, container, (5, 3)), "r") as back:
        video = back.streams.video[0]
        assert video.codec_context.field_order == {"tff": 2, "bff": 3}[fields]  # what the container says
        decoded = list(back.decode(video))
    assert [marked(frame) for frame in decoded] == [fields] * 8
    if codec == "ffv1":
        picture = picture_of(decoded[0], None)
        for original, frame in zip([*frames(encoding, 5), *frames(encoding, 3, 5)], decoded, strict=True):
            assert np.array_equal(luma_of(original, picture), luma_of(frame, picture))


def test_fields_are_coded_as_such_and_not_only_marked() -> None:
    """Motion between two fields costs fewer bits where the fields are coded apart."""
    interlaced = usual(CONTAINERS["mp4"], "h264", facts(field_order="tff"))
    combed = encoded(interlaced)
    context = usual(CONTAINERS["mp4"], "h264").open().context
    whole = [packet for frame in [*frames(interlaced), None] for packet in context.encode(frame)]
    assert sum(packet.size for packet in combed) < sum(packet.size for packet in whole)


@pytest.mark.parametrize(
    ("codec", "container", "remedy"),
    [
        ("h265", "mp4", "use --deinterlace or --codec h264 or ffv1"),
        ("av1", "mkv", "use --deinterlace or --codec h264, prores or ffv1"),
        ("vp9", "webm", "use --deinterlace"),
    ],
)
def test_codecs_without_fields_say_so(codec: str, container: str, remedy: str) -> None:
    encoding = usual(CONTAINERS[container], codec, facts(field_order="tff"))
    assert encoding.field_order == ""
    assert list(encoding.caveats(CONTAINERS[container])) == [
        f"the film is interlaced, and {codec} cannot mark fields: {remedy}"
    ]


@pytest.mark.parametrize(("container", "codec"), PAIRS, ids=lambda part: getattr(part, "name", part))
def test_the_shape_of_pixels_is_kept_or_its_loss_is_said(container: Container, codec: str) -> None:
    encoding = usual(container, codec, facts(aspect=Fraction(64, 45)))
    with av.open(film(encoding, container, (3,)), "r") as back:
        kept = back.streams.video[0].sample_aspect_ratio == Fraction(64, 45)
    assert kept == (not list(encoding.caveats(container)))


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_apple_players_take_h265(container: str) -> None:
    with av.open(film(usual(CONTAINERS[container], "h265"), CONTAINERS[container], (3,)), "r") as back:
        assert back.streams.video[0].codec_context.codec_tag == "hvc1"


def test_an_output_may_be_wider_than_the_film() -> None:
    encoding = Encoding.of(CODECS["h264"], facts(), size=(2 * WIDTH, HEIGHT))
    encoding.check()
    context = encoding.open().context
    assert (context.width, context.height) == (2 * WIDTH, HEIGHT)


def test_two_pictures_share_no_chroma_sample() -> None:
    described = facts()
    odd = replace(described, picture=replace(described.picture, width=101))
    assert Encoding.of(CODECS["h264"], odd, size=(202, HEIGHT)).pix_fmt == "yuv444p"
    assert Encoding.of(CODECS["av1"], odd).pix_fmt == "yuv420p"
    with pytest.raises(BadSettings, match=r"^av1 cannot show pictures of 101x240 side by side as yuv420p: use "):
        Encoding.of(CODECS["av1"], odd, size=(202, HEIGHT))


def test_encodings_travel_to_other_processes_and_are_keys() -> None:
    encoding = usual(CONTAINERS["mkv"], "prores", facts(field_order="tff"))
    back = pickle.loads(pickle.dumps(encoding))
    assert back == encoding and hash(back) == hash(encoding)


def test_pictures_that_an_encoder_refuses_are_refused_before_work_begins() -> None:
    described = facts()
    tiny = replace(described, picture=replace(described.picture, width=1, height=1))
    with pytest.raises(BadSettings, match=r"^libx265 cannot encode 1x1 as yuv444p: use another --codec, such as ffv1$"):
        Encoding.of(CODECS["h265"], tiny).check()


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(BadSettings, match=r"^no codec 'divx': choose from h264, h265, av1, vp9, prores, ffv1$"):
        choose_codec("divx", CONTAINERS["mp4"])
    with pytest.raises(BadSettings, match=r"^no output container 'avi': choose from mp4, mov, mkv, webm$"):
        choose_container("avi")
    assert choose_codec("", choose_container("webm")).name == "vp9"
    assert choose_container("").default_codec == "h264"
