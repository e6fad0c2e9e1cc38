"""What the engines built by TensorRT share: the shapes that they are built for, and the proof that they paint."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kinochrome_proto.manifest import LUMA, NOISE, Manifest

from ..chroma import LONGEST
from ..colorizers import Colorizer
from . import proof
from .cpu import CpuEngine
from .interface import Engine, EngineSettings, Unusable

Shape = tuple[int, ...]
Feed = Mapping[str, npt.NDArray[np.generic]]
Runner = Callable[[Feed], npt.NDArray[np.float32]]
"""What the graph takes -> (N, 2, h/s, w/s). Raises MemoryError, Unusable."""

USUAL_ASPECT = 4 / 3
"""Of old film; kernels are chosen for it."""


@dataclass(frozen=True)
class Profile:
    """The shapes that one engine takes: batches up to the largest, of pictures that share their short side."""

    batch: int
    short: int
    """Pixels."""
    tall: bool
    """Whether the short side is the width."""
    multiple: int
    """Of which both sides are multiples."""
    noise_length: int

    @classmethod
    def of(cls, manifest: Manifest, batch: int, height: int, width: int) -> "Profile":
        """The one that pictures of a size belong to."""
        return cls(batch, min(height, width), height > width, manifest.size_multiple, manifest.noise_length)

    @classmethod
    def usual(cls, manifest: Manifest, batch: int) -> "Profile":
        """That of films wider than high."""
        return cls.of(manifest, batch, manifest.working_side, manifest.working_side)

    @property
    def longest(self) -> int:
        """The longest long side: thumbnails have at most LONGEST short ones, rounded."""
        return math.ceil(LONGEST * (self.short + self.multiple / 2) / self.multiple) * self.multiple

    def picture(self, long: int) -> tuple[int, int]:
        """(h, w) of the picture with that long side."""
        return (long, self.short) if self.tall else (self.short, long)

    @property
    def usual_picture(self) -> tuple[int, int]:
        """(h, w) of most films."""
        return self.picture(max(round(self.short * USUAL_ASPECT / self.multiple), 1) * self.multiple)

    def shapes(self) -> dict[str, tuple[Shape, Shape, Shape]]:
        """Least, usual and largest shape of each of the graph's inputs."""
        sizes = self.picture(self.short), self.usual_picture, self.picture(self.longest)
        least, usual, largest = (
            (count, 1, *size) for count, size in zip((1, self.batch, self.batch), sizes, strict=True)
        )
        shapes: dict[str, tuple[Shape, Shape, Shape]] = {LUMA: (least, usual, largest)}
        if length := self.noise_length:
            shapes[NOISE] = (1, length), (self.batch, length), (self.batch, length)
        return shapes

    def words(self) -> str:
        """All of it, for the key of an engine's entry in the cache."""
        return "; ".join(
            f"{name} " + " ".join("x".join(map(str, shape)) for shape in shapes)
            for name, shapes in self.shapes().items()
        )


class ShapedEngine(Engine):
    """An engine that is built for ranges of shapes; not for several threads at once.

    That of films wider than high is there when this is; those of other short sides and of tall films are built when
    the first such picture comes, which takes as long as the first start did.
    """

    def __init__(self, colorizer: Colorizer, settings: EngineSettings) -> None:
        super().__init__(colorizer, settings)
        if self.manifest.precision == "int8":
            raise Unusable(
                f"--engine {self.name}: {colorizer.path} is int8 for CPUs, which TensorRT does not take: "
                "use the fp32 or fp16 file, or --engine cpu"
            )
        self._colorizer, self._settings = colorizer, settings
        self._cpu = CpuEngine(colorizer, settings)  # raises BadColorizer, so what fails from here on is not the file
        self._runners: dict[Profile, Runner] = {}
        self._runner(Profile.usual(self.manifest, settings.batch))

    @abstractmethod
    def _load(self, profile: Profile) -> Runner:
        """What runs the colorizer on shapes of a profile. Raises Unusable."""

    def run(self, luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        count, height, width = luma.shape
        profile = Profile.of(self.manifest, self._settings.batch, height, width)
        if count > profile.batch or max(height, width) > profile.longest:
            raise ValueError(f"{luma.shape} pictures for an engine of {profile.words()}")
        return self._runner(profile)(self._feed(luma))

    def _runner(self, profile: Profile) -> Runner:
        if profile not in self._runners:
            runner = self._load(profile)
            self._prove(runner, profile)
            self._runners[profile] = runner
        return self._runners[profile]

    def _prove(self, runner: Runner, profile: Profile) -> None:
        """Paint a picture here and on the CPU. Raises Unusable where the colours differ."""
        luma = proof.sample(*profile.usual_picture)[np.newaxis]
        painted = runner(self._feed(np.repeat(luma, profile.batch, axis=0)))
        proof.compare(self.name, self._colorizer, painted, self._cpu.run(luma))
