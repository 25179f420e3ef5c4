"""Reads a checkpoint as docs/format.md describes it and runs it in int64, one plain array expression per node.

Independent of the package (it uses the safetensors library) and of the oracle of the real-valued model: convolutions add
one shifted product per tap, requantization shifts integers, pools count their taps with a mask.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

Codes = NDArray[np.int64]


@dataclass
class Node:
    """`fields` are those of the JSON text; `arrays` the node's tensors, weights as the integers that multiply.

    Piecewise weights are what each weight is worth: in units of 2^-shift of a step of the output.
    """

    name: str
    kind: str
    inputs: list[str]
    fields: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


@dataclass
class Network:
    policy: str
    inputs: list[str]
    outputs: list[str]
    values: dict[str, dict[str, Any]]
    scales: dict[str, NDArray[np.float64]]  #: of accumulators
    nodes: list[Node]

    def run(self, *inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Every value made by a node, by name: codes and accumulators as int64, reals as float32."""
        known: dict[str, NDArray[Any]] = dict(zip(self.inputs, inputs, strict=True))
        for node in self.nodes:
            known[node.name] = KINDS[node.kind](self, node, *(known[name] for name in node.inputs))
        return {node.name: known[node.name] for node in self.nodes}

    def grid(self, value: str) -> dict[str, Any]:
        return self.values[value]["grid"]

    def centered(self, value: str, codes: Codes) -> Codes:
        """Codes counted from the code nearest to real zero."""
        grid = self.grid(value)
        return codes - np.clip(int(np.rint(-grid["offset"] / grid["scale"])) + grid["zero_point"], 0, grid["quant_max"])

    def clamped(self, node: Node, steps: Codes) -> Codes:
        limits = node.fields.get("requantize") or node.fields
        return np.clip(steps + self.grid(node.name)["zero_point"], limits["clamp_min"], limits["clamp_max"])


# --- weights ----------------------------------------------------------------------------------------------------------


