"""CUDA's runtime, as much of it as TensorRT's engines need: what a GPU is, a stream, memory on both sides of it."""

import ctypes
import importlib
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .interface import Unusable


@dataclass(frozen=True)
class Gpu:
    """A GPU, by what engines bind to."""

    name: str
    capability: str
    """Compute capability: "9.0"."""
    processors: int
    """Multiprocessors: a slice of a GPU has fewer under the same name."""
    driver: str
    """The CUDA version of its driver: "13.0"."""

    def parts(self) -> dict[str, str]:
        """For the key of an engine's entry in the cache."""
        return {
            "gpu": self.name,
            "compute capability": self.capability,
            "multiprocessors": str(self.processors),
            "CUDA of the driver": self.driver,
        }


class Cuda:
    """The runtime, as one engine uses it."""

    def __init__(self, engine: str) -> None:
        """`engine`: the word for --engine, for messages. Raises Unusable."""
        self._engine = engine
        try:
            self._runtime = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise Unusable(
                f"--engine {engine}: cuda-bindings cannot be loaded ({error}): pip install 'kinochrome[tensorrt]'"
            ) from None

    def gpu(self, device: int) -> Gpu:
        """Raises Unusable where there is none of that number."""
        count = self._call("cudaGetDeviceCount")
        if device >= count:
            raise Unusable(f"--engine {self._engine}: there is no GPU {device}: this machine has {count}")
        found = self._call("cudaGetDeviceProperties", device)
        driver = self._call("cudaDriverGetVersion")
        return Gpu(
            name=bytes(found.name).rstrip(b"\0").decode(errors="replace"),
            capability=f"{found.major}.{found.minor}",
            processors=found.multiProcessorCount,
            driver=f"{driver // 1000}.{driver % 1000 // 10}",
        )

    def use(self, device: int) -> None:
        """Make it the current one of this thread."""
        self._call("cudaSetDevice", device)

    def stream(self) -> "Stream":
        """On the current GPU."""
        return Stream(self)

    def _call(self, name: str, *arguments: Any) -> Any:
        """What a function of the runtime gives. Raises MemoryError, Unusable."""
        error, *given = getattr(self._runtime, name)(*arguments)
        if error == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            raise MemoryError
        if error != self._runtime.cudaError_t.cudaSuccess:
            _, text = self._runtime.cudaGetErrorString(error)
            raise Unusable(
                f"--engine {self._engine}: {name} failed: {text.decode(errors='replace')}: see what nvidia-smi says"
            )
        return given[0] if given else None


class Stream:
    """An order of work on a GPU."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        runtime, handle = cuda._runtime, cuda._call("cudaStreamCreateWithFlags", cuda._runtime.cudaStreamNonBlocking)
        self.handle = int(handle)
        weakref.finalize(self, runtime.cudaStreamDestroy, handle)

    def wait(self) -> None:
        """Until all of it is done."""
        self._cuda._call("cudaStreamSynchronize", self.handle)

    def buffer(self, size: int) -> "Buffer":
        """Room for `size` bytes."""
        return Buffer(self, size)


class Buffer:
    """Memory on the GPU, and as much on the host, page-locked: only such is copied without waiting."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._cuda, self._stream, self.size = stream._cuda, stream, size
        runtime = self._cuda._runtime
        self.address = int(self._cuda._call("cudaMalloc", size))
        weakref.finalize(self, runtime.cudaFree, self.address)
        self._host_address = int(self._cuda._call("cudaMallocHost", size))
        weakref.finalize(self, runtime.cudaFreeHost, self._host_address)
        self._host = np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(self._host_address)), np.uint8)

    def upload(self, array: npt.NDArray[np.generic]) -> None:
        """Begin to copy an array to the GPU. Not again until the stream was waited for: the copy may not have begun."""
        if array.nbytes > self.size:
            raise ValueError(f"{array.nbytes} bytes for a buffer of {self.size}")
        self._host[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        kind = self._cuda._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(self.address, self._host_address, array.nbytes, kind)

    def download(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """What the stream left of float32 numbers, when it is done."""
        size = int(np.prod(shape)) * np.dtype(np.float32).itemsize
        if size > self.size:
            raise ValueError(f"{size} bytes of a buffer of {self.size}")
        self._copy(self._host_address, self.address, size, self._cuda._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost)
        self._stream.wait()
        left: npt.NDArray[np.float32] = self._host[:size].view(np.float32).reshape(shape)
        return left.copy()

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        self._cuda._call("cudaMemcpyAsync", target, source, size, kind, self._stream.handle)
