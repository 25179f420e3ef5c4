"""LiteRT (TensorFlow Lite), int8: XNNPACK's kernels."""

from __future__ import annotations

import numpy as np

from harness.engine import UnavailableError
from harness.network import Network


class LiteRtProgram:
    def __init__(self, model: bytes, network: Network, x: np.ndarray, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        from .tflite_model import SHIFT

        self._shift = SHIFT
        self._model = model  # the interpreter only refers to it
        self._interpreter = Interpreter(model_content=model, num_threads=threads)
        self._interpreter.allocate_tensors()
        if network.real:
            stored = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        else:
            stored = (x.astype(np.int16) - SHIFT).astype(np.int8)
        self._interpreter.set_tensor(self._interpreter.get_input_details()[0]["index"], stored)
        self._result = self._interpreter.get_output_details()[0]["index"]
        self.run()

    def run(self) -> None:
        self._interpreter.invoke()

    def output(self) -> np.ndarray:
        y = self._interpreter.get_tensor(self._result)
        return (y.astype(np.int16) + self._shift).astype(np.uint8) if y.dtype == np.int8 else y


class LiteRt:
    is_integer = True
    name = "LiteRT int8"

    def version(self) -> str:
        try:
            import ai_edge_litert.interpreter  # noqa: F401
            import flatbuffers  # noqa: F401
        except ImportError as error:
            raise UnavailableError(str(error)) from None
        from importlib.metadata import version

        return f"LiteRT {version('ai-edge-litert')}"

    def build(self, network: Network, x: np.ndarray, threads: int) -> LiteRtProgram:
        from .tflite_model import tflite_model

        return LiteRtProgram(tflite_model(network), network, x, threads)
