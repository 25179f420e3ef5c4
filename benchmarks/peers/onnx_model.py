"""A description as an ONNX model: quantize and dequantize nodes around float operations (QDQ), or the plain float network."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from harness.network import INPUT, Add, Conv, GlobalAveragePool, Grid, Linear, MaxPool, Network, Operation, Weight

CHANNELS_FIRST = [0, 3, 1, 2]
CHANNELS_LAST = [0, 2, 3, 1]
OPSET = 17


class _Writer:
    def __init__(self, network: Network, quantized: bool) -> None:
        self.network = network
        self.quantized = quantized
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def grid(self, name: str, grid: Grid) -> list[str]:
        return [
            self.constant(f"{name}.scale", np.float32(grid.scale)),
            self.constant(f"{name}.zero_point", np.uint8(grid.zero_point)),
        ]

    def codes(self, x: str, name: str, grid: Grid) -> str:
        return self.node("QuantizeLinear", [x, *self.grid(f"{name}.codes", grid)], f"{name}.codes")

    def values(self, codes: str, name: str, grid: Grid) -> str:
        return self.node("DequantizeLinear", [codes, *self.grid(name, grid)], name)

    def weight(self, name: str, weight: Weight) -> str:
        if not self.quantized:
            return self.constant(f"{name}.weight", weight.real)
        inputs = [
            self.constant(f"{name}.weight.codes", weight.codes.astype(np.int8)),
            self.constant(f"{name}.weight.scale", weight.scale.astype(np.float32)),
            self.constant(f"{name}.weight.zero_point", np.zeros(len(weight.scale), np.int8)),
        ]
        return self.node("DequantizeLinear", inputs, f"{name}.weight", axis=0)

    def bias(self, name: str, bias: np.ndarray, x: Grid, weight: Weight) -> str:
        if not self.quantized:
            return self.constant(f"{name}.bias", bias.astype(np.float32))
        unit = (np.float32(x.scale) * weight.scale).astype(np.float32)
        inputs = [
            self.constant(f"{name}.bias.codes", np.rint(bias / unit).astype(np.int32)),
            self.constant(f"{name}.bias.scale", unit),
            self.constant(f"{name}.bias.zero_point", np.zeros(len(unit), np.int32)),
        ]
        return self.node("DequantizeLinear", inputs, f"{name}.bias", axis=0)

    def activation(self, y: str, name: str, activation: str | None) -> str:
        if activation == "relu":
            return self.node("Relu", [y], f"{name}.relu")
        if activation == "relu6":
            limits = [self.constant(f"{name}.{k}", np.float32(v)) for k, v in (("low", 0), ("high", 6))]
            return self.node("Clip", [y, *limits], f"{name}.relu6")
        return y

    def append(self, op: Operation, grids: dict[str, Grid | None]) -> str:
        match op:
            case Conv():
                inputs = [op.x, self.weight(op.name, op.weight), self.bias(op.name, op.bias, grids[op.x], op.weight)]
                window = {"pads": [op.padding] * 4, "strides": [op.stride] * 2, "group": op.groups}
                y = self.node("Conv", inputs, f"{op.name}.conv", **window)
                return self.activation(y, op.name, op.activation)
            case Linear():
                inputs = [op.x, self.weight(op.name, op.weight), self.bias(op.name, op.bias, grids[op.x], op.weight)]
                return self.node("Gemm", inputs, f"{op.name}.gemm", transB=1)
            case Add():
                return self.activation(self.node("Add", [op.x, op.other], f"{op.name}.sum"), op.name, op.activation)
            case MaxPool():
                window = {"kernel_shape": [op.kernel] * 2, "strides": [op.stride] * 2, "pads": [op.padding] * 4}
                return self.node("MaxPool", [op.x], f"{op.name}.max", **window)
            case GlobalAveragePool():
                pooled = self.node("GlobalAveragePool", [op.x], f"{op.name}.pooled")
                if self.quantized:
                    pooled = self.values(self.codes(pooled, f"{op.name}.pooled", op.grid), f"{op.name}.values", op.grid)
                return self.node("Flatten", [pooled], f"{op.name}.flat")

    def model(self) -> bytes:
        network = self.network
        grids = network.grids()
        shape = list(network.shape)
        kind = TensorProto.FLOAT
        name = "image"
        if self.quantized and not network.real:
            kind = TensorProto.UINT8
            if network.is_image:
                shape = [shape[i] for i in CHANNELS_LAST]
                self.node("Transpose", [self.values(name, "image.values", network.grid)], INPUT, perm=CHANNELS_FIRST)
            else:
                self.values(name, INPUT, network.grid)
        elif self.quantized:
            self.values(self.codes(name, INPUT, network.grid), INPUT, network.grid)
        else:
            self.node("Identity", [name], INPUT)
        for op in network.operations:
            y = self.append(op, grids)
            grid = grids[op.name]
            if not self.quantized:
                self.node("Identity", [y], op.name)
            elif op is network.output and not network.real:
                if network.is_image:
                    y = self.node("Transpose", [y], f"{op.name}.stored", perm=CHANNELS_LAST)
                self.codes(y, op.name, grid)
            else:
                self.values(self.codes(y, op.name, grid), op.name, grid)
        output = network.output.name
        if self.quantized and not network.real:
            output = f"{output}.codes"
        graph = helper.make_graph(
            self.nodes,
            network.name,
            [helper.make_tensor_value_info("image", kind, shape)],
            [helper.make_tensor_value_info(output, kind, None)],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        return model.SerializeToString()


def onnx_model(network: Network, *, quantized: bool) -> bytes:
    return _Writer(network, quantized).model()
