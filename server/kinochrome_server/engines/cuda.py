"""ONNX Runtime on an NVIDIA GPU, through its CUDA provider."""

import contextlib
import ctypes
import io
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt
import onnxruntime

from kinochrome_proto.errors import BadColorizer
from kinochrome_proto.manifest import CHROMA, LUMA, NOISE

from ..colorizers import Colorizer
from . import proof
from .cpu import CpuEngine
from .gpus import gpus
from .interface import Engine, EngineSettings, Unusable
from .onnx_runtime import open_session, raise_if_of_memory, session_options

PROVIDER = "CUDAExecutionProvider"
KEPT = 8
"""Shapes whose tensors, and graph, are kept; a film has one. More come only to a server that sees many films."""


class CudaEngine(Engine):
    """Batches are filled up to the largest: so a film has one shape, and its kernels are launched as one CUDA graph."""

    name: ClassVar[str] = "cuda"

    @classmethod
    def probe(cls) -> str:
        if PROVIDER not in onnxruntime.get_available_providers():
            raise Unusable("--engine cuda: onnxruntime-gpu is not installed: pip install 'kinochrome[gpu]'")
        gpus(cls.name)
        if missing := missing_libraries():
            raise Unusable(
                f"--engine cuda: {', '.join(missing)} cannot be loaded, which onnxruntime-gpu "
                f"{onnxruntime.__version__} needs: pip install 'kinochrome[gpu]', or install "
                f"CUDA {onnxruntime.cuda_version}"
            )
        return f"onnxruntime-gpu {onnxruntime.__version__}, CUDA {onnxruntime.cuda_version}"

    @classmethod
    def devices(cls) -> list[str]:
        return gpus(cls.name)

    def __init__(self, colorizer: Colorizer, settings: EngineSettings) -> None:
        super().__init__(colorizer, settings)
        self.probe()
        names = self.devices()
        if settings.device >= len(names):
            raise Unusable(f"--engine cuda: there is no GPU {settings.device}: this machine has {', '.join(names)}")
        self._device, self._batch = settings.device, settings.batch
        self._session, self.captures = _open(colorizer, settings.device)
        self._bound: dict[tuple[int, ...], _Bound] = {}
        luma = proof.sample(self.manifest.working_side, self.manifest.working_side)[np.newaxis]
        proof.compare(self.name, colorizer, self.run(luma), CpuEngine(colorizer, settings).run(luma))

    def run(self, luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        count, height, width = luma.shape
        if count < self._batch:
            luma = np.concatenate((luma, np.zeros((self._batch - count, height, width), np.uint8)))
        try:
            return self._bound_to(luma.shape).run(self._feed(luma))[:count]
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise_if_of_memory(error)
            fault = str(error).partition("\n")[0]
            raise Unusable(f"--engine cuda: a batch failed: {fault}: see what nvidia-smi says") from error

    def _bound_to(self, shape: tuple[int, ...]) -> "_Bound":
        if shape in self._bound:
            return self._bound[shape]
        keeps = len(self._bound) < KEPT
        graph = len(self._bound) if self.captures and keeps else _Bound.NO_GRAPH
        bound = _Bound(
            self._session, self._device, shape, self.manifest.chroma_stride, self.manifest.noise_length, graph
        )
        if keeps:
            self._bound[shape] = bound
        return bound


class _Bound:
    """A session with tensors of one shape on the device. Where a graph is captured their addresses are part of it."""

    NO_GRAPH = -1

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        device: int,
        shape: tuple[int, ...],
        stride: int,
        noise_length: int,
        graph: int,
    ) -> None:
        """
        Args:
            session: on the device.
            device: its number.
            shape: (N, h, w) of the thumbnails.
            stride: lines of luma that share one of chroma.
            noise_length: of the colorizer.
            graph: a number of its own for the session to keep the captured graph by, or NO_GRAPH.
        """
        count, height, width = shape

        def tensor(kind: type[np.generic], *sides: int) -> onnxruntime.OrtValue:
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(sides), kind, "cuda", device)

        self._session, self._given = session, {LUMA: tensor(np.uint8, count, 1, height, width)}
        if noise_length:
            self._given[NOISE] = tensor(np.float32, count, noise_length)
        self._chroma = tensor(np.float32, count, 2, height // stride, width // stride)
        self._binding = session.io_binding()
        for name, value in self._given.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_ortvalue_output(CHROMA, self._chroma)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(graph))

    def run(self, feed: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
        """Feed of the shape -> (N, 2, h/s, w/s)."""
        for name, array in feed.items():
            self._given[name].update_inplace(array)
        # The first run of a shape also captures its graph; the call waits until the device is done.
        self._session.run_with_iobinding(self._binding, self._options)
        return cast(npt.NDArray[np.float32], self._chroma.numpy())


def missing_libraries() -> list[str]:
    """File names of the CUDA libraries that ONNX Runtime needs and that cannot be loaded here.

    Those of NVIDIA's Python packages are found too.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        onnxruntime.preload_dlls()
    major = onnxruntime.cuda_version.partition(".")[0]
    named = [f"lib{name}.so.{major}" for name in ("cudart", "cublas", "cublasLt")]
    return [name for name in (*named, "libcurand.so.10", "libcudnn.so.9") if not _loads(name)]


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _open(colorizer: Colorizer, device: int) -> tuple[onnxruntime.InferenceSession, bool]:
    """A session on the device, and whether it captures graphs. Raises Unusable, BadColorizer, MemoryError."""
    told = {
        "device_id": str(device),
        # Tensor cores want channels last; else every convolution turns its features around.
        "prefer_nhwc": "1",
        # TensorFloat-32 keeps 10 bits of a factor's mantissa: it is no single precision, and the file says that it is.
        "use_tf32": "0",
        # An exhaustive search may choose another algorithm at every start, and give other bytes for the same film.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Every worker has a session: none may reach for more than it needs.
        "arena_extend_strategy": "kSameAsRequested",
    }
    name = str(colorizer.path)
    try:
        session, captures = (
            open_session(colorizer.content, name, _options(), [(PROVIDER, {**told, "enable_cuda_graph": "1"})]),
            True,
        )
    except BadColorizer as error:
        # ONNX Runtime refuses to capture where an operator has to run on the CPU.
        if "graph capture" not in str(error):
            raise
        session, captures = open_session(colorizer.content, name, _options(), [(PROVIDER, told)]), False
    if PROVIDER not in session.get_providers():
        raise Unusable(
            f"--engine cuda: onnxruntime-gpu {onnxruntime.__version__} did not load its CUDA provider, only "
            f"{', '.join(session.get_providers())}: see `kinochrome doctor`"
        )
    return session, captures


def _options() -> onnxruntime.SessionOptions:
    options = session_options()
    options.use_deterministic_compute = True  # the same film gives the same bytes
    return options
