"""The engines by name, and which of them is taken."""

import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kinochrome_proto.errors import BadColorizer, BadSettings, KinochromeError
from kinochrome_proto.manifest import Manifest

from ..colorizers import Colorizer
from .gpus import gpus
from .interface import Engine, EngineSettings, Unusable

AUTO = "auto"


@dataclass(frozen=True)
class _Kind:
    """Where an engine is found, and what has to be installed for it."""

    module: str
    """In this package; imported when the engine is wanted, for what it stands on may not be installed."""
    name: str
    """Of the class."""
    needs: tuple[tuple[str, ...], ...] = ()
    """Distributions, of each group one: with these and a GPU it should work. None: it runs everywhere."""
    int8: bool = True
    """Whether it takes colorizers in int8, which are made for CPUs."""


_TENSORRT = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
ENGINES = {
    "tensorrt": _Kind("tensorrt_provider", "TensorrtProviderEngine", (("onnxruntime-gpu",), _TENSORRT), int8=False),
    "tensorrt-native": _Kind("tensorrt_native", "TensorrtNativeEngine", (_TENSORRT,), int8=False),
    "cuda": _Kind("cuda", "CudaEngine", (("onnxruntime-gpu",),)),
    "cpu": _Kind("cpu", "CpuEngine"),
}
"""By the word for --engine, in the order in which `auto` tries them: the one that should be fastest first."""


def engine_class(word: str) -> type[Engine]:
    """The engine of that name. Raises BadSettings when there is none, Unusable when it cannot even be imported."""
    if word not in ENGINES:
        raise BadSettings(f"no engine {word!r}: choose from {', '.join((AUTO, *ENGINES))}")
    kind = ENGINES[word]
    try:
        module = importlib.import_module(f".{kind.module}", __package__)
    except ImportError as error:
        extra = "server" if word == "cpu" else "gpu" if word == "cuda" else "tensorrt"
        raise Unusable(f"--engine {word}: {error}: pip install 'kinochrome[{extra}]'") from None
    found: type[Engine] = getattr(module, kind.name)
    return found


def choose(
    word: str,
    colorizer: Colorizer,
    settings: EngineSettings,
    on_warning: Callable[[str], None] = lambda text: None,
) -> Engine:
    """An engine that has loaded the colorizer and painted a picture with it.

    Args:
        word: a key of ENGINES: that one or none. AUTO: the first of them that does.
        colorizer: what is to be run.
        settings: how.
        on_warning: told where AUTO passes over an engine that should work here, and why it does not.

    Raises BadSettings, Unusable, BadColorizer.
    """
    if word != AUTO:
        return _tried(word, colorizer, settings)
    for word, kind in ENGINES.items():
        if not kind.needs:
            return _tried(word, colorizer, settings)
        if not should_work(word) or (colorizer.manifest.precision == "int8" and not kind.int8):
            continue
        try:
            return _tried(word, colorizer, settings)
        except (KinochromeError, MemoryError) as error:
            on_warning(f"{str(error) or f'--engine {word}: there is not enough memory'}; going on without {word}")
    raise AssertionError("the last engine runs everywhere")


def described(word: str) -> str:
    """An engine with its versions and device: "cpu (onnxruntime 1.31.1) on CPU". Raises BadSettings, Unusable."""
    kind = engine_class(word)
    return f"{word} ({kind.probe()}) on {kind.devices()[0]}"


def picture(manifest: Manifest) -> npt.NDArray[np.uint8]:
    """(1, h, w), gray, of the colorizer's working size: what an engine is tried on."""
    return np.full((1, manifest.working_side, manifest.working_side), 128, np.uint8)


def _tried(word: str, colorizer: Colorizer, settings: EngineSettings) -> Engine:
    engine = engine_class(word)(colorizer, settings)
    luma = picture(colorizer.manifest)
    painted = engine.run(luma)
    _, height, width = luma.shape
    stride = colorizer.manifest.chroma_stride
    if painted.shape != (1, 2, height // stride, width // stride):
        raise BadColorizer(f"{colorizer.path} gives {painted.shape} for a picture of {width}x{height}: export it again")
    if not np.isfinite(painted).all():
        raise Unusable(f"--engine {word}: {colorizer.path} gives chroma that is no number: use another engine")
    return engine


def should_work(word: str) -> bool:
    """Whether there are all the packages that the engine needs, and a GPU if it needs any. Nothing is imported."""
    needs = ENGINES[word].needs
    if not all(any(map(_installed, group)) for group in needs):
        return False
    try:
        return not needs or bool(gpus(word))
    except Unusable:
        return False


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
