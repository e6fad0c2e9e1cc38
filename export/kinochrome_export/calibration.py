"""What values a network takes over pictures, by ONNX Runtime's calibration."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

Feed = dict[str, npt.NDArray[Any]]
"""A graph's inputs by name."""


class Feeds(CalibrationDataReader):  # type: ignore[misc]
    """What calibration draws from."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def reach(model: onnx.ModelProto, feeds: Sequence[Feed]) -> dict[str, float]:
    """The largest magnitude of every value of a network in fp32, by the value's name."""
    with tempfile.TemporaryDirectory() as folder:
        file, augmented = (Path(folder) / name for name in ("model.onnx", "augmented.onnx"))
        onnx.save(model, file)
        calibrator = create_calibrator(
            file, None, str(augmented), CalibrationMethod.MinMax, extra_options={"symmetric": True}
        )
        calibrator.collect_data(Feeds(feeds))
        ranges = calibrator.compute_data()
    return {name: float(np.max(ranges[name].range_value[1])) for name in ranges}
