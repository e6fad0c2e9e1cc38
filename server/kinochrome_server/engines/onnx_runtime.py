"""What the engines that stand on ONNX Runtime share: sessions, and its errors in our words."""

from collections.abc import Mapping, Sequence

import onnxruntime

from kinochrome_proto.errors import BadColorizer

_NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "out of memory", "MemoryAllocation", "ALLOC_FAILED")


def session_options(threads: int = 1) -> onnxruntime.SessionOptions:
    """Quiet, with `threads` threads on the CPU that do not spin."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, in our words
    # Spinning threads would take the codec's share of the cores while they wait.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(
    content: bytes,
    name: str,
    options: onnxruntime.SessionOptions,
    providers: Sequence[tuple[str, Mapping[str, str]]] = (("CPUExecutionProvider", {}),),
) -> onnxruntime.InferenceSession:
    """A session on a model's bytes: by its path, ONNX Runtime would read files that the model names beside it.

    Args:
        content: of the .onnx file.
        name: of it, for the message.
        options: of the session.
        providers: those that may run its operators, the preferred first, and what each is told.

    Raises BadColorizer when the bytes are no usable model, MemoryError.
    """
    try:
        # Its own fall-back would go to other providers, now or when a run fails, and only print that it did.
        return onnxruntime.InferenceSession(
            content, options, providers=[name for name, _ in providers],
            provider_options=[dict(told) for _, told in providers], enable_fallback=0,
        )  # fmt: skip
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        raise_if_of_memory(error)
        fault = str(error).splitlines()[0]
        raise BadColorizer(f"{name} cannot be loaded as an ONNX model: {fault}") from None


def raise_if_of_memory(error: Exception) -> None:
    """Raise MemoryError where that is what ONNX Runtime's error says."""
    if any(words in str(error) for words in _NO_MEMORY):
        raise MemoryError from None
