"""A recording TensorRT without a GPU: strict, failing as TensorRT fails, and computing what ONNX Runtime computes.

Its classes have the names that our code uses and no others, and take no attributes that were not foreseen, as
TensorRT's take none: test_tensorrt_names holds them against NVIDIA's own bindings. What fails in TensorRT is answered
by None, False or -1, with a word to the logger; so it is here.
"""

import ctypes
import enum
import json
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime

from .fake_cuda import FakeCuda

MAGIC = b"fake engine "
KINDS = {"DataType.UINT8": np.uint8, "DataType.FLOAT": np.float32}


class State:
    """What a test wants to know, and what it wants to go wrong."""

    def __init__(self, version: str, cuda: FakeCuda) -> None:
        self.version, self.cuda = version, cuda
        self.calls: list[str] = []
        """In order, with what matters of their arguments."""
        self.unsupported: set[str] = set()
        """Operators that the parser refuses."""
        self.starts = self.builds = self.loads = self.fits = True
        """Whether there is a GPU for builders and runtimes, engines can be built and loaded, a context finds memory."""
        self.spoilt: float = 0
        """Added to all that engines give."""


def module(state: State) -> ModuleType:
    """What stands for the package `tensorrt`."""
    major = int(state.version.partition(".")[0])
    gpu = state.cuda._name

    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        INTERNAL_ERROR, ERROR = Severity.INTERNAL_ERROR, Severity.ERROR

        def log(self, severity: Severity, msg: str) -> None:
            raise NotImplementedError

    class IProgressMonitor:
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            raise NotImplementedError

        def step_complete(self, phase_name: str, step: int) -> bool:
            raise NotImplementedError

        def phase_finish(self, phase_name: str) -> None:
            raise NotImplementedError

    class NetworkDefinitionCreationFlag(enum.IntEnum):
        STRONGLY_TYPED = 1 if major == 10 else 0  # so it is: the flag's number changed

    class BuilderFlag(enum.IntEnum):
        TF32 = 6

    class DataType(enum.Enum):
        FLOAT, UINT8 = "float", "uint8"

    class ParserError:
        __slots__ = ("_text",)

        def __init__(self, text: str) -> None:
            self._text = text

        def desc(self) -> str:
            return self._text

    class IHostMemory:
        __slots__ = ("_content",)

        def __init__(self, content: bytes) -> None:
            self._content = content

        def __bytes__(self) -> bytes:  # the real one offers a buffer, which bytes() takes as well
            return self._content

    class INetworkDefinition:
        __slots__ = ("_model",)

        def __init__(self) -> None:
            self._model = b""

    class OnnxParser:
        __slots__ = ("_errors", "_logger", "_network")

        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            assert isinstance(network, INetworkDefinition) and isinstance(logger, ILogger)
            self._network, self._logger = network, logger
            self._errors: list[ParserError] = []

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> ParserError:
            return self._errors[index]

        def parse(self, model: bytes) -> bool:
            nodes = onnx.load_model_from_string(model).graph.node
            self._errors = [
                ParserError(f"no importer registered for op:\n{node.op_type}")
                for node in nodes
                if node.op_type in state.unsupported
            ]
            self._network._model = model
            return not self._errors

    class ITimingCache:
        __slots__ = ("_content",)

        def __init__(self, content: bytes) -> None:
            self._content = content

        def serialize(self) -> IHostMemory:
            return IHostMemory(self._content)

    class IOptimizationProfile:
        __slots__ = ("_shapes",)

        def __init__(self) -> None:
            self._shapes: dict[str, list[list[int]]] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            assert len(min) == len(opt) == len(max)
            assert all(0 <= a <= b <= c for a, b, c in zip(min, opt, max, strict=True)), (min, opt, max)
            self._shapes[input] = [list(min), list(opt), list(max)]

    class IBuilderConfig:
        __slots__ = ("_flags", "_profiles", "_timings", "progress_monitor")

        def __init__(self) -> None:
            self._flags = {BuilderFlag.TF32}  # on unless taken away
            self._profiles: list[IOptimizationProfile] = []
            self._timings: ITimingCache | None = None
            self.progress_monitor: IProgressMonitor | None = None

        def clear_flag(self, flag: BuilderFlag) -> None:
            self._flags.discard(flag)

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
            return ITimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            if cache._content and not cache._content.startswith(gpu.encode()):
                return False
            self._timings = cache
            state.calls.append(f"timings of {len(cache._content)} bytes")
            return True

        def get_timing_cache(self) -> ITimingCache | None:
            return self._timings

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self._profiles.append(profile)
            return len(self._profiles) - 1

    class Builder:
        __slots__ = ("_logger",)

        def __init__(self, logger: ILogger) -> None:
            assert isinstance(logger, ILogger)
            if not state.starts:
                logger.log(Severity.INTERNAL_ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            assert flags & (1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED) or major > 10, "weakly typed"
            return INetworkDefinition()

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
            state.calls.append("build")
            wanted = {item.name for item in onnx.load_model_from_string(network._model).graph.input}
            if not config._profiles or config._profiles[0]._shapes.keys() != wanted:
                self._logger.log(
                    Severity.ERROR, "dynamic inputs, but no optimization profile has been defined for them"
                )
                return None
            if not state.builds:
                self._logger.log(Severity.ERROR, "Could not find any implementation\nfor node {ForeignNode}.")
                self._logger.log(Severity.ERROR, "and more that follows from it")
                return None
            self._logger.log(Severity.ERROR, "a tactic was skipped")  # it says so, and goes on with others
            if monitor := config.progress_monitor:
                monitor.phase_start("Building Engine", None, 2)
                monitor.phase_start("Tactics", "Building Engine", 1)
                assert monitor.step_complete("Tactics", 0)
                monitor.phase_finish("Tactics")
                assert monitor.step_complete("Building Engine", 0)
                monitor.phase_finish("Building Engine")
            if config._timings is not None and not config._timings._content:
                config._timings._content = gpu.encode() + b" is fast"
            about = {
                "tensorrt": state.version,
                "gpu": gpu,
                "tf32": BuilderFlag.TF32 in config._flags,
                "shapes": config._profiles[0]._shapes,
            }
            return IHostMemory(MAGIC + json.dumps(about).encode() + b"\0" + network._model)

    class IExecutionContext:
        __slots__ = ("_addresses", "_engine", "_given")

        def __init__(self, engine: "ICudaEngine") -> None:
            self._engine = engine
            self._addresses: dict[str, int] = {}
            self._given: dict[str, tuple[int, ...]] = {}

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._addresses[name] = memory
            return name in self._engine._tensors

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            least, _, most = self._engine._about["shapes"][name]
            fits = len(shape) == len(least) and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
            if fits:
                self._given[name] = tuple(shape)
            return fits

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            assert name == "chroma"
            count, _, height, width = self._given.get("luma", (-1, -1, -1, -1))
            stride = self._engine._stride
            return count, 2, height // stride, width // stride

        def execute_async_v3(self, stream_handle: int) -> bool:
            shapes = {**self._given, "chroma": self.get_tensor_shape("chroma")}
            for name, kind in self._engine._tensors.items():
                size = int(np.prod(shapes[name])) * np.dtype(KINDS[str(kind)]).itemsize
                if not state.cuda._holds("device", self._addresses.get(name, 0), size):
                    return False
            state.cuda._streams[stream_handle].append(lambda: self._execute(shapes))
            return True

        def _execute(self, shapes: dict[str, tuple[int, ...]]) -> None:
            feed = {}
            for name in self._given:
                kind = KINDS[str(self._engine._tensors[name])]
                size = int(np.prod(shapes[name])) * np.dtype(kind).itemsize
                feed[name] = np.frombuffer(ctypes.string_at(self._addresses[name], size), kind).reshape(shapes[name])
            (chroma,) = self._engine._session.run(["chroma"], feed)
            assert chroma.shape == shapes["chroma"]
            spoilt = chroma + np.float32(state.spoilt)
            ctypes.memmove(self._addresses["chroma"], spoilt.tobytes(), spoilt.nbytes)

    class ICudaEngine:
        __slots__ = ("_about", "_session", "_stride", "_tensors")

        def __init__(self, about: dict[str, Any], content: bytes) -> None:
            self._about = about
            self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            kinds = {"tensor(uint8)": DataType.UINT8, "tensor(float)": DataType.FLOAT}
            items = [*self._session.get_inputs(), *self._session.get_outputs()]
            self._tensors: dict[str, DataType] = {item.name: kinds[item.type] for item in items}
            self._stride = int(self._session.get_modelmeta().custom_metadata_map["kinochrome.chroma_stride"])

        @property
        def num_io_tensors(self) -> int:
            return len(self._tensors)

        def get_tensor_name(self, index: int) -> str:
            return [*self._tensors][index]

        def get_tensor_dtype(self, name: str) -> DataType:
            return self._tensors[name]

        def create_execution_context(self) -> IExecutionContext | None:
            return IExecutionContext(self) if state.fits else None

    class Runtime:
        __slots__ = ("_logger",)

        def __init__(self, logger: ILogger) -> None:
            assert isinstance(logger, ILogger)
            if not state.starts:
                logger.log(Severity.INTERNAL_ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            state.calls.append("load")
            head, _, content = serialized_engine.partition(b"\0")
            about = json.loads(head.removeprefix(MAGIC)) if head.startswith(MAGIC) else {}
            if not state.loads or (about.get("tensorrt"), about.get("gpu")) != (state.version, gpu):
                self._logger.log(Severity.ERROR, "The engine plan file is not compatible with this version of TensorRT")
                return None
            return ICudaEngine(about, content)

    fake = ModuleType("tensorrt")
    for item in (
        ILogger, IProgressMonitor, NetworkDefinitionCreationFlag, BuilderFlag, DataType, ParserError, IHostMemory,
        INetworkDefinition, OnnxParser, ITimingCache, IOptimizationProfile, IBuilderConfig, Builder, IExecutionContext,
        ICudaEngine, Runtime,
    ):  # fmt: skip
        setattr(fake, item.__name__, item)
    vars(fake)["__version__"] = state.version
    return fake
