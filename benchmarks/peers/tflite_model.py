"""A description as a TensorFlow Lite model, int8, written with LiteRT's own schema: no TensorFlow is needed.

TensorFlow Lite has signed codes: every code and zero point here is 128 less than in the description. Images are [N, H, W, C].
"""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from harness.network import INPUT, Add, Conv, GlobalAveragePool, Grid, Linear, MaxPool, Network, Operation

ACTIVATIONS = {
    None: schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}
Op = schema.BuiltinOperator
Options = schema.BuiltinOptions
TYPES = {np.int8: schema.TensorType.INT8, np.int32: schema.TensorType.INT32, np.float32: schema.TensorType.FLOAT32}
VERSIONS = {Op.CONV_2D: 3, Op.DEPTHWISE_CONV_2D: 3, Op.FULLY_CONNECTED: 4, Op.ADD: 2, Op.MAX_POOL_2D: 2, Op.MEAN: 2,
            Op.PAD: 2, Op.DEQUANTIZE: 2}  # fmt: skip
SHIFT = 128


class _Writer:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.buffers = [schema.BufferT()]  # the first one is empty: tensors without data refer to it
        self.codes: list[int] = []  # of operators
        self.tensors: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def tensor(self, name: str, kind: type, shape: tuple[int, ...], scale=None, zero_point=0, axis=0, data=None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.shape, tensor.buffer = name, TYPES[kind], list(shape), 0
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = [float(s) for s in np.atleast_1d(scale)]
            tensor.quantization.zeroPoint = [int(zero_point)] * len(tensor.quantization.scale)
            tensor.quantization.quantizedDimension = axis
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, kind).tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        self.tensors[name], self.shapes[name] = len(self.graph.tensors) - 1, tuple(shape)
        return self.tensors[name]

    def activations(self, name: str, shape: tuple[int, ...], grid: Grid) -> int:
        return self.tensor(name, np.int8, shape, grid.scale, grid.zero_point - SHIFT)

    def operator(
        self, kind: int, inputs: list[int], output: int, options_type: int = Options.NONE, **fields: int
    ) -> None:
        operator = schema.OperatorT()
        if kind not in self.codes:
            self.codes.append(kind)
        operator.opcodeIndex = self.codes.index(kind)
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptionsType = options_type
        if options_type != Options.NONE:
            name = next(key for key, value in vars(Options).items() if value == options_type)
            operator.builtinOptions = getattr(schema, f"{name}T")()
            for key, value in fields.items():
                setattr(operator.builtinOptions, key, value)
        self.graph.operators.append(operator)

    def padded(self, name: str, x: str, padding: int, grid: Grid) -> str:
        n, h, w, c = self.shapes[x]
        widths = self.tensor(f"{name}.widths", np.int32, (4, 2), data=[[0, 0], [padding] * 2, [padding] * 2, [0, 0]])
        output = self.activations(f"{name}.padded", (n, h + 2 * padding, w + 2 * padding, c), grid)
        self.operator(Op.PAD, [self.tensors[x], widths], output, Options.PadOptions)
        return f"{name}.padded"

    def window(self, name: str, x: str, kernel: int, stride: int, padding: int, grid: Grid) -> tuple[str, int, int]:
        """Input, kind of padding, size of the output. SAME pads as PyTorch does where the stride is 1; elsewhere PAD does it."""
        size = (self.shapes[x][1] + 2 * padding - kernel) // stride + 1
        if padding == 0:
            return x, schema.Padding.VALID, size
        if stride == 1 and padding == kernel // 2:
            return x, schema.Padding.SAME, size
        return self.padded(name, x, padding, grid), schema.Padding.VALID, size

    def append(self, op: Operation, grids: dict[str, Grid]) -> None:
        x_grid = grids[op.x]
        batch = self.shapes[op.x][0]
        if isinstance(op, Conv | Linear):
            codes, scale = op.weight.codes, op.weight.scale
            unit = np.float32(x_grid.scale) * scale
            bias = self.tensor(f"{op.name}.bias", np.int32, (len(scale),), unit, data=np.rint(op.bias / unit))
        match op:
            case Conv():
                x, kind, size = self.window(op.name, op.x, codes.shape[2], op.stride, op.padding, x_grid)
                depthwise = op.groups > 1
                stored = codes.transpose(1, 2, 3, 0) if depthwise else codes.transpose(0, 2, 3, 1)
                axis = 3 if depthwise else 0
                weight = self.tensor(f"{op.name}.weight", np.int8, stored.shape, scale, axis=axis, data=stored)
                output = self.activations(op.name, (batch, size, size, len(scale)), op.grid)
                fields = {"padding": kind, "strideW": op.stride, "strideH": op.stride}
                if depthwise:
                    fields["depthMultiplier"] = 1
                fields["fusedActivationFunction"] = ACTIVATIONS[op.activation]
                options = Options.DepthwiseConv2DOptions if depthwise else Options.Conv2DOptions
                operator = Op.DEPTHWISE_CONV_2D if depthwise else Op.CONV_2D
                self.operator(operator, [self.tensors[x], weight, bias], output, options, **fields)
            case Linear():
                weight = self.tensor(f"{op.name}.weight", np.int8, codes.shape, scale, data=codes)
                output = self.activations(op.name, (batch, len(scale)), op.grid)
                self.operator(
                    Op.FULLY_CONNECTED, [self.tensors[op.x], weight, bias], output, Options.FullyConnectedOptions
                )
            case Add():
                output = self.activations(op.name, self.shapes[op.x], op.grid)
                inputs = [self.tensors[op.x], self.tensors[op.other]]
                activation = ACTIVATIONS[op.activation]
                self.operator(Op.ADD, inputs, output, Options.AddOptions, fusedActivationFunction=activation)
            case MaxPool():
                x, kind, size = self.window(op.name, op.x, op.kernel, op.stride, op.padding, x_grid)
                output = self.activations(op.name, (batch, size, size, self.shapes[op.x][3]), x_grid)
                fields = {
                    "filterWidth": op.kernel,
                    "filterHeight": op.kernel,
                    "strideW": op.stride,
                    "strideH": op.stride,
                }
                self.operator(Op.MAX_POOL_2D, [self.tensors[x]], output, Options.Pool2DOptions, padding=kind, **fields)
            case GlobalAveragePool():
                axes = self.tensor(f"{op.name}.axes", np.int32, (2,), data=[1, 2])
                output = self.activations(op.name, (batch, self.shapes[op.x][3]), op.grid)
                self.operator(Op.MEAN, [self.tensors[op.x], axes], output, Options.ReducerOptions)

    def model(self) -> bytes:
        network = self.network
        shape = tuple(network.shape[i] for i in (0, 2, 3, 1)) if network.is_image else network.shape
        if network.real:
            entry = self.tensor("image", np.float32, shape)
            self.operator(Op.QUANTIZE, [entry], self.activations(INPUT, shape, network.grid))
        else:
            entry = self.activations(INPUT, shape, network.grid)
        grids = network.grids()
        for op in network.operations:
            self.append(op, grids)
        result = self.tensors[network.output.name]
        if network.real:
            codes, result = result, self.tensor("real", np.float32, self.shapes[network.output.name])
            self.operator(Op.DEQUANTIZE, [codes], result)
        self.graph.inputs, self.graph.outputs = [entry], [result]
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [self.graph], self.buffers
        model.operatorCodes = [self.code(kind) for kind in self.codes]
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    @staticmethod
    def code(kind: int) -> schema.OperatorCodeT:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), VERSIONS.get(kind, 1)
        return code


def tflite_model(network: Network) -> bytes:
    return _Writer(network).model()
