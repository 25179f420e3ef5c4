"""OpenVINO's CPU plugin on the QDQ model that onnxruntime gets."""

from __future__ import annotations

import numpy as np

from harness.engine import UnavailableError
from harness.network import Network


class OpenVinoProgram:
    def __init__(self, model: bytes, x: np.ndarray, threads: int) -> None:
        import openvino

        core = openvino.Core()
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled = core.compile_model(core.read_model(model), "CPU", options)
        self._request = self._compiled.create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(x)))
        self.run()

    def run(self) -> None:
        self._request.infer()

    def output(self) -> np.ndarray:
        return self._request.get_output_tensor().data.copy()


class OpenVino:
    is_integer = True
    name = "OpenVINO int8"

    def version(self) -> str:
        try:
            import onnx  # noqa: F401
            import openvino
        except ImportError as error:
            raise UnavailableError(str(error)) from None
        return f"OpenVINO {openvino.__version__}"

    def build(self, network: Network, x: np.ndarray, threads: int) -> OpenVinoProgram:
        from .onnx_model import onnx_model

        return OpenVinoProgram(onnx_model(network, quantized=True), x, threads)