def unpack(data: NDArray[np.uint8], bit_width: int, is_signed: bool, shape: list[int]) -> Codes:
    bits = np.unpackbits(data, bitorder="little")
    count = int(np.prod(shape))
    assert len(data) == -(-count * bit_width // 8)
    assert not bits[count * bit_width :].any()
    places = 1 << np.arange(bit_width)
    if is_signed:
        places[-1] = -places[-1]
    return (bits[: count * bit_width].reshape(count, bit_width) @ places).reshape(shape)


def power_of_two_level(fields: list[int], bit_width: int) -> int:
    """Sign and exponent, bit by bit from the lowest: how far the exponent lies below the largest, then the sign."""
    *below, sign = fields
    exponent = 2 ** (bit_width - 2) - 1 - sum(bit << i for i, bit in enumerate(below))
    return (-1 if sign else 1) * 2**exponent


def read_powers_of_two(data: NDArray[np.uint8], weight: dict[str, Any]) -> Codes:
    bits, width = np.unpackbits(data, bitorder="little").tolist(), weight["bit_width"]
    count, levels = int(np.prod(weight["shape"])), []
    for _ in range(count):
        if weight["variable_length"]:
            code, bits = ([bits[0], *bits[1:width]], bits[width:]) if bits[0] else ([0], bits[1:])
            is_nonzero, fields = code[0], code[1:]
        else:
            *fields, is_nonzero = bits[:width]
            bits = bits[width:]
            assert is_nonzero or not any(fields)
        levels.append(power_of_two_level(fields, width) if is_nonzero else 0)
    assert len(bits) < 8 and not any(bits)
    return np.array(levels, np.int64).reshape(weight["shape"])


def read_code_book(data: NDArray[np.uint8], weight: dict[str, Any], levels: Codes) -> Codes:
    index = unpack(data, weight["bit_width"], False, weight["shape"])
    tables = levels.reshape(-1, weight["entries"])
    tables = np.broadcast_to(tables, (len(index), weight["entries"]))
    return np.stack([table[row] for table, row in zip(tables, index, strict=True)])


def read_piecewise(data: NDArray[np.uint8], weight: dict[str, Any], multipliers: Codes) -> Codes:
    regions, bits = weight["regions"], weight["bit_width"]
    codes = unpack(data, bits + (regions - 1).bit_length(), False, weight["shape"])
    region, rest = np.divmod(codes, 2**bits)
    assert region.max() < regions
    negative, magnitude = np.divmod(rest, 2 ** (bits - 1))
    assert not ((region == 0) & (negative == 1) & (magnitude == 0)).any()
    sums = 2 * regions - 1 + weight["has_constant"]
    per_sum = multipliers.reshape(sums, -1, *[1] * (codes.ndim - 1))
    steps, starts = per_sum[:regions], np.concatenate([np.zeros_like(per_sum[:1]), per_sum[regions : 2 * regions - 1]])
    worth = sum((region == r) * (starts[r] + steps[r] * magnitude) for r in range(regions))
    return np.where(negative == 1, -worth, worth) + (per_sum[-1] if weight["has_constant"] else 0)


def read_weight(node: Node) -> Codes:
    weight, data = node.fields["weight"], node.arrays["weight"].astype(np.uint8)
    match weight["encoding"]:
        case "uniform":
            return unpack(data, weight["bit_width"], weight["is_signed"], weight["shape"]) - weight["zero_point"]
        case "power_of_two":
            return read_powers_of_two(data, weight)
        case "code_book":
            return read_code_book(data, weight, node.arrays["levels"])
        case encoding:
            assert encoding == "piecewise"
            return read_piecewise(data, weight, node.arrays["multiplier"])


# --- the file ---------------------------------------------------------------------------------------------------------


def load(path: Path) -> Network:
    tensors = load_file(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"format", "graph"}
    assert metadata["format"] == "qstep"
    graph = json.loads(metadata["graph"])
    assert graph["format_version"] == 2

    nodes = []
    for entry in graph["nodes"]:
        fields = {key: value for key, value in entry.items() if key not in ("name", "kind", "inputs")}
        node = Node(entry["name"], entry["kind"], entry["inputs"], fields)
        for part in ("weight", "levels", "bias", "multiplier", "constant", "shift", "table"):
            if f"{node.name}.{part}" in tensors:
                node.arrays[part] = tensors.pop(f"{node.name}.{part}").astype(np.int64)
        if "weight" in fields:
            node.arrays["weight"] = read_weight(node)
        nodes.append(node)
    values = {value["name"]: value for value in graph["values"]}
    scales = {name: tensors.pop(f"{name}.scales") for name, value in values.items() if value["kind"] == "accumulator"}
    assert not tensors, f"tensors of no node: {sorted(tensors)}"
    return Network(graph["policy"], graph["inputs"], graph["outputs"], values, scales, nodes)


def assert_shift_only(network: Network) -> None:
    """No constant of the network multiplies: every factor is a power of two, and so is every scale."""

    def expect_power_of_two(what: str, x: float) -> None:
        assert math.frexp(x)[0] == 0.5, f"{what}: {x} is not a power of two"

    assert network.policy == "shift"
    for name, value in network.values.items():
        if grid := value.get("grid"):
            expect_power_of_two(f"{name}.scale", grid["scale"])
            assert grid["offset"] == 0, name
    for name, scales in network.scales.items():
        for scale in scales:
            expect_power_of_two(f"{name}.scales", scale)
    for node in network.nodes:
        if "multiplier" in node.arrays:
            assert (node.arrays["multiplier"] == 1).all(), node.name
        if node.kind == "bilinear":
            assert node.fields["product"] == node.fields["constant"] == 0, node.name
            factors: tuple[str, ...] = ("left", "right")
        elif node.kind == "avg_pool2d":
            assert node.fields["constant"] == node.fields["tap_constant"] == 0, node.name
            factors = ("multiplier", "divisor_override")
        else:
            assert not {"left", "right", "product", "multiplier", "divisor_override"} & node.fields.keys(), node.name
            factors = ()
        for factor in factors:
            expect_power_of_two(f"{node.name}.{factor}", node.fields[factor])


# --- rounding ---------------------------------------------------------------------------------------------------------


def divide_half_even(numerator: Codes, denominator: Any) -> Codes:
    floor = numerator // denominator
    twice = 2 * (numerator - floor * denominator)
    return floor + ((twice > denominator) | ((twice == denominator) & (floor % 2 == 1)))


def power_of_two(shift: Any) -> Any:
    """As a divisor: beyond 2^60 every numerator here rounds to 0 anyway, and twice a remainder would not fit."""
    return np.int64(1) << np.minimum(shift, 60)


def requantize(accumulator: Codes, multiplier: Codes, shift: Codes, policy: str) -> Codes:
    right, left = np.maximum(shift, 0), np.maximum(-shift, 0)
    if policy == "exact":
        return divide_half_even(accumulator * multiplier, power_of_two(right))
    if policy == "shift":
        return divide_half_even(accumulator << left, power_of_two(right))
    left, right = right, left  # gemmlowp counts to the left
    product = np.clip(accumulator << left, -(2**31), 2**31 - 1) * multiplier
    nudged = product + np.where(product >= 0, 2**30, 1 - 2**30)
    high = np.sign(nudged) * (np.abs(nudged) >> 31)
    mask = (1 << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


# --- windows ----------------------------------------------------------------------------------------------------------


def output_size(window: dict[str, Any], dimension: int, size: int, ceil_mode: bool = False) -> int:
    before, after = window["padding"][dimension], window["padding"][dimension + 2]
    room = size + before + after - window["dilation"][dimension] * (window["kernel"][dimension] - 1) - 1
    count = (-(-room // window["stride"][dimension]) if ceil_mode else room // window["stride"][dimension]) + 1
    return count - 1 if ceil_mode and (count - 1) * window["stride"][dimension] >= size + before else count


def taps(
    x: Codes, window: dict[str, Any], size: tuple[int, int], padding: int, beyond: int
) -> Iterator[tuple[int, int, Codes]]:
    """For each tap of the window the pixels it meets, [..., size]: image, `padding` around it, `beyond` further out."""
    top, left, bottom, right = window["padding"]
    (kernel_h, kernel_w), (sh, sw), (dh, dw) = window["kernel"], window["stride"], window["dilation"]
    around = [(0, 0)] * (x.ndim - 2)
    x = np.pad(x, [*around, (top, bottom), (left, right)], constant_values=padding)
    x = np.pad(x, [*around, (0, sh + kernel_h * dh), (0, sw + kernel_w * dw)], constant_values=beyond)
    for i in range(kernel_h):
        for j in range(kernel_w):
            yield i, j, x[..., i * dh :: sh, j * dw :: sw][..., : size[0], : size[1]]


# --- nodes ------------------------------------------------------------------------------------------------------------


def quantize(network: Network, node: Node, x: NDArray[np.float32]) -> Codes:
    grid = network.grid(node.name)
    steps = np.rint((x - np.float32(grid["offset"])) / np.float32(grid["scale"])).astype(np.float64)
    return np.clip(steps + grid["zero_point"], 0, grid["quant_max"]).astype(np.int64)


def dequantize(network: Network, node: Node, x: Codes) -> NDArray[np.float32]:
    (source,) = node.inputs
    if source in network.scales:
        scales = network.scales[source]
        is_image = next(n for n in network.nodes if n.name == source).kind == "conv2d"
        return (x * (scales.reshape(-1, 1, 1) if is_image else scales)).astype(np.float32)
    grid = network.grid(source)
    return np.float32(grid["scale"]) * (x - grid["zero_point"]).astype(np.float32) + np.float32(grid["offset"])


def finished(network: Network, node: Node, sums: Codes, per_channel: tuple[int, ...]) -> Codes:
    if node.fields["weight"]["encoding"] == "piecewise":
        constant, shift = (node.arrays[part].reshape(per_channel) for part in ("constant", "shift"))
        total = sums + constant
        assert np.abs(total).max(initial=0) < 2**62
        # In Python integers: twice a remainder may leave int64.
        steps = divide_half_even(total.astype(object), 2 ** shift.astype(object)).astype(np.int64)
        return steps if node.name in network.scales else network.clamped(node, steps)
    accumulator = sums + node.arrays["bias"].reshape(per_channel)
    assert np.abs(accumulator).max(initial=0) < 2**31
    if node.fields["requantize"] is None:
        return accumulator
    multiplier, shift = (node.arrays[part].reshape(per_channel) for part in ("multiplier", "shift"))
    return network.clamped(node, requantize(accumulator, multiplier, shift, network.policy))


def conv2d(network: Network, node: Node, x: Codes) -> Codes:
    weight, groups, window = node.arrays["weight"], node.fields["groups"], node.fields["window"]
    n, channels, height, width = x.shape
    size = output_size(window, 0, height), output_size(window, 1, width)
    grouped = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
    centered = network.centered(node.inputs[0], x).reshape(n, groups, channels // groups, height, width)
    sums = np.zeros((n, groups, len(weight) // groups, size[0] * size[1]), np.int64)
    for i, j, pixels in taps(centered, window, size, 0, 0):
        sums += grouped[..., i, j] @ np.ascontiguousarray(pixels).reshape(n, groups, channels // groups, -1)
    return finished(network, node, sums.reshape(n, len(weight), *size), (-1, 1, 1))


def linear(network: Network, node: Node, x: Codes) -> Codes:
    return finished(network, node, network.centered(node.inputs[0], x) @ node.arrays["weight"].T, (-1,))


def bilinear(network: Network, node: Node, a: Codes, b: Codes) -> Codes:
    f = node.fields
    a, b = network.centered(node.inputs[0], a), network.centered(node.inputs[1], b)
    total = f["product"] * a * b + f["left"] * a + f["right"] * b + f["constant"]
    assert np.abs(total).max(initial=0) < 2**53
    return network.clamped(node, divide_half_even(total, power_of_two(f["shift"])))


def lookup(_: Network, node: Node, x: Codes) -> Codes:
    return node.arrays["table"][x]


def max_pool2d(_: Network, node: Node, x: Codes) -> Codes:
    window = node.fields["window"]
    height, width = (output_size(window, i, x.shape[2 + i], node.fields["ceil_mode"]) for i in range(2))
    return np.max([pixels for _, _, pixels in taps(x, window, (height, width), -1, -1)], axis=0)


def avg_pool2d(network: Network, node: Node, x: Codes) -> Codes:
    f = node.fields
    centered = network.centered(node.inputs[0], x)
    if f["adaptive"]:
        count = [wanted or size for wanted, size in zip(f["output_size"], x.shape[2:], strict=True)]
        rows, columns = (
            [slice(i * s // o, -(-(i + 1) * s // o)) for i in range(o)] for o, s in zip(count, x.shape[2:], strict=True)
        )
        sums = np.stack([np.stack([centered[:, :, r, c].sum((2, 3)) for c in columns], -1) for r in rows], -2)
        n = inside = np.array([[(r.stop - r.start) * (c.stop - c.start) for c in columns] for r in rows])
    else:
        size = tuple(output_size(f["window"], i, x.shape[2 + i], f["ceil_mode"]) for i in range(2))
        sums = sum(pixels for _, _, pixels in taps(centered, f["window"], size, 0, 0))
        image = np.ones(x.shape[2:], np.int64)
        n = sum(pixels for _, _, pixels in taps(image, f["window"], size, int(f["count_include_pad"]), 0))
        inside = sum(pixels for _, _, pixels in taps(image, f["window"], size, 0, 0))
    divisor = np.full_like(n, f["divisor_override"]) if f["divisor_override"] else n
    added = divisor * f["constant"] + (inside if f["divisor_override"] else 0) * f["tap_constant"]
    numerator = (f["multiplier"] * sums + added).astype(object)  # Python integers: the divisor may be 2^62
    steps = divide_half_even(numerator, divisor.astype(object) << f["shift"]).astype(np.int64)
    return network.clamped(node, steps)


def concat(_: Network, node: Node, *inputs: Codes) -> Codes:
    return np.concatenate(inputs, node.fields["axis"])


def reshape(_: Network, node: Node, x: Codes) -> Codes:
    return x.reshape([size or x.shape[i] for i, size in enumerate(node.fields["shape"])])


def permute(_: Network, node: Node, x: Codes) -> Codes:
    return x.transpose(node.fields["order"])


def cut(_: Network, node: Node, x: Codes) -> Codes:
    return x.take(range(node.fields["start"], node.fields["stop"], node.fields["step"]), node.fields["axis"])


def pad(network: Network, node: Node, x: Codes) -> Codes:
    (source,) = node.inputs
    zero_code = -int(network.centered(source, np.zeros((), np.int64)))
    widths = list(zip(node.fields["before"], node.fields["after"], strict=True))
    return np.pad(x, widths, constant_values=zero_code)


KINDS: dict[str, Callable[..., NDArray[Any]]] = {
    "quantize": quantize,
    "dequantize": dequantize,
    "conv2d": conv2d,
    "linear": linear,
    "bilinear": bilinear,
    "lookup": lookup,
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "concat": concat,
    "reshape": reshape,
    "permute": permute,
    "slice": cut,
    "pad": pad,
}
