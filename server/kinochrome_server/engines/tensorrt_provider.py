"""ONNX Runtime's TensorRT provider: it hands the whole graph to TensorRT, and keeps the engine in our cache."""

import contextlib
import ctypes
import importlib
import importlib.metadata
import logging
import os
import re
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt
import onnxruntime

from kinochrome_proto.errors import BadColorizer
from kinochrome_proto.manifest import CHROMA

from ..colorizers import Colorizer
from .cuda import missing_libraries
from .engine_cache import EngineCache, Stale
from .gpus import gpus
from .interface import EngineSettings, Unusable
from .nvidia import Cuda
from .onnx_runtime import open_session, raise_if_of_memory, session_options
from .tensorrt_shapes import Feed, Profile, Runner, ShapedEngine

PROVIDER = "TensorrtExecutionProvider"
LIBRARY = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"

log = logging.getLogger(__name__)


class TensorrtProviderEngine(ShapedEngine):
    """No part of the graph runs anywhere but in TensorRT: a colorizer of which it refuses a node does not load."""

    name: ClassVar[str] = "tensorrt"

    @classmethod
    def probe(cls) -> str:
        if PROVIDER not in onnxruntime.get_available_providers():
            raise Unusable(
                "--engine tensorrt: onnxruntime-gpu is not installed: pip install 'kinochrome[gpu,tensorrt]'"
            )
        gpus(cls.name)
        if missing := missing_libraries():
            raise Unusable(
                f"--engine tensorrt: {', '.join(missing)} cannot be loaded, which onnxruntime-gpu "
                f"{onnxruntime.__version__} needs: pip install 'kinochrome[gpu]'"
            )
        return f"onnxruntime-gpu {onnxruntime.__version__}, TensorRT {_tensorrt_version()}"

    @classmethod
    def devices(cls) -> list[str]:
        return gpus(cls.name)

    def __init__(self, colorizer: Colorizer, settings: EngineSettings) -> None:
        self._versions = self.probe()
        self._gpu = Cuda(self.name).gpu(settings.device)
        self._cache = EngineCache(settings.cache, self.name)
        super().__init__(colorizer, settings)

    def _load(self, profile: Profile) -> Runner:
        bound_to = {"engine": self.name, "versions": self._versions, **self._gpu.parts()}
        of = {
            "colorizer": self._colorizer.sha256,
            "shapes": profile.words(),
            # The provider has no option for it; TensorRT itself heeds the variable.
            "NVIDIA_TF32_OVERRIDE": os.environ.get("NVIDIA_TF32_OVERRIDE", ""),
        }

        def build(folder: Path) -> None:
            log.info(
                "--engine tensorrt: building for %s, %s: it takes minutes, once", self._colorizer.path, of["shapes"]
            )
            # The provider overwrites this file in place, under a name of its own choice: so it gets a copy.
            timings = folder / f"TensorrtExecutionProvider_cache_sm{self._gpu.capability.replace('.', '')}.timing"
            if known := self._cache.timings(bound_to):
                timings.write_bytes(known)
            session = self._session(profile, folder)
            height, width = profile.usual_picture
            self._paint(session, self._feed(np.zeros((profile.batch, height, width), np.uint8)))
            if not _engines(folder):
                raise Unusable(
                    f"--engine tensorrt: {self._versions} loaded {self._colorizer.path} but built no engine: "
                    "use --engine cuda"
                )
            if timings.exists():
                self._cache.keep_timings(bound_to, timings.read_bytes())
                timings.unlink()

        def load(folder: Path) -> Runner:
            kept = _engines(folder)
            try:
                session = self._session(profile, folder)
            except Unusable as error:
                raise Stale(f"cannot be loaded: {error}") from None
            if _engines(folder) != kept:
                log.warning("--engine tensorrt: ONNX Runtime did not take the engine in %s, it built another", folder)
            return lambda feed: self._paint(session, feed)

        return self._cache.load({**bound_to, **of}, build, load)

    def _session(self, profile: Profile, folder: Path) -> onnxruntime.InferenceSession:
        """With the engine that lies in the folder; where none does it is built, and put there. Raises Unusable."""
        options = session_options()
        # Without it, nodes that TensorRT refuses would run on the CPU, and nobody would know.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        least, usual, largest = (_in_words(profile, place) for place in range(3))
        told = {
            "device_id": str(self._settings.device),
            # All three, of every input: else an engine is built anew whenever another shape comes.
            "trt_profile_min_shapes": least,
            "trt_profile_opt_shapes": usual,
            "trt_profile_max_shapes": largest,
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(folder),
        }
        try:
            session = open_session(self._colorizer.content, str(self._colorizer.path), options, [(PROVIDER, told)])
        except BadColorizer as error:  # yet the CPU loaded it
            raise Unusable(
                f"--engine tensorrt: {self._versions} does not take the whole colorizer: {error}: use --engine cuda"
            ) from None
        if session.get_providers()[0] != PROVIDER:
            raise Unusable(
                f"--engine tensorrt: {self._versions} loaded only {', '.join(session.get_providers())}: "
                "see `kinochrome doctor`"
            )
        return session

    def _paint(self, session: onnxruntime.InferenceSession, feed: Feed) -> npt.NDArray[np.float32]:
        try:
            (chroma,) = session.run([CHROMA], dict(feed))
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise_if_of_memory(error)
            raise
        return cast(npt.NDArray[np.float32], chroma)


def _in_words(profile: Profile, place: int) -> str:
    """The profile's least (0), usual (1) or largest (2) shapes as the provider wants them: "luma:1x1x256x256,..."."""
    return ",".join(f"{name}:" + "x".join(map(str, shapes[place])) for name, shapes in profile.shapes().items())


def _engines(folder: Path) -> dict[str, tuple[int, int]]:
    """The engines in a folder, and when and how large each was written."""
    return {file.name: (file.stat().st_mtime_ns, file.stat().st_size) for file in folder.glob("*.engine")}


def built_for() -> str:
    """The major version of TensorRT that this onnxruntime-gpu is linked to: "10". Raises Unusable."""
    try:
        found = re.search(rb"libnvinfer\.so\.(\d+)", LIBRARY.read_bytes())
    except OSError:
        found = None
    if found is None:
        raise Unusable(
            f"--engine tensorrt: onnxruntime-gpu {onnxruntime.__version__} has no TensorRT provider ({LIBRARY.name}): "
            "pip install 'kinochrome[gpu,tensorrt]'"
        )
    return found[1].decode()


def _tensorrt_version() -> str:
    """Of the library that the provider will find: "10.16.1". Raises Unusable."""
    major = built_for()
    with contextlib.suppress(ImportError):
        importlib.import_module("tensorrt_libs")  # NVIDIA's Python package of the libraries loads them when imported
    try:
        library = ctypes.CDLL(f"libnvinfer.so.{major}")
    except OSError:
        raise Unusable(
            f"--engine tensorrt: libnvinfer.so.{major} cannot be loaded, which onnxruntime-gpu "
            f"{onnxruntime.__version__} needs{_instead(major)}: pip install 'tensorrt-cu13=={major}.*'"
        ) from None
    version: int = library.getInferLibVersion()
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def _instead(major: str) -> str:
    """What is installed of TensorRT in another version, in words."""
    for name in ("tensorrt-cu13", "tensorrt-cu12", "tensorrt"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
            if version.partition(".")[0] != major:
                return f" ({name} {version} is installed, and onnxruntime-gpu was not built for it)"
    return ""
