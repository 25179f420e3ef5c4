"""onnxruntime: its int8 kernels through a QDQ model, which it turns into QLinear nodes, and float32."""

from __future__ import annotations

import numpy as np

from harness.engine import UnavailableError
from harness.network import Network


class OnnxRuntimeProgram:
    def __init__(self, model: bytes, x: np.ndarray, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._binding.bind_cpu_input("image", np.ascontiguousarray(x))
        (output,) = self._session.get_outputs()
        self._session.run([output.name], {"image": x})
        self._binding.bind_output(output.name, "cpu")
        self.run()

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def output(self) -> np.ndarray:
        return self._binding.copy_outputs_to_cpu()[0]


class OnnxRuntime:
    def __init__(self, quantized: bool) -> None:
        self.is_integer = quantized
        self.name = "onnxruntime int8" if quantized else "onnxruntime float32"

    def version(self) -> str:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise UnavailableError(str(error)) from None
        return f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}"

    def build(self, network: Network, x: np.ndarray, threads: int) -> OnnxRuntimeProgram:
        from .onnx_model import onnx_model

        return OnnxRuntimeProgram(onnx_model(network, quantized=self.is_integer), x, threads)
