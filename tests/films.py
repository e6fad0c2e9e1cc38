"""Films made by the tests: small, quick, and of every kind the pipeline must keep."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.subtitles.stream import SubtitleStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinochrome_server.fields import FieldMarker

SAMPLE_RATE = 44_100


@dataclass(frozen=True)
class Kind:
    """What a film is to be like."""

    name: str = "film.mp4"
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (160, 120)
    """Width, height."""
    frames: int = 60
    time_base: Fraction = Fraction(1, 24)
    pts: Sequence[int] | None = None
    """Timestamps; by default 0, 1, 2, ..."""
    gop: int = 25
    options: dict[str, str] = field(default_factory=dict)
    full_range: bool = False
    matrix: int = 2
    """Code point of ITU-T H.273; 2 is unspecified."""
    aspect: Fraction = Fraction(1)
    """Sample aspect ratio."""
    rotation: int = 0
    audio: str = ""
    """Codec of a tone; none by default."""
    languages: tuple[str, ...] = ("eng",)
    """One sound track each."""
    subtitle: str = ""
    """Codec of a subtitle track."""
    chapters: bool = False
    faststart: bool = False


def pictures(kind: Kind, dtype: type[np.uint8] | type[np.uint16], depth: int) -> Iterator[npt.NDArray[np.generic]]:
    """Luma planes (H, W): soft moving shapes with some noise, using most of the range."""
    width, height = kind.size
    chance = np.random.default_rng(7)
    coarse = chance.uniform(0.15, 0.85, (height // 16 + 4, width // 16 + 4)).astype(np.float32)
    scene = cv2.resize(coarse, (width + 64, height + 64), interpolation=cv2.INTER_CUBIC)
    for index in range(kind.frames):
        left, top = index % 64, (index // 2) % 64
        luma = scene[top : top + height, left : left + width] + chance.normal(0, 0.01, (height, width))
        yield (np.clip(luma, 0.08, 0.92) * ((1 << depth) - 1)).astype(dtype)


def make(folder: Path, kind: Kind) -> Path:
    """Write the film; return its path."""
    file = folder / kind.name
    options = {"movflags": "+faststart"} if kind.faststart else {}
    with av.open(str(file), "w", container_options=options) as output:
        times = kind.pts if kind.pts is not None else range(kind.frames)
        if kind.chapters:
            first = round(1000 * times[0] * kind.time_base)
            output.set_chapters(
                [
                    {
                        "id": place + 1,
                        "start": first + 1000 * place,
                        "end": first + 1000 * (place + 1),
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": title},
                    }
                    for place, title in enumerate(("One", "Two"))
                ]
            )
        output.metadata["title"] = "A test film"
        video = output.add_stream(kind.codec, rate=round(1 / kind.time_base) or 24, options=kind.options)
        assert isinstance(video, VideoStream)
        context = video.codec_context
        context.width, context.height = kind.size
        context.pix_fmt = kind.pix_fmt
        context.gop_size = kind.gop
        context.time_base = kind.time_base
        context.sample_aspect_ratio = kind.aspect
        context.color_range = 2 if kind.full_range else 1
        context.colorspace = kind.matrix
        if kind.rotation:
            video.set_display_rotation(kind.rotation)
        sound = []
        for language in kind.languages if kind.audio else ():
            stream = output.add_stream(kind.audio, SAMPLE_RATE, layout="mono")
            assert isinstance(stream, AudioStream)
            stream.metadata["language"] = language
            sound.append(stream)
        if kind.subtitle:
            text = output.add_stream(kind.subtitle)
            assert isinstance(text, SubtitleStream)
            text.metadata["language"] = "fra"
            header = "[Script Info]\n\n[V4+ Styles]\nFormat: Name\nStyle: Default\n\n[Events]\nFormat: Text\n"
            text.codec_context.subtitle_header = header.encode()
        depth = av.VideoFormat(kind.pix_fmt).components[0].bits
        planes = pictures(kind, np.uint8 if depth == 8 else np.uint16, depth)
        for pts, luma in zip(times, planes, strict=True):
            frame = _frame(luma, kind)
            frame.pts, frame.time_base = pts, kind.time_base
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        for stream in sound:
            _tone(output, stream, float(max(times) * kind.time_base))
        if kind.subtitle:
            for start in (200, 900):
                packet = av.Packet(f"Line at {start}".encode())
                packet.stream, packet.time_base = text, Fraction(1, 1000)
                packet.pts = packet.dts = start
                packet.duration = 500
                output.mux(packet)
    return file


@dataclass(frozen=True)
class Shot:
    """A run of frames between two cuts."""

    chroma: str = "gray"
    """"gray"; "tint", the same everywhere; "toned", a tint that grows with luma; "colour", that of things."""
    frames: int = 20


def make_shots(
    folder: Path, shots: Sequence[Shot], name: str = "film.mkv", *, codec: str = "ffv1", rate: int = 25
) -> Path:
    """Write a film of these shots, 160x120, each of another scene; return its path."""
    file, size = folder / name, (160, 120)
    with av.open(str(file), "w") as output:
        video = output.add_stream(codec, rate=rate)
        assert isinstance(video, VideoStream)
        context = video.codec_context
        (context.width, context.height), context.pix_fmt = size, "yuv444p"
        context.time_base, context.color_range, context.colorspace = Fraction(1, rate), 1, 6
        context.gop_size = 12
        index = 0
        for number, shot in enumerate(shots):
            chance = np.random.default_rng(number)
            scenes = [
                cv2.resize(chance.uniform(0, 1, (8, 12)), (size[0] + 64, size[1]), interpolation=cv2.INTER_CUBIC)
                for _ in range(3)
            ]
            for moved in range(shot.frames):
                light, *hues = (np.clip(scene[:, moved % 64 :][:, : size[0]], 0, 1) for scene in scenes)
                cb, cr = {
                    "gray": (0 * light, 0 * light),
                    "tint": (0 * light - 10, 0 * light + 8),
                    "toned": (-20 * light, 16 * light),
                    "colour": tuple(80 * (hue - 0.5) for hue in hues),
                }[shot.chroma]
                grain = chance.normal(0, 1, light.shape)
                planes = np.stack((30 + 190 * light + grain, 128 + cb, 128 + cr))
                frame = VideoFrame.from_ndarray(planes.round().astype(np.uint8), "yuv444p")
                frame.pts, frame.time_base = index, Fraction(1, rate)
                output.mux(video.encode(frame))
                index += 1
        output.mux(video.encode(None))
    return file


def make_woven(folder: Path, order: str, name: str, codec: str, *, is_marked: bool = True) -> Path:
    """Write a film of 60 frames whose fields are of two moments: a bright block runs over a dark, textured ground.

    Args:
        folder: where to.
        order: "tff" or "bff".
        name: of the file.
        codec: its encoder.
        is_marked: whether frames and stream say that they are interlaced.
    """
    file, (width, height) = folder / name, (192, 128)
    texture = cv2.resize(np.random.default_rng(3).uniform(-15, 15, (32, 48)), (width, height))
    options = {"x264-params": f"{order}=1", "qp": "0"} if codec == "libx264" and is_marked else {}

    def moment(time: int) -> npt.NDArray[np.uint8]:
        luma = 60 + texture
        left = (3 * time) % (width - 64)
        luma[32:96, left : left + 64] += 120
        return luma.astype(np.uint8)

    with av.open(str(file), "w") as output:
        video = output.add_stream(codec, rate=25, options=options)
        assert isinstance(video, VideoStream)
        context = video.codec_context
        (context.width, context.height), context.pix_fmt = (width, height), "yuv420p"
        context.time_base, context.gop_size = Fraction(1, 25), 12
        marker = FieldMarker(width, height, "yuv420p", Fraction(1, 25), order)
        for index in range(60):
            luma = moment(2 * index)
            second = 1 if order == "tff" else 0
            luma[second::2] = moment(2 * index + 1)[second::2]
            planes = [luma.ravel(), np.full(width * height // 2, 128, np.uint8)]
            frame = VideoFrame.from_ndarray(np.concatenate(planes).reshape(-1, width), "yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(video.encode(marker.mark(frame) if is_marked else frame))
        output.mux(video.encode(None))
    return file


def _frame(luma: npt.NDArray[np.generic], kind: Kind) -> VideoFrame:
    format = av.VideoFormat(kind.pix_fmt)
    if format.is_rgb:
        return VideoFrame.from_ndarray(luma.astype(np.uint8), "gray").reformat(format=kind.pix_fmt)
    frame = VideoFrame(*kind.size, kind.pix_fmt)
    middle = 1 << (format.components[0].bits - 1)
    for index, plane in enumerate(frame.planes):
        lines = np.frombuffer(memoryview(plane), luma.dtype).reshape(plane.height, -1)
        lines[:, : plane.width] = luma if index == 0 else middle
    return frame


def _tone(output: "av.container.OutputContainer", stream: AudioStream, seconds: float) -> None:
    samples = max(round(seconds * SAMPLE_RATE), 4096)
    tone = 0.2 * np.sin(np.arange(samples) * 0.05).astype(np.float32)
    for start in range(0, samples, 1024):
        frame = AudioFrame.from_ndarray(tone[np.newaxis, start : start + 1024], "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
