"""The engines that qstep is compared with. Each is a module; all take the same description of a network."""

from .lite_rt import LiteRt
from .onnx_runtime import OnnxRuntime
from .open_vino import OpenVino
from .torch_float import TorchFloat
from .torch_int8 import TorchInt8

PEERS = [
    OnnxRuntime(quantized=True),
    OpenVino(),
    TorchInt8("onednn"),
    TorchInt8("fbgemm"),
    LiteRt(),
    TorchFloat(),
    OnnxRuntime(quantized=False),
]
