"""A recording CUDA provider of ONNX Runtime, without a GPU: strict about options and bindings, computing on the CPU.

Replaying a captured graph, it uses the tensors of the capture, whatever is bound, as a GPU does.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

PROVIDER, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# As onnxruntime-gpu 1.31.1 has them: test_cuda looks for them in its library.
SWITCHES = {"prefer_nhwc", "use_tf32", "enable_cuda_graph"}
CHOICES = {
    "cudnn_conv_algo_search": {"EXHAUSTIVE", "HEURISTIC", "DEFAULT"},
    "arena_extend_strategy": {"kNextPowerOfTwo", "kSameAsRequested"},
}
GRAPH = "gpu_graph_id"  # a run's, which onnxruntime's core reads
NO_GRAPHS = "This session cannot use the graph capture feature as requested by the user"

Array = npt.NDArray[Any]


class State:
    """What a test wants to know, and what it wants to go wrong."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []
        """The options of each session."""
        self.captured: list[tuple[int, ...]] = []
        """The luma's shape of each graph that was captured."""
        self.runs: list[int] = []
        """The graph of each run; -1 where none was wanted."""
        self.refuses_graphs = False
        self.loads_nothing = False
        """Whether the provider's library does not load."""
        self.off = 0.0
        """By how much its chroma is wrong."""
        self.fault = ""
        """What a run raises."""


class FakeOrtValue:
    """Stands for onnxruntime.OrtValue: a tensor on the GPU."""

    def __init__(self, array: Array) -> None:
        self.array = array

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape: list[int], kind: Any, device: str, number: int) -> "FakeOrtValue":
        assert (device, number) == ("cuda", 0)
        return cls(np.frombuffer(b"\xa5" * int(np.prod(shape)) * np.dtype(kind).itemsize, kind).reshape(shape).copy())

    def update_inplace(self, data: Array) -> None:
        assert data.shape == self.array.shape and data.dtype == self.array.dtype and data.flags.c_contiguous
        self.array[...] = data

    def numpy(self) -> Array:
        return self.array.copy()


class _Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, FakeOrtValue] = {}
        self.outputs: dict[str, FakeOrtValue] = {}

    def bind_ortvalue_input(self, name: str, value: FakeOrtValue) -> None:
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: FakeOrtValue) -> None:
        self.outputs[name] = value


class _Session:
    def __init__(self, real: Any, told: dict[str, str], state: State) -> None:
        self._real, self._state = real, state
        self._captures = told.get("enable_cuda_graph") == "1"
        self._graphs: dict[int, _Binding] = {}

    def get_providers(self) -> list[str]:
        return [CPU] if self._state.loads_nothing else [PROVIDER, CPU]

    def io_binding(self) -> _Binding:
        return _Binding()

    def run_with_iobinding(self, binding: _Binding, options: Any) -> None:
        if self._state.fault:
            raise RuntimeError(self._state.fault)
        graph = int(options.get_run_config_entry(GRAPH))
        self._state.runs.append(graph)
        if graph != -1:
            assert self._captures
            if graph not in self._graphs:
                self._graphs[graph] = binding
                self._state.captured.append(binding.inputs["luma"].array.shape)
            binding = self._graphs[graph]
        feed = {name: value.array for name, value in binding.inputs.items()}
        (painted,) = self._real.run(list(binding.outputs), feed)
        (value,) = binding.outputs.values()
        assert value.array.shape == painted.shape
        value.array[...] = painted + self._state.off


def session(state: State) -> Any:
    """What stands for onnxruntime.InferenceSession."""
    real = onnxruntime.InferenceSession

    def make(content: bytes, options: Any, providers: list[str], provider_options: list[Any], **rest: Any) -> Any:
        if providers != [PROVIDER]:
            return real(content, options, providers=providers, provider_options=provider_options, **rest)
        assert rest == {"enable_fallback": 0}
        assert options.use_deterministic_compute
        (told,) = provider_options
        assert told.keys() <= {"device_id"} | SWITCHES | CHOICES.keys(), "Unknown provider option"
        assert all(told[name] in ("0", "1") for name in SWITCHES & told.keys())
        assert all(told[name] in CHOICES[name] for name in CHOICES.keys() & told.keys())
        computes = real(content, providers=[CPU])
        if state.refuses_graphs and told.get("enable_cuda_graph") == "1":
            raise RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : {NO_GRAPHS} as ...")
        state.told.append(told)
        return _Session(computes, told, state)

    return make
