"""compare: the codes of a trained model against those of an integer network, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx, nn

from . import nn as qnn
from .network import IntegerNetwork


@dataclass(frozen=True)
class LayerComparison:
    """Codes of one layer."""

    name: str
    compared: int
    differing: int
    largest_difference: int  #: between two codes, or two accumulators
    first_difference: tuple[int, ...] | None  #: index into the layer's output


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`compare`; layers in the order of execution."""

    layers: list[LayerComparison] = field(default_factory=list)

    @property
    def total_codes(self) -> int:
        return sum(layer.compared for layer in self.layers)

    @property
    def differing_codes(self) -> int:
        return sum(layer.differing for layer in self.layers)

    @property
    def first_differing_layer(self) -> str | None:
        return next((layer.name for layer in self.layers if layer.differing), None)

    def __str__(self) -> str:
        width = max([len(layer.name) for layer in self.layers] + [len("layer")])
        lines = [f"{'layer':<{width}}  {'compared':>12}  {'differing':>10}  {'largest':>8}  first difference"]
        for layer in self.layers:
            first = "" if layer.first_difference is None else str(layer.first_difference)
            lines.append(
                f"{layer.name:<{width}}  {layer.compared:>12,}  {layer.differing:>10,}  {layer.largest_difference:>8}  {first}"
            )
        lines.append(f"{'total':<{width}}  {self.total_codes:>12,}  {self.differing_codes:>10,}")
        return "\n".join(lines)


def compare_codes(name: str, a: np.ndarray, b: np.ndarray) -> LayerComparison:
    if a.shape != b.shape:
        raise ValueError(f"compare: layer '{name}' has shape {a.shape} in the model and {b.shape} in the network")
    difference = np.abs(a.astype(np.int64) - b.astype(np.int64))
    differing = int(np.count_nonzero(difference))
    first = tuple(int(i) for i in np.unravel_index(np.argmax(difference != 0), a.shape)) if differing else None
    return LayerComparison(name, a.size, differing, int(difference.max(initial=0)), first)


def compare(
    model: nn.Module, net: IntegerNetwork, *inputs: Tensor, forward: str = "eval", isolate: bool = False
) -> Comparison:
    """Runs both on ``inputs`` and compares the output codes of every layer (accumulators, where a layer has no output quantizer).

    Args:
        model: the prepared model that ``net`` was converted from; its mode and parameters are left as they are.
        net: the integer network.
        forward: ``"eval"`` compares the model's integer forward pass, ``"training"`` its training forward pass with frozen statistics.
        isolate: feed each layer of both the same input codes, those of the model's integer forward pass, so that an error shows in its
            own layer only. Otherwise each runs end to end, and an error spreads to later layers.
    """
    if forward not in ("eval", "training"):
        raise ValueError(f"compare: forward must be 'eval' or 'training', got {forward!r}")
    if not isinstance(model, fx.GraphModule):
        raise TypeError("compare: the model must come from qstep.prepare")
    layers = {m.path: m for m in model.modules() if isinstance(m, qnn.Layer)}
    known = {node.name for node in net.nodes}
    missing = sorted(set(layers) - known)
    if missing:
        raise ValueError(f"compare: the network has no layer '{missing[0]}'; was it converted from this model?")

    training = {m: m.training for m in model.modules()}
    model.eval()
    try:
        if isolate:
            pairs = _isolated(layers, model, net, inputs, forward)
        else:
            pairs = _end_to_end(layers, model, net, inputs, forward)
        return Comparison([compare_codes(name, a, b) for name, a, b in pairs])
    finally:
        for module, mode in training.items():
            module.training = mode


def _record(
    layers: dict[str, qnn.Layer], model: nn.Module, inputs: tuple[Tensor, ...], gradients: bool
) -> dict[str, tuple[tuple[Tensor, ...], Tensor]]:
    """Inputs and output of every layer in one forward pass."""
    seen: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}
    handles = [
        layer.register_forward_hook(lambda _, args, out, name=name: seen.__setitem__(name, (args, out.detach())))
        for name, layer in layers.items()
    ]
    try:
        with torch.set_grad_enabled(gradients):
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _codes(layer: qnn.Layer, args: tuple[Tensor, ...], output: Tensor, integer: bool) -> np.ndarray:
    """Codes of a layer's output; of a last layer the accumulators, which the training forward holds scaled."""
    if layer.output_quantizer is not None:
        return layer.output_quantizer.encode(output).cpu().numpy()
    accumulators = layer.integer_codes(*args)
    if integer:
        return accumulators.numpy()
    scales = layer.accumulator_scales(output.device)
    return torch.round(output.double() / scales).long().cpu().numpy()


def _end_to_end(layers, model, net, inputs, forward):  # type: ignore[no-untyped-def]
    captured = net.capture(*inputs)
    with torch.no_grad():
        for name, (args, output) in _record(layers, model, inputs, forward == "training").items():
            yield name, _codes(layers[name], args, output, forward == "eval"), captured[name]


def _isolated(layers, model, net, inputs, forward):  # type: ignore[no-untyped-def]
    for name, (args, output) in _record(layers, model, inputs, False).items():
        layer = layers[name]
        if isinstance(layer, qnn.Quantize):
            codes = net.run_layer(name, args[0].float().cpu().numpy())
        else:
            with torch.no_grad():
                codes = net.run_layer(
                    name, *(q.encode(a).cpu().numpy() for q, a in zip(layer._inputs, args, strict=True))
                )
        if forward == "training":
            with torch.enable_grad():
                output = layer(*args).detach()
        with torch.no_grad():
            yield name, _codes(layer, args, output, forward == "eval"), codes
