"""A recording TensorRT provider of ONNX Runtime, without TensorRT: strict about its options, computing on the CPU.

It keeps its engine and its timings as the real one does: in files of its own naming, in the folder it is told.
"""

from pathlib import Path
from typing import Any

import onnxruntime

PROVIDER = "TensorrtExecutionProvider"
# As onnxruntime-gpu 1.31.1 has them: test_tensorrt_names looks for them in its library.
SWITCHES = {"trt_engine_cache_enable", "trt_timing_cache_enable"}
TEXTS = {
    "device_id",
    "trt_engine_cache_path",
    "trt_timing_cache_path",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_profile_max_shapes",
}
ENTRY = "session.disable_cpu_ep_fallback"
ENGINE = "TensorrtExecutionProvider_TRTKernel_graph_main_1_0_0_sm90.engine"
TIMINGS = "TensorrtExecutionProvider_cache_sm90.timing"


class State:
    """What a test wants to know, and what it wants to go wrong."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []
        """The options of each session."""
        self.builds = 0
        self.timings: list[bytes] = []
        """What each build was given."""
        self.refuses = False
        """Whether TensorRT leaves nodes to others."""
        self.loads_nothing = False
        """Whether the provider's library does not load."""
        self.builds_nothing = False
        """Whether it keeps no engine."""
        self.takes_nothing = False
        """Whether it builds even where an engine lies."""


_real = onnxruntime.InferenceSession


def session(state: State) -> Any:
    """What stands for onnxruntime.InferenceSession."""

    def make(content: bytes, options: Any, providers: list[str], provider_options: list[Any], **rest: Any) -> Any:
        if providers != [PROVIDER]:
            return _real(content, options, providers=providers, provider_options=provider_options, **rest)
        assert rest == {"enable_fallback": 0}
        assert options.get_session_config_entry(ENTRY) == "1"
        (told,) = provider_options
        assert told.keys() <= SWITCHES | TEXTS, "[ERROR] Invalid TensorRT EP option"
        assert all(told[switch] in ("True", "False") for switch in SWITCHES), "should be 'True' or 'False'"
        state.told.append(told)
        if state.refuses:
            raise RuntimeError(
                "[ONNXRuntimeError] : 1 : FAIL : This session contains graph nodes that are assigned to the default "
                "CPU EP, but fallback to CPU EP has been explicitly disabled by the user."
            )
        if not state.builds_nothing:
            _engine(Path(told["trt_engine_cache_path"]), Path(told["trt_timing_cache_path"]), state)
        return _Session(_real(content, providers=["CPUExecutionProvider"]), told, state)

    return make


def _engine(folder: Path, timings: Path, state: State) -> None:
    file, measured = folder / ENGINE, timings / TIMINGS
    if file.exists() and not state.takes_nothing:
        if file.read_bytes() != b"an engine":
            raise RuntimeError(
                "[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP could not deserialize engine from cache"
            )
        return
    state.builds += 1
    state.timings.append(measured.read_bytes() if measured.exists() else b"")
    file.write_bytes(b"an engine")
    file.with_suffix(".profile").write_bytes(b"its shapes")
    measured.write_bytes(b"measured")


class _Session:
    def __init__(self, real: Any, told: dict[str, str], state: State) -> None:
        self._real, self._state = real, state
        self._shapes = [_parsed(told[f"trt_profile_{which}_shapes"]) for which in ("min", "max")]
        assert {item.name for item in real.get_inputs()} == self._shapes[0].keys() == self._shapes[1].keys()

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"] if self._state.loads_nothing else [PROVIDER, "CPUExecutionProvider"]

    def run(self, names: list[str], feed: dict[str, Any]) -> Any:
        for name, array in feed.items():
            least, most = (shapes[name] for shapes in self._shapes)
            assert all(a <= b <= c for a, b, c in zip(least, array.shape, most, strict=True)), "outside of the profile"
        return self._real.run(names, feed)


def _parsed(shapes: str) -> dict[str, tuple[int, ...]]:
    pairs = (item.split(":") for item in shapes.split(","))
    return {name: tuple(map(int, sides.split("x"))) for name, sides in pairs}
