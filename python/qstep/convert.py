"""convert: from a prepared network to the integer network."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as tF
from torch import fx, nn

from . import _C
from . import nn as qnn
from .network import IntegerNetwork
from .operations import UnsupportedError, arguments_of, is_dropout, pair


class _Conversion(fx.Interpreter):
    """Walks the prepared graph; every tensor is the id of a value in the integer graph."""

    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__(model)
        (policy,) = {m.policy for m in model.modules() if isinstance(m, qnn.Layer)}
        self.builder = _C.Builder(policy)

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module":
            module = self.fetch_attr(str(n.target))
            if isinstance(module, qnn.Layer):
                values = [self.env[a] for a in n.args if isinstance(a, fx.Node)]  # x + x lists x twice
                shape = n.all_input_nodes[0].meta["tensor_meta"].shape
                return module.lower(self.builder, module.path, values, list(shape))
        if n.op == "output":
            return self._output(n)
        if n.op == "placeholder":
            return self.builder.input(n.name, list(n.meta["tensor_meta"].shape))
        if "tensor_meta" not in n.meta:
            return None  # sizes: the shapes in the meta data say it all
        return self._movement(n)

    def _output(self, node: fx.Node) -> None:
        outputs = node.args[0] if isinstance(node.args[0], tuple | list) else (node.args[0],)
        for output in outputs:
            if not isinstance(output, fx.Node):
                raise UnsupportedError(
                    f"convert: the network returns {type(output).__name__}; only tensors and tuples of them can be exported"
                )
            name = "output" if len(outputs) == 1 else f"output.{output.name}"
            self.builder.output(self.builder.dequantize(name, self.env[output]))

    def _movement(self, node: fx.Node) -> Any:
        module = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        source = node.all_input_nodes[0]
        x = self.env[source]
        name = node.name
        args, kwargs = arguments_of(node)
        if node.target is operator.getitem:
            return self._part(node, source, x)
        if isinstance(module, qnn.Pad):
            return self._pad(node, module.padding, x)
        if isinstance(module, nn.MaxPool2d) or node.target in (tF.max_pool2d, torch.max_pool2d):
            return self._max_pool(node, module, x)
        if isinstance(module, nn.Identity) or is_dropout(node, module) or node.target in ("contiguous", "clone"):
            return x
        if node.target in (torch.chunk, "chunk", torch.split, "split"):
            axis = args[2] if len(args) > 2 else kwargs.get("dim", 0)
            return ("parts", x, int(axis), [m.shape for m in node.meta["tensor_meta"]])  # type: ignore[arg-type]
        shape = list(node.meta["tensor_meta"].shape)
        before = list(source.meta["tensor_meta"].shape)
        if node.target in (torch.permute, "permute"):
            order = args[1] if isinstance(args[1], tuple | list) else args[1:]
            return self.builder.permute(name, x, [int(d) % len(before) for d in order])  # type: ignore[arg-type]
        if node.target in (torch.transpose, "transpose"):
            order = list(range(len(before)))
            first, second = (int(d) % len(before) for d in args[1:3])  # type: ignore[arg-type]
            order[first], order[second] = order[second], order[first]
            return self.builder.permute(name, x, order)
        if isinstance(module, nn.PixelShuffle):
            return self._pixel_shuffle(name, x, before, module.upscale_factor)
        if isinstance(module, nn.ChannelShuffle):
            groups = module.groups
            split = self.builder.reshape(f"{name}.groups", x, [0, groups, before[1] // groups, *before[2:]])
            swapped = self.builder.permute(f"{name}.swapped", split, [0, 2, 1, 3, 4])
            return self.builder.reshape(name, swapped, [0, before[1], *before[2:]])
        return self.builder.reshape(name, x, _reshape_target(before, shape))

    def _part(self, node: fx.Node, source: fx.Node, x: Any) -> Any:
        index = arguments_of(node)[0][1]
        if isinstance(x, tuple) and x[0] == "parts" and isinstance(index, int):
            _, whole, axis, shapes = x
            index %= len(shapes)
            start = sum(s[axis] for s in shapes[:index])
            return self.builder.slice(node.name, whole, axis % len(shapes[0]), start, start + shapes[index][axis])
        shape = source.meta["tensor_meta"].shape
        entries = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in entries:
            at = entries.index(Ellipsis)
            entries[at : at + 1] = [slice(None)] * (len(shape) - len(entries) + 1)
        for axis, entry in enumerate(entries):
            if entry == slice(None):
                continue
            if not isinstance(entry, slice) or not all(
                isinstance(e, int | None) for e in (entry.start, entry.stop, entry.step)
            ):
                raise UnsupportedError(
                    f"convert: node '{node.name}': only slices with constant bounds and steps can be exported, got {index}"
                )
            start, stop, step = entry.indices(shape[axis])
            if stop <= start:
                raise UnsupportedError(f"convert: node '{node.name}': the slice {index} is empty")
            x = self.builder.slice(f"{node.name}.{axis}", x, axis, start, stop, step)
        return x

    def _pad(self, node: fx.Node, padding: Sequence[int], x: int) -> int:
        if min(padding, default=0) < 0:
            raise UnsupportedError(f"convert: node '{node.name}': padding must be at least 0, got {tuple(padding)}")
        rank = len(node.meta["tensor_meta"].shape)
        widths = [0] * (2 * rank - len(padding)) + [
            width for i in reversed(range(0, len(padding), 2)) for width in padding[i : i + 2]
        ]  # (before, after) from the first dimension on; torch counts from the last
        return self.builder.pad(node.name, x, widths[::2], widths[1::2])

    def _max_pool(self, node: fx.Node, module: nn.Module | None, x: int) -> int:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        if module is not None:
            options = {k: getattr(module, k) for k in names}
        else:
            args, kwargs = arguments_of(node)
            options = {**dict(zip(names, args[1:], strict=False)), **kwargs}
        kernel = pair(options["kernel_size"])
        stride = pair(options.get("stride") or kernel)
        padding = pair(options.get("padding", 0))
        window = _C.Window(kernel, stride, (*padding, *padding), pair(options.get("dilation", 1)))
        return self.builder.max_pool2d(node.name, x, window, bool(options.get("ceil_mode", False)))

    def _pixel_shuffle(self, name: str, x: int, before: list[int], factor: int) -> int:
        _, channels, height, width = before
        split = self.builder.reshape(f"{name}.factors", x, [0, channels // factor**2, factor, factor, height, width])
        swapped = self.builder.permute(f"{name}.swapped", split, [0, 1, 4, 2, 5, 3])
        return self.builder.reshape(name, swapped, [0, channels // factor**2, height * factor, width * factor])


def _reshape_target(before: list[int], after: list[int]) -> list[int]:
    """The target with 0 for the batch and, where one other dimension is left, -1: the exported network then takes other sizes too."""
    target = list(after)
    if before and after and before[0] == after[0]:
        target[0] = 0
    if len(target) == 2 and target[0] == 0:
        target[1] = -1
    return target


@torch.no_grad()
def convert(model: fx.GraphModule) -> IntegerNetwork:
    """The integer network of a prepared and calibrated (trained) model: the codes that ``model.eval()`` computes, without torch.

    Args:
        model: what :func:`qstep.prepare` returned. It is not changed, and converts the same in training and evaluation mode.

    Raises:
        RuntimeError: a quantizer was never calibrated; the message names it.
        UnsupportedError: an operation between the layers cannot be exported; the message names it.
        qstep.Error: numbers that no integer network can hold, for example a NaN scale; the message names the layer.
    """
    if not isinstance(model, fx.GraphModule) or not any(isinstance(m, qnn.Layer) for m in model.modules()):
        raise TypeError("convert: the model must come from qstep.prepare")
    conversion = _Conversion(model)
    for node in model.graph.nodes:  # not Interpreter.run: the inputs are values of the graph, not arguments
        conversion.env[node] = conversion.run_node(node)
    return IntegerNetwork(_C.IntegerNetwork(conversion.builder.finish()))
