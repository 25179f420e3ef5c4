"""summary: one line per layer of a prepared model or an integer network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from . import nn as qnn
from ._text import table
from .network import IntegerNetwork
from .operations import is_movement


@dataclass(frozen=True)
class Row:
    """One layer. Empty strings where a column does not apply."""

    layer: str
    kind: str
    method: str = ""
    weights: str = ""  #: of an integer network: their encoding
    bits: str = ""  #: weight bits / output bits; W8A4
    scale: str = ""  #: of the output
    shape: str = ""
    bytes: int | None = None  #: of packed weights, with the tables that their codes refer to
    kernel: str = ""


@dataclass(frozen=True)
class Summary:
    """A table that prints; ``rows`` for programs."""

    rows: list[Row]
    footer: str

    def __str__(self) -> str:
        head = ["layer", "kind", "method", "weights", "bits", "scale", "shape", "bytes", "kernel"]
        return table(head, [[getattr(row, name) for name in head] for row in self.rows]) + "\n" + self.footer

    __repr__ = __str__


def _bits(weight: int | None, act: int | None) -> str:
    return (f"W{weight}" if weight else "") + (f"A{act}" if act else "")


def _summary_of_model(model: fx.GraphModule) -> Summary:
    rows = []
    quantized = moved = real = 0
    modules = dict(model.named_modules())
    for node in model.graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, qnn.Layer):
            quantized += 1
            rows.append(_row_of_layer(layer, node))
        elif node.op not in ("placeholder", "output", "get_attr") and "tensor_meta" in node.meta:
            movement = is_movement(node, layer)
            moved, real = moved + movement, real + (not movement)
            kind = "moves codes" if movement else "floating point"
            rows.append(Row(str(node.target) if layer is not None else node.name, kind, shape=_shape(node)))
    coverage = 100 * (quantized + moved) // max(1, quantized + moved + real)
    footer = f"{quantized} quantized layers, {moved} operations that only move codes, {real} in floating point: coverage {coverage} %"
    return Summary(rows, footer)


def _shape(node: fx.Node) -> str:
    meta = node.meta.get("tensor_meta")
    return "x".join(map(str, meta.shape)) if meta is not None and hasattr(meta, "shape") else ""


def _row_of_layer(layer: qnn.Layer, node: fx.Node) -> Row:
    output = layer.output_quantizer
    weight = getattr(layer, "weight_quantizer", None)
    methods = [q.method for q in (weight, output) if q is not None]
    kind = type(layer).__name__
    if isinstance(layer, qnn.AffineLayer) and layer.batch_norm is not None:
        kind += " + batch norm (folded)" if layer.fold else " + batch norm"
    if layer.activation is not None:
        kind += f" {layer.activation}" if isinstance(layer, qnn.Elementwise) else f" + {layer.activation}"
    return Row(
        layer=layer.path,
        kind=kind,
        method="/".join(dict.fromkeys(methods)),
        bits=_bits(weight.bit_width if weight else None, output.bit_width if output else None),
        scale=(
            "real-valued"
            if output is None or not output.has_grid
            else f"{output.scale.item():.4g}"
            if output.ready
            else "not calibrated"
        ),
        shape=_shape(node),
        bytes=None if weight is None else -(-layer.weight.numel() * weight.stored_bits // 8),  # type: ignore[union-attr, operator]
    )


def _summary_of_network(net: IntegerNetwork) -> Summary:
    rows = [
        Row(
            layer=n.name,
            kind=n.kind,
            weights=n.weight_encoding or "",
            bits=_bits(n.weight_bits, n.act_bits),
            scale="" if n.scale is None else f"{n.scale:.4g}",
            shape="x".join(map(str, n.shape)),
            bytes=n.weight_bytes or None,
            kernel=n.kernel,
        )
        for n in net.nodes
    ]
    total = sum(n.weight_bytes for n in net.nodes)
    memory = net.memory()
    footer = (
        f"{len(rows)} nodes, {total:,} bytes of weights, {net.isa}, {net.num_threads} threads\n"
        f"in memory: {memory.weights:,} bytes of weights, {memory.codes:,} of codes to save,"
        f" {memory.arena:,} in a run ({memory.activations:,} of activations, {memory.scratch:,} of scratch)"
    )
    return Summary(rows, footer)


def summary(model: nn.Module | IntegerNetwork) -> Summary:
    """What each layer is: method, bit widths, scale, output shape, size and (of an integer network) the kernel that runs it.

    Args:
        model: what :func:`qstep.prepare`, :func:`qstep.convert` or :func:`qstep.load` returned.
    """
    if isinstance(model, IntegerNetwork):
        return _summary_of_network(model)
    if isinstance(model, fx.GraphModule) and any(isinstance(m, qnn.Layer) for m in model.modules()):
        return _summary_of_model(model)
    raise TypeError(f"summary: expected a prepared model or an IntegerNetwork, got {type(model).__name__}")
