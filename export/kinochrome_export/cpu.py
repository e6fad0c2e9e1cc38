"""ONNX Runtime on the CPU, as colorizers run there."""

import onnxruntime


def session(content: bytes, *, optimized: bool = True, threads: int = 1) -> onnxruntime.InferenceSession:
    """A model on `threads` threads; without optimization, each of its operators runs as it is written."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what goes wrong is raised
    # Spinning threads would take the share of the cores of whatever runs besides.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
