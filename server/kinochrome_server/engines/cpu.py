"""ONNX Runtime on the CPU: the engine that runs everywhere, and that the others are held against."""

from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt
import onnxruntime

from kinochrome_proto.errors import BadColorizer
from kinochrome_proto.manifest import CHROMA

from ..colorizers import Colorizer
from .interface import Engine, EngineSettings
from .onnx_runtime import open_session, raise_if_of_memory, session_options


class CpuEngine(Engine):
    """Each call runs on its caller's core, and on others as its settings say."""

    name: ClassVar[str] = "cpu"

    @classmethod
    def probe(cls) -> str:
        return f"onnxruntime {onnxruntime.__version__}"

    @classmethod
    def devices(cls) -> list[str]:
        return ["CPU"]

    def __init__(self, colorizer: Colorizer, settings: EngineSettings) -> None:
        super().__init__(colorizer, settings)
        self._path = colorizer.path
        self._session = open_session(colorizer.content, str(colorizer.path), session_options(settings.threads))

    def run(self, luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        try:
            (chroma,) = self._session.run([CHROMA], self._feed(luma))
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise_if_of_memory(error)
            _, height, width = luma.shape
            fault = str(error).partition("\n")[0]
            raise BadColorizer(f"{self._path} cannot paint a picture of {width}x{height}: {fault}") from error
        return cast(npt.NDArray[np.float32], chroma)
