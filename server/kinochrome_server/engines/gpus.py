"""The NVIDIA GPUs of this machine, by their driver's own interface; nothing but the driver need be installed."""

import ctypes

from .interface import Unusable

DRIVER = "libcuda.so.1"
_NAME_BYTES = 256


def gpus(engine: str) -> list[str]:
    """Names of the GPUs, in CUDA's order: ["NVIDIA H100 80GB HBM3 (0)"].

    Args:
        engine: the word for --engine of whoever asks, for the message.

    Raises Unusable where there is none.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        raise Unusable(
            f"--engine {engine}: this machine has no NVIDIA driver ({DRIVER}): install it, or use --engine cpu"
        ) from None
    count, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    if fault := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        raise Unusable(
            f"--engine {engine}: the NVIDIA driver finds no GPU that works (CUDA error {fault}): "
            "see what nvidia-smi says, or use --engine cpu"
        )
    names = []
    for number in range(count.value):
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceGetName(name, _NAME_BYTES, device)
        names.append(f"{name.value.decode(errors='replace')} ({number})")
    if not names:
        raise Unusable(f"--engine {engine}: the NVIDIA driver finds no GPU: use --engine cpu")
    return names
