"""torchvision's networks as descriptions: random weights, batch norm statistics and ranges from random images, at any bit widths.

Weights are not trained: only speed and exactness are measured. Batch norm keeps the activations alive.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
import torch
import torchvision
from torch import fx, nn
from torch.fx.experimental.optimization import fuse

from .network import INPUT, Add, Conv, GlobalAveragePool, Grid, Linear, MaxPool, Network, Operation, quantize_weight

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2")
WHOLE_RANGE = 8  # bits: fewer clip the largest activations
KEPT_SHARE = {4: 0.995, 2: 0.95}


@dataclass
class _Layer:
    """An operation of the float network with its activation, by the name of the tensor that it makes."""

    node: fx.Node
    module: nn.Module | None
    inputs: list[str]
    activation: str | None = None
    values: torch.Tensor | None = None


def _activation(node: fx.Node, module: nn.Module | None) -> str | None:
    if isinstance(module, nn.ReLU) or node.target in (torch.relu, nn.functional.relu):
        return "relu"
    return "relu6" if isinstance(module, nn.ReLU6) else None


def _is_skipped(node: fx.Node, module: nn.Module | None) -> bool:
    return isinstance(module, nn.Dropout | nn.Identity) or node.target in (torch.flatten, "flatten")


class FloatNetwork:
    """A network in evaluation mode with batch norm folded, and the values of every tensor for some random images."""

    def __init__(self, name: str, size: int = 224, images: int = 2) -> None:
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None, num_classes=1000)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the average over the batches seen
        x = torch.randn(images, 3, size, size, generator=generator)
        with torch.no_grad():
            model.train()(torch.randn(8, 3, size, size, generator=generator))
            fused = fuse(model.eval())
            values: dict[str, torch.Tensor] = {}

            class Keep(fx.Interpreter):
                def run_node(self, node: fx.Node) -> torch.Tensor:
                    values[node.name] = super().run_node(node)
                    return values[node.name]

            Keep(fused).run(x)
        self.name = name
        self.image = x[:1]
        self.layers: dict[str, _Layer] = {}
        modules = dict(fused.named_modules())
        made_by: dict[fx.Node, str] = {}  # the tensor that a node's result is part of
        for node in fused.graph.nodes:
            module = modules.get(str(node.target)) if node.op == "call_module" else None
            if node.op == "placeholder":
                made_by[node] = INPUT
                self.input_values = values[node.name]
            elif node.op in ("call_module", "call_function", "call_method"):
                before = made_by[node.all_input_nodes[0]]
                if activation := _activation(node, module):
                    self.layers[before].activation = activation
                    self.layers[before].values = values[node.name]
                    made_by[node] = before
                elif _is_skipped(node, module):
                    made_by[node] = before
                else:
                    inputs = [made_by[n] for n in node.all_input_nodes]
                    self.layers[node.name] = _Layer(node, module, inputs, None, values[node.name])
                    made_by[node] = node.name

    def quantized(self, act_bits: int, weight_bits: int, batch: int) -> Network:
        """The first layer's input and weights, the last layer's, and what only an addition reads keep 8 bits."""
        grids: dict[str, Grid] = {INPUT: _grid(self.input_values, 8, None)}
        convolved = {layer.inputs[0] for layer in self.layers.values() if isinstance(layer.module, nn.Conv2d)}
        pooled = {
            layer.inputs[0]: name for name, layer in self.layers.items() if isinstance(layer.module, nn.MaxPool2d)
        }
        convolved |= {x for x, name in pooled.items() if name in convolved}
        operations: list[Operation] = []
        for name, layer in self.layers.items():
            x = layer.inputs[0]
            bits = act_bits if name in convolved else 8
            grids[name] = _grid(layer.values, bits, layer.activation)
            first = x == INPUT
            module, grid = layer.module, grids[name]
            if isinstance(module, nn.Conv2d):
                weight = quantize_weight(_numpy(module.weight), 8 if first else weight_bits)
                window = (module.stride[0], module.padding[0], module.groups)
                operations.append(Conv(name, x, weight, _numpy(module.bias), grid, layer.activation, *window))
            elif isinstance(module, nn.Linear):
                operations.append(Linear(name, x, quantize_weight(_numpy(module.weight), 8), _numpy(module.bias), grid))
            elif isinstance(module, nn.MaxPool2d):
                operations.append(MaxPool(name, x, module.kernel_size, module.stride, module.padding))
                grids[name] = grids[x]
            elif isinstance(module, nn.AdaptiveAvgPool2d) or layer.node.target is nn.functional.adaptive_avg_pool2d:
                operations.append(GlobalAveragePool(name, x, grid))
            elif layer.node.target in (operator.add, operator.iadd, torch.add):
                operations.append(Add(name, x, layer.inputs[1], grid, layer.activation))
            else:
                raise TypeError(f"{self.name}: no description for {layer.node.format_node()}")
        shape = (batch, *self.image.shape[1:])
        return Network(f"{self.name} A{act_bits}W{weight_bits}", shape, grids[INPUT], tuple(operations), real=True)

    def images(self, batch: int) -> np.ndarray:
        return self.image.expand(batch, -1, -1, -1).contiguous().numpy()


def _numpy(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().astype(np.float32)


def _grid(values: torch.Tensor, bits: int, activation: str | None) -> Grid:
    largest = 2**bits - 1
    if activation == "relu6" and bits == WHOLE_RANGE:
        return Grid(6 / largest, 0, bits)
    flat = values.flatten().double()
    if bits in KEPT_SHARE:
        count = flat.numel()
        high = flat.kthvalue(max(1, int(count * KEPT_SHARE[bits]))).values.item()
        low = flat.kthvalue(max(1, int(count * (1 - KEPT_SHARE[bits])))).values.item()
    else:
        low, high = flat.min().item(), flat.max().item()
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / largest))
    return Grid(scale, int(np.clip(round(-low / scale), 0, largest)), bits)
