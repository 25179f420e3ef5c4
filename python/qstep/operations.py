"""What an operation of a traced network is: an activation function, a movement of values, an arithmetic on sizes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as tF
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from . import nn as qnn


class UnsupportedError(NotImplementedError):
    """The network contains an operation that has no integer definition here."""


ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
MULTIPLY = {operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply"}
CONCAT = {torch.cat, torch.concat}
MEAN = {torch.mean, "mean"}
_MOVEMENT_MODULES = (
    nn.MaxPool2d,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.PixelShuffle,
    nn.ChannelShuffle,
    nn.ZeroPad2d,
    nn.ConstantPad2d,
    qnn.Pad,
    qnn.RandomDrop,
)
_MOVEMENT = {
    torch.flatten, "flatten", torch.reshape, "reshape", "view", torch.permute, "permute", torch.transpose, "transpose", "contiguous",
    torch.chunk, "chunk", torch.split, "split", operator.getitem, tF.max_pool2d, torch.max_pool2d,
    torch.squeeze, "squeeze", torch.unsqueeze, "unsqueeze", "unflatten", "clone", tF.pad,
}  # fmt: skip
_DROPOUTS = {"dropout", "dropout2d", "stochastic_depth"}  # by name: the last is torchvision's
SIZES = {getattr, "size", "dim"}


def activation_of(node: fx.Node, modules: dict[str, nn.Module]) -> qnn.Activation | None:
    """The activation function that a node applies, if it is one."""
    if node.op == "call_module":
        return _activation_of_module(modules[str(node.target)])
    if node.op not in ("call_function", "call_method"):
        return None
    target = node.target
    simple = {
        tF.relu: "relu", torch.relu: "relu", torch.relu_: "relu", "relu": "relu", "relu_": "relu", tF.relu_: "relu",
        tF.silu: "silu", tF.sigmoid: "sigmoid", torch.sigmoid: "sigmoid", "sigmoid": "sigmoid", "sigmoid_": "sigmoid",
        tF.hardswish: "hardswish", tF.hardsigmoid: "hardsigmoid", tF.tanh: "tanh", torch.tanh: "tanh", "tanh": "tanh",
    }  # fmt: skip
    if target in simple:
        return _named_activation(simple[target])
    if target is tF.relu6:
        return qnn.clamp(0.0, 6.0)
    arguments = list(node.args[1:])

    def argument(position: int, name: str, default: Any) -> Any:
        return arguments[position] if len(arguments) > position else node.kwargs.get(name, default)

    if target is tF.hardtanh:
        return qnn.clamp(float(argument(0, "min_val", -1.0)), float(argument(1, "max_val", 1.0)))
    if target in (torch.clamp, "clamp", "clamp_"):
        low, high = argument(0, "min", None), argument(1, "max", None)
        if all(bound is None or isinstance(bound, int | float) for bound in (low, high)):
            return qnn.clamp(
                float("-inf") if low is None else float(low), float("inf") if high is None else float(high)
            )
        return None
    if target is tF.gelu and argument(0, "approximate", "none") == "none":
        return _named_activation("gelu")
    if target is tF.leaky_relu:
        return qnn.Activation("leaky_relu", (float(argument(0, "negative_slope", 0.01)),))
    if target is tF.elu:
        return qnn.Activation("elu", (float(argument(0, "alpha", 1.0)),))
    return None


def _activation_of_module(module: nn.Module) -> qnn.Activation | None:
    match module:
        case nn.ReLU6():
            return qnn.clamp(0.0, 6.0)
        case nn.Hardtanh():
            return qnn.clamp(float(module.min_val), float(module.max_val))
        case nn.ReLU():
            return qnn.RELU
        case nn.SiLU():
            return _named_activation("silu")
        case nn.Sigmoid():
            return _named_activation("sigmoid")
        case nn.Hardswish():
            return _named_activation("hardswish")
        case nn.Hardsigmoid():
            return _named_activation("hardsigmoid")
        case nn.Tanh():
            return _named_activation("tanh")
        case nn.GELU() if module.approximate == "none":
            return _named_activation("gelu")
        case nn.LeakyReLU():
            return qnn.Activation("leaky_relu", (float(module.negative_slope),))
        case nn.ELU():
            return qnn.Activation("elu", (float(module.alpha),))
    return None


def _named_activation(name: str) -> qnn.Activation:
    # SiLU and hard-swish dip below zero but are what LSQ+ calls unsigned: configuration 1 clips them.
    return qnn.RELU if name == "relu" else qnn.Activation(name, nonnegative=name != "tanh")


def is_dropout(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node drops values at random in training and is the identity otherwise."""
    return (
        isinstance(module, nn.Dropout | nn.Dropout2d | qnn.RandomDrop)
        or getattr(node.target, "__name__", "") in _DROPOUTS
    )


def is_movement(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node passes values on without computing new ones; ``module`` is what a call_module node calls."""
    if node.op == "call_module":
        return isinstance(module, _MOVEMENT_MODULES)
    return node.op in ("call_function", "call_method") and (node.target in _MOVEMENT or is_dropout(node, None))


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def padding_of(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """(top, left, bottom, right)."""
    if conv.padding == "valid":
        return (0, 0, 0, 0)
    if conv.padding == "same":
        total = [d * (k - 1) for d, k in zip(pair(conv.dilation), pair(conv.kernel_size), strict=True)]
        top, left = total[0] // 2, total[1] // 2
        return (top, left, total[0] - top, total[1] - left)
    vertical, horizontal = pair(conv.padding)  # type: ignore[arg-type]
    return (vertical, horizontal, vertical, horizontal)


def arguments_of(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments, with the values of sizes in place of the nodes that compute them."""

    def value(n: fx.Node) -> Any:
        return n.meta.get("constant", n)

    return fx.node.map_arg(node.args, value), fx.node.map_arg(node.kwargs, value)  # type: ignore[return-value]


class ShapesAndSizes(ShapeProp):
    """Notes the shape of every tensor and the value of everything else, such as ``x.size(3)``."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if "tensor_meta" not in n.meta:
            n.meta["constant"] = result
        return result
