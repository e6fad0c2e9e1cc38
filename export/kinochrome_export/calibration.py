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
        self._feeds = feeds
        self.set_range(0, len(feeds))

    def __len__(self) -> int:
        return len(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Draw these from now on: calibration wants a few at a time."""
        self._drawn = iter(self._feeds[start_index:end_index])

    def get_next(self) -> Feed | None:
        return next(self._drawn, None)


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
