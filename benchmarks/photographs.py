"""A film made on the spot from photographs that scikit-image ships: slow pans and zooms, grain, cuts, a tone."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from skimage import data

Picture = npt.NDArray[np.uint8]

SHOTS = ("astronaut", "coffee", "chelsea", "rocket", "motorcycle")
FRAME_RATE = 24
SAMPLE_RATE = 44_100
TONE_HZ = 220
GRAIN = 6.0  # standard deviation, 8-bit code values


def photograph(name: str) -> Picture:
    """One of the shipped photographs, (H, W, 3) RGB."""
    if name == "motorcycle":
        left, _, _ = data.stereo_motorcycle()  # type: ignore[no-untyped-call]
        return np.asarray(left[..., :3], dtype=np.uint8)
    return np.asarray(getattr(data, name)()[..., :3], dtype=np.uint8)


def frames(width: int, height: int, seconds_per_shot: float) -> Iterator[Picture]:
    """Colour frames (height, width, 3): each photograph for a while, the view moving and closing in."""
    for index, name in enumerate(SHOTS):
        picture = photograph(name)
        count = round(seconds_per_shot * FRAME_RATE)
        tall, wide = picture.shape[:2]
        view = min(wide / width, tall / height)
        for step in range(count):
            done = step / count if index % 2 == 0 else 1 - step / count
            scale = view * (0.95 - 0.2 * done)
            left = (wide - width * scale) * (0.2 + 0.6 * done)
            top = (tall - height * scale) * (0.1 + 0.4 * done)
            matrix = np.array([[scale, 0, left], [0, scale, top]], np.float32)
            flags = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
            moved = cv2.warpAffine(picture, matrix, (width, height), flags=flags | cv2.WARP_INVERSE_MAP)
            yield np.asarray(moved, dtype=np.uint8)


def make(file: Path, *, width: int = 640, height: int = 480, seconds_per_shot: float = 2.5) -> int:
    """Write the film in black and white, with grain, as H.264 and AAC; return its number of frames."""
    chance = np.random.default_rng(1)
    count = 0
    with av.open(str(file), "w") as output:
        video = output.add_stream("libx264", FRAME_RATE, options={"crf": "16", "preset": "veryfast"})
        audio = output.add_stream("aac", SAMPLE_RATE, layout="mono")
        assert isinstance(video, VideoStream) and isinstance(audio, AudioStream)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for picture in frames(width, height, seconds_per_shot):
            luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
            worn = np.clip(luma + chance.normal(0, GRAIN, luma.shape), 0, 255).astype(np.uint8)
            frame = VideoFrame.from_ndarray(worn, "gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = count, Fraction(1, FRAME_RATE)
            output.mux(video.encode(frame))
            count += 1
        samples = round(count / FRAME_RATE * SAMPLE_RATE)
        tone = 0.2 * np.sin(2 * np.pi * TONE_HZ * np.arange(samples) / SAMPLE_RATE).astype(np.float32)
        for start in range(0, samples, 1024):
            sound = AudioFrame.from_ndarray(tone[np.newaxis, start : start + 1024], "fltp", "mono")
            sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            output.mux(audio.encode(sound))
        output.mux(video.encode(None))
        output.mux(audio.encode(None))
    return count
