"""A recording CUDA runtime without a GPU: strict where the real one answers a mistake with damage.

Work on a stream is done when somebody waits for it, not before; both sides of a copy must be memory of the side that
its kind says, and large enough. Names are checked against the real bindings by test_tensorrt_names.
"""

import ctypes
import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorLaunchFailure = 719


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


OK, NO_MEMORY = cudaError_t.cudaSuccess, cudaError_t.cudaErrorMemoryAllocation


class FakeCuda:
    """Stands for the module cuda.bindings.runtime."""

    cudaError_t, cudaMemcpyKind = cudaError_t, cudaMemcpyKind
    cudaStreamNonBlocking = 1

    def __init__(self, name: str = "Fake GPU", memory: int = 1 << 31, gpus: int = 1) -> None:
        self._name, self._free, self._gpus = name, memory, gpus
        self._memory: dict[int, tuple[str, Any]] = {}
        self._streams: dict[int, list[Callable[[], object]]] = {}
        self._fails = ""
        """The name of a function that is to fail."""

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return OK, self._gpus

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        assert device < self._gpus
        return OK, SimpleNamespace(name=self._name.encode() + bytes(8), major=9, minor=0, multiProcessorCount=132)

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return OK, 13010

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        assert device < self._gpus
        return (OK,)

    def cudaGetErrorString(self, error: enum.IntEnum) -> tuple[Any, ...]:
        return OK, error.name.encode()

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        handle = len(self._streams) + 1
        self._streams[handle] = []
        return OK, handle

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        del self._streams[int(stream)]
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        if self._fails == "cudaStreamSynchronize":
            return (cudaError_t.cudaErrorLaunchFailure,)
        queue = self._streams[int(stream)]
        while queue:
            queue.pop(0)()
        return (OK,)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._allocated("device", size)

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self._allocated("host", size)

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        return self._freed("device", address)

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        return self._freed("host", address)

    def cudaMemcpyAsync(self, target: int, source: int, count: int, kind: enum.IntEnum, stream: int) -> tuple[Any, ...]:
        sides = ("device", "host") if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else ("host", "device")
        if not all(self._holds(side, place, count) for side, place in zip(sides, (target, source), strict=True)):
            return (cudaError_t.cudaErrorInvalidValue,)
        self._streams[int(stream)].append(lambda: ctypes.memmove(target, source, count))
        return (OK,)

    def _allocated(self, side: str, size: int) -> tuple[Any, ...]:
        if size > self._free:
            return NO_MEMORY, None
        self._free -= size
        memory = ctypes.create_string_buffer(b"\xaa" * size, size)  # what was never written is no zero
        self._memory[ctypes.addressof(memory)] = side, memory
        return OK, ctypes.addressof(memory)

    def _freed(self, side: str, address: int) -> tuple[Any, ...]:
        was, memory = self._memory.pop(address)
        assert was == side
        self._free += len(memory)
        return (OK,)

    def _holds(self, side: str, address: int, size: int) -> bool:
        was, memory = self._memory.get(address, ("", b""))
        return was == side and size <= len(memory)
