"""TensorRT itself, of version 10 or 11: an engine built from the colorizer's ONNX bytes, kept, and run.

Networks are strongly typed: the file says in which precision to compute, and TensorRT 11 knows no other way.
"""

import importlib
import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kinochrome_proto.manifest import CHROMA, LUMA, NOISE

from ..colorizers import Colorizer
from .engine_cache import EngineCache, Stale
from .gpus import gpus
from .interface import EngineSettings, Unusable
from .nvidia import Cuda
from .tensorrt_shapes import Feed, Profile, Runner, ShapedEngine

OLDEST, NEWEST = 10, 11
"""Major versions whose Python interface was read for this."""
ENGINE_FILE = "colorizer.engine"
BUILT_WITH = "strongly typed; TF32 off"

log = logging.getLogger(__name__)


class TensorrtNativeEngine(ShapedEngine):
    """Builds with TensorRT's builder, runs on a stream of its own."""

    name: ClassVar[str] = "tensorrt-native"

    @classmethod
    def probe(cls) -> str:
        gpus(cls.name)
        tensorrt = _tensorrt()
        return f"TensorRT {tensorrt.__version__}, CUDA {Cuda(cls.name).gpu(0).driver}"

    @classmethod
    def devices(cls) -> list[str]:
        return gpus(cls.name)

    def __init__(self, colorizer: Colorizer, settings: EngineSettings) -> None:
        self.probe()
        self._tensorrt = _tensorrt()
        self._cuda = Cuda(self.name)
        self._gpu = self._cuda.gpu(settings.device)
        self._cuda.use(settings.device)
        self._cache = EngineCache(settings.cache, self.name)
        self._log = _logger(self._tensorrt)
        self._runtime = _made(self._tensorrt.Runtime, self._log)
        super().__init__(colorizer, settings)

    def run(self, luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self._cuda.use(self._settings.device)  # the caller's thread may be another than the last one
        return super().run(luma)

    def _load(self, profile: Profile) -> Runner:
        bound_to = {"engine": self.name, "tensorrt": self._tensorrt.__version__, **self._gpu.parts()}
        of = {"colorizer": self._colorizer.sha256, "shapes": profile.words(), "built with": BUILT_WITH}

        def build(folder: Path) -> None:
            timings = self._cache.timings(bound_to)
            built, timings = _build(self._tensorrt, self._colorizer, profile, timings, self._log)
            (folder / ENGINE_FILE).write_bytes(built)
            self._cache.keep_timings(bound_to, timings)

        def load(folder: Path) -> Runner:
            self._log.errors.clear()
            engine = self._runtime.deserialize_cuda_engine((folder / ENGINE_FILE).read_bytes())
            if engine is None:
                raise Stale(f"cannot be loaded: {self._log.fault()}")
            return _Bound(self._tensorrt, engine, profile, self.manifest.chroma_stride, self._cuda).run

        return self._cache.load({**bound_to, **of}, build, load)


class _Bound:
    """An engine with memory for its tensors: enough for the largest shapes of its profile."""

    def __init__(self, tensorrt: Any, engine: Any, profile: Profile, stride: int, cuda: Cuda) -> None:
        """`stride`: lines of luma that share one of chroma. Raises Stale, MemoryError, Unusable."""
        largest = {name: shapes[-1] for name, shapes in profile.shapes().items()}
        count, _, height, width = largest[LUMA]
        largest[CHROMA] = count, 2, height // stride, width // stride
        kinds = {
            LUMA: (tensorrt.DataType.UINT8, 1),
            NOISE: (tensorrt.DataType.FLOAT, 4),
            CHROMA: (tensorrt.DataType.FLOAT, 4),
        }
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if names != largest.keys():
            raise Stale(f"takes and gives {', '.join(sorted(names))}, not {', '.join(sorted(largest))}")
        for name in names:
            if engine.get_tensor_dtype(name) != kinds[name][0]:
                raise Stale(f"has {name} as {engine.get_tensor_dtype(name)}, not as {kinds[name][0]}")
        self._engine = engine  # its context needs it
        self._context = engine.create_execution_context()
        if self._context is None:  # it allocates what the layers need between them
            raise MemoryError
        self._stride, self._stream = stride, cuda.stream()
        self._buffers = {
            name: self._stream.buffer(int(np.prod(shape)) * kinds[name][1]) for name, shape in largest.items()
        }
        for name, buffer in self._buffers.items():
            self._expect(self._context.set_tensor_address(name, buffer.address), f"an address for {name}")

    def run(self, feed: Feed) -> npt.NDArray[np.float32]:
        """Feed of the profile's shapes -> (N, 2, h/s, w/s). Raises MemoryError, Unusable."""
        for name, array in feed.items():
            self._expect(self._context.set_input_shape(name, array.shape), f"{name} of {array.shape}")
            self._buffers[name].upload(array)
        count, _, height, width = feed[LUMA].shape
        shape = count, 2, height // self._stride, width // self._stride
        given = tuple(self._context.get_tensor_shape(CHROMA))
        self._expect(given == shape, f"{feed[LUMA].shape} but to give {given}")
        self._expect(self._context.execute_async_v3(self._stream.handle), "to run")
        return self._buffers[CHROMA].download(shape)

    def _expect(self, done: bool, what: str) -> None:
        if not done:
            raise Unusable(f"--engine {TensorrtNativeEngine.name}: TensorRT refused {what}: use another engine")


def _tensorrt() -> Any:
    """TensorRT's Python package. Raises Unusable."""
    word = TensorrtNativeEngine.name
    try:
        tensorrt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise Unusable(
            f"--engine {word}: TensorRT cannot be loaded ({error}): pip install 'kinochrome[tensorrt]'"
        ) from None
    major = tensorrt.__version__.partition(".")[0]
    if not (major.isdecimal() and OLDEST <= int(major) <= NEWEST):
        raise Unusable(
            f"--engine {word}: TensorRT {tensorrt.__version__} is installed, and this was made for {OLDEST} to "
            f"{NEWEST}: pip install 'kinochrome[tensorrt]'"
        )
    return tensorrt


def _logger(tensorrt: Any) -> Any:
    """A TensorRT logger that keeps what went wrong, for our own words."""

    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (tensorrt.ILogger.INTERNAL_ERROR, tensorrt.ILogger.ERROR):
                self.errors.append(" ".join(msg.split()))
            log.debug("TensorRT: %s", msg)

        def fault(self) -> str:
            """The first is the cause, the others follow from it."""
            return self.errors[0] if self.errors else "TensorRT gives no reason"

    return Logger()


def _progress(tensorrt: Any) -> Any:
    """Tells of the builder's outermost steps. It calls from threads of its own."""

    class Progress(tensorrt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                log.info("TensorRT: %s, %d of %d", phase_name, step + 1, self._steps[phase_name])
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Progress()


def _build(tensorrt: Any, colorizer: Colorizer, profile: Profile, timings: bytes, logger: Any) -> tuple[bytes, bytes]:
    """The engine's bytes, and what was measured. Raises Unusable."""
    word = TensorrtNativeEngine.name
    log.info("--engine %s: building for %s, %s: it takes minutes, once", word, colorizer.path, profile.words())
    logger.errors.clear()
    builder = _made(tensorrt.Builder, logger)
    # The flag's number is another in TensorRT 11, which ignores it: there is no other typing.
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(colorizer.content):
        fault = parser.get_error(0).desc() if parser.num_errors else logger.fault()
        raise Unusable(
            f"--engine {word}: TensorRT {tensorrt.__version__} cannot read {colorizer.path}: "
            f"{' '.join(fault.split())}: use another engine"
        )
    config = builder.create_builder_config()
    # A file in single precision is computed in single precision; who wants speed exports with --precision fp16.
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    config.progress_monitor = _progress(tensorrt)
    kept = config.create_timing_cache(timings)
    if kept is None or not config.set_timing_cache(kept, False):
        kept = config.create_timing_cache(b"")  # of another GPU after all
        config.set_timing_cache(kept, False)
    optimization = builder.create_optimization_profile()
    for name, (least, usual, largest) in profile.shapes().items():
        optimization.set_shape(name, least, usual, largest)
    config.add_optimization_profile(optimization)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise Unusable(
            f"--engine {word}: TensorRT {tensorrt.__version__} cannot build {colorizer.path}: {logger.fault()}: "
            "use another engine"
        )
    return bytes(built), bytes(config.get_timing_cache().serialize())


def _made(kind: Any, logger: Any) -> Any:
    """A Builder or Runtime. Raises Unusable: without a GPU that works there is none."""
    try:
        return kind(logger)
    except TypeError:  # so pybind11 says that there was no object to wrap
        raise Unusable(f"--engine {TensorrtNativeEngine.name}: TensorRT does not start: {logger.fault()}") from None
