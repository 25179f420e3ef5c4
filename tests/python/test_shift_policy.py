"""Policy `shift`: networks of fixed-point numbers, in which no constant multiplies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstep
from oracle import checkpoint
from qstep import _C

INFINITY = float("inf")


def fixed_point(fraction_length: int, **codes: int) -> _C.Grid:
    return _C.Grid(scale=2.0**-fraction_length, **codes)


def target(fraction_length: int, low: float = -INFINITY, high: float = INFINITY, **codes: int) -> _C.Target:
    return _C.Target(fixed_point(fraction_length, **codes), low, high)


SIGNED = {"quant_min": -127, "quant_max": 127}


class Maker:
    """A random residual network with every kind of node, weights of 8 bits with fraction lengths of their own per layer."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.builder = _C.Builder("shift")

    def weight(self, *shape: int) -> dict[str, Any]:
        scale = np.ldexp(np.float32(1), -self.random.integers(5, 9, shape[0])).astype(np.float32)
        codes = self.random.integers(-127, 128, shape)
        values = (codes * scale.reshape(-1, *[1] * (len(shape) - 1))).astype(np.float32)
        weight = _C.UniformWeight(values, scale, quant_min=-127, quant_max=127)
        return {"weight": weight, "bias": self.random.normal(size=shape[0])}

    def conv2d(self, name: str, x: int, out: int, channels: int, groups: int = 1, **options: Any) -> int:
        window = _C.Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
        layer = self.weight(out, channels // groups, 3, 3)
        return self.builder.conv2d(name, x, window, groups, **layer, target=options["target"])

    def graph(self) -> _C.Graph:
        b, length = self.builder, lambda: int(self.random.integers(0, 6))
        x = b.quantize("x", b.input("image", (2, 3, 9, 9)), fixed_point(5, **SIGNED))
        stem = self.conv2d("stem", x, 19, 3, target=target(length(), 0, 6.0))
        branch = self.conv2d("depthwise", stem, 19, 19, 19, target=target(length(), **SIGNED))
        total = b.add("add", branch, stem, target(length(), 0), 2.0 ** -length(), 2.0 ** length())
        table = b.lookup("silu", total, "silu", [], fixed_point(4))
        cut = b.slice(
            "cut", b.max_pool2d("max", table, _C.Window((2, 2), (1, 1), (0, 0, 0, 0), (1, 1)), False), 2, 1, 8, 2
        )
        padded = b.pad("pad", cut, (0, 1, 0, 1), (0, 0, 1, 1))
        both = b.concat("concat", [padded, b.pad("again", padded, (0, 0, 0, 0), (0, 1, 0, 0))], 1, fixed_point(3))
        window = _C.Window((2, 4), (1, 2), (1, 1, 0, 1), (1, 1))
        pooled = b.avg_pool2d("pool", both, window, False, True, target(length()), 2.0 ** -length())
        mean = b.adaptive_avg_pool2d("mean", pooled, 1, 1, target(length()), divisor_override=32)
        flat = b.reshape("flat", mean, (0, -1))
        logits = b.linear("linear", flat, **self.weight(10, 41))
        b.output(b.dequantize("logits", logits))
        return b.finish()


@pytest.mark.parametrize("seed", range(8))
def test_networks_have_no_multiplier_and_the_codes_of_the_definition(seed: int, tmp_path: Path) -> None:
    graph = Maker(seed).graph()
    graph.save(str(tmp_path / "net.qstep"))
    network = checkpoint.load(tmp_path / "net.qstep")
    checkpoint.assert_shift_only(network)
    image = np.random.default_rng(seed).normal(size=(3, 3, 9, 9)).astype(np.float32)
    expected = network.run(image)
    for isa in qstep.available_isas():
        net = _C.IntegerNetwork(_C.Graph.load(str(tmp_path / "net.qstep")), isa=isa)
        captured = net.capture([image])
        for name, codes in captured.items():
            assert np.array_equal(codes, expected[name]), f"seed {seed}, {isa}: {name}"
        assert np.array_equal(net.run([image])[0], expected["logits"])
        kernels = {node["kind"]: node["kernel"] for node in net.nodes()}
        for kind in ("bilinear", "avg_pool2d"):
            assert kernels[kind].startswith(f"{kind}_shift_"), isa


def test_the_proof_notices_a_multiplier(tmp_path: Path) -> None:
    b = _C.Builder()
    x = b.input("x", (1, 1, 2, 2), fixed_point(3))
    b.output(b.dequantize("out", b.add("add", x, x, target(4))))
    b.finish().save(str(tmp_path / "net.qstep"))
    network = checkpoint.load(tmp_path / "net.qstep")
    with pytest.raises(AssertionError):
        checkpoint.assert_shift_only(network)
    network.policy = "shift"
    checkpoint.assert_shift_only(network)  # 2^23 and a shift: powers of two by chance
    (add, _) = network.nodes
    add.fields["left"] *= 3
    with pytest.raises(AssertionError, match=r"add\.left"):
        checkpoint.assert_shift_only(network)


def linear(b: _C.Builder, x: int, scale: float, **options: Any) -> int:
    values = np.full((1, 4), scale, np.float32)
    weight = _C.UniformWeight(values, np.array([scale], np.float32), quant_min=-127, quant_max=127)
    return b.linear("layer", x, weight=weight, **options)


def pool(b: _C.Builder, x: int, kernel: tuple[int, int], padding: int = 0, include: bool = True, **options: Any) -> int:
    window = _C.Window(kernel, (1, 1), (padding,) * 4, (1, 1))
    return b.avg_pool2d("layer", x, window, False, include, target(3), **options)


WRONG: dict[str, tuple[Callable[[_C.Builder, int], int], str]] = {
    "scale of the weights": (lambda b, x: linear(b, x, 0.3, target=target(3)), "layer.*power of two.*channel 0"),
    "factor of a channel": (
        lambda b, x: linear(b, x, 0.5, factor=np.array([-1.0]), target=target(3)),
        r"layer.*power of two.*-0\.5 in channel 0",
    ),
    "scale of the output": (
        lambda b, x: linear(b, x, 0.5, target=_C.Target(_C.Grid(scale=0.3), 0, 1)),
        "layer.*power of two",
    ),
    "scale of the accumulators": (lambda b, x: linear(b, x, 0.3), "layer.*scales must be powers of two"),
    "offset": (
        lambda b, x: linear(b, x, 0.5, target=_C.Target(_C.Grid(scale=0.5, offset=0.25), 0, 1)),
        "layer.*offset must be 0",
    ),
    "bias": (lambda b, x: linear(b, x, 2.0**-20, bias=np.array([2.0**6]), target=target(3)), "layer.*bias.*2.28"),
    "factor of an addition": (lambda b, x: b.add("layer", x, x, target(3), 1.0, 1.5), "layer.*power of two, got 1.5"),
    "factor of 0": (lambda b, x: b.add("layer", x, x, target(3), 0.0), "layer.*power of two, got 0"),
    "factors too far apart": (lambda b, x: b.add("layer", x, x, target(3), 2.0**-12, 2.0**11), "layer.*2.22"),
    "factor that is no number": (lambda b, x: b.add("layer", x, x, target(3), float("nan")), "layer.*finite"),
    "product": (lambda b, x: b.multiply("layer", x, x, target(3)), "layer.*product.*not defined"),
    "taps of an average": (lambda b, x: pool(b, x, (2, 3)), "layer.*divisor_override"),
    "divisor": (lambda b, x: pool(b, x, (2, 2), divisor_override=6), "layer.*divisor_override.*got 6"),
    "negative divisor": (lambda b, x: pool(b, x, (2, 2), divisor_override=-4), "layer.*divisor_override.*got -4"),
    "factor of an average": (lambda b, x: pool(b, x, (2, 2), factor=3.0), "layer.*power of two, got 3"),
    "fewer taps at the border": (lambda b, x: pool(b, x, (2, 2), 1, include=False), "layer.*divisor_override"),
    "adaptive average": (
        lambda b, x: b.adaptive_avg_pool2d("layer", x, 2, 2, target(3)),
        "layer.*divisor_override",
    ),
    "windows of two sizes": (
        lambda b, x: b.adaptive_avg_pool2d("layer", x, 3, 3, target(3), divisor_override=4),
        "layer.*windows of one size",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_needs_a_multiplier_is_named(what: str) -> None:
    append, message = WRONG[what]
    b = _C.Builder("shift")
    x = b.input("x", (1, 1, 4, 4), fixed_point(3))
    with pytest.raises(qstep.Error, match=message):
        b.output(append(b, x))
        b.finish()


def test_a_grid_of_the_input_is_named() -> None:
    b = _C.Builder("shift")
    b.output(
        b.max_pool2d(
            "max", b.input("x", (1, 1, 4, 4), _C.Grid(scale=0.3)), _C.Window((2, 2), (1, 1), (0,) * 4, (1, 1)), False
        )
    )
    with pytest.raises(qstep.Error, match=r"'x'.*scale must be a power of two"):
        b.finish()


@pytest.mark.parametrize("policy", ["exact", "gemmlowp"])
def test_factors_of_an_addition(policy: str, tmp_path: Path) -> None:
    """round((fa * a + fb * b) / scale), every pair of codes, in float64: only at ties may the 24-bit constants differ."""
    fa, fb = 0.37, -1.21
    b = _C.Builder(policy)
    left, right = (
        b.input("a", (1, 256, 1), _C.Grid(scale=0.02, offset=0.013)),
        b.input("b", (1, 256, 1), _C.Grid(scale=0.05, zero_point=9)),
    )
    out = _C.Grid(scale=0.1, zero_point=100, offset=0.03)
    b.output(
        b.add(
            "sum",
            b.reshape("row", left, (1, 256, 1)),
            b.reshape("column", right, (1, 256, 1)),
            _C.Target(out, -INFINITY, INFINITY),
            fa,
            fb,
        )
    )
    net = _C.IntegerNetwork(b.finish())
    codes = np.arange(256)
    for shift in range(0, 256, 5):
        other = np.roll(codes, shift)
        (got,) = net.run([codes.astype(np.uint8).reshape(1, 256, 1), other.astype(np.uint8).reshape(1, 256, 1)])
        real = fa * (np.float32(0.02) * codes + np.float32(0.013)) + fb * np.float32(0.05) * (other - 9.0)
        steps = (real - np.float32(0.03)) / np.float32(0.1)
        assert np.abs(np.clip(steps + 100, 0, 255) - got.ravel()).max() <= 0.5 + 1e-3
