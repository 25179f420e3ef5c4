"""The builder's weights off the uniform grid: powers of two, code books, piecewise ones. What the integer network computes is what
the real numbers say, on every instruction set, from the builder and from the saved file."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstep
from oracle import checkpoint
from oracle.network import correlate
from oracle.piecewise import Channel, Pieces, distance_to_rounding, exact_steps, layer_steps
from oracle.quantizers import Grid
from qstep import _C
from qstep.network import IntegerNetwork

Array = NDArray[Any]
SEED = 20261122

WINDOW = _C.Window([3, 3], [2, 1], [1, 0, 1, 2], [1, 2])


class Geometry:
    """What oracle.network.correlate reads of a layer."""

    def __init__(self, groups: int) -> None:
        self.stride, self.padding, self.dilation, self.groups = (2, 1), (1, 0, 1, 2), (1, 2), groups


def grids(rng: np.random.Generator, bits: int) -> tuple[_C.Grid, Grid]:
    """The same grid for the package and for the oracle, with a zero point and a real offset."""
    scale, offset = np.float32(rng.uniform(0.01, 0.1)), np.float32(rng.uniform(-0.2, 0.2))
    zero_point, largest = int(rng.integers(0, 2**bits)), 2**bits - 1
    mine = _C.Grid(scale=float(scale), zero_point=zero_point, offset=float(offset), quant_max=largest)
    return mine, Grid(scale, zero_point, offset, largest)


def run(builder: _C.Builder, name: str, x: Array, folder: Path) -> Array:
    """Codes or accumulators of the layer: on every instruction set, and by the independent reader of the saved file."""
    net = _C.IntegerNetwork(builder.finish(), isa="reference", num_threads=1)
    results = {"reference": net.run([x])[0]}
    for isa in qstep.available_isas():
        results[isa] = _C.IntegerNetwork(net.graph(), isa=isa, num_threads=1).run([x])[0]
    net.save(str(folder / "layer.safetensors"))
    results["loaded"] = _C.IntegerNetwork(_C.Graph.load(str(folder / "layer.safetensors")), num_threads=1).run([x])[0]
    results["independent reader"] = checkpoint.load(folder / "layer.safetensors").run(x.astype(np.int64))[name]
    for who, result in results.items():
        np.testing.assert_array_equal(result, results["reference"], err_msg=who)
    return results["reference"].astype(np.int64)


# --- piecewise --------------------------------------------------------------------------------------------------------


def random_pieces(
    rng: np.random.Generator, shape: tuple[int, ...], bits: int, regions: int, per_channel: bool, constants: bool
) -> tuple[_C.PiecewiseWeight, Pieces]:
    out, columns = shape[0], shape[0] if per_channel else 1
    # Not laid out as the package wants it: a transposed array of another integer type.
    region = rng.integers(0, regions, shape[::-1]).T
    magnitude = rng.integers(0, 2 ** (bits - 1), shape).astype(np.uint8)
    negative = rng.integers(0, 2, shape).astype(bool)
    step = rng.uniform(0.001, 0.01, (regions, columns))
    start = np.cumsum(np.concatenate([np.zeros((1, columns)), rng.uniform(0.01, 0.1, (regions - 1, columns))]), 0)
    constant = rng.uniform(-0.01, 0.01, out) if constants else None
    weight = _C.PiecewiseWeight(
        bit_width=bits,
        region=region,
        magnitude=magnitude,
        negative=negative,
        step=step,
        start=start,
        constant=constant,
    )
    fractions = [[[Fraction(float(v)) for v in np.broadcast_to(row, out)] for row in table] for table in (step, start)]
    pieces = Pieces(
        region.astype(np.int64),
        magnitude.astype(np.int64),
        negative,
        *fractions,
        [Fraction(float(v)) for v in (constant if constant is not None else np.zeros(out))],
    )
    return weight, pieces


def channels_of(
    pieces: Pieces, factor: Array | None, bias: Array | None, source: Grid, target: Grid | None
) -> list[Channel]:
    channels = []
    for c in range(len(pieces.region)):
        f = Fraction(float(factor[c])) if factor is not None else Fraction(1)
        added = Fraction(float(bias[c])) if bias is not None else Fraction(0)
        added += f * source.residual * sum(pieces.real(c), Fraction(0))
        if target is not None:
            added -= Fraction(float(target.offset))
        step = None if target is None else Fraction(float(target.scale))
        channels.append(Channel(f, added, Fraction(float(source.scale)), step))
    return channels


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("constants", [False, True])
@pytest.mark.parametrize("regions", [2, 3, 4])
@pytest.mark.parametrize(("bits", "out", "groups"), [(2, 6, 1), (4, 20, 4), (8, 37, 37)])
def test_piecewise_convolution(
    bits: int, out: int, groups: int, regions: int, constants: bool, per_channel: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(SEED + regions + bits)
    inside = 37 if groups == 37 else 8
    source, source_oracle = grids(rng, 8)
    target, target_oracle = grids(rng, 8)
    weight, pieces = random_pieces(rng, (out, inside // groups, 3, 3), bits, regions, per_channel, constants)
    factor, bias = rng.uniform(-0.5, 0.5, out), rng.uniform(-1, 1, out)
    x = rng.integers(0, 256, (2, inside, 7, 6)).astype(np.uint8)

    builder = _C.Builder()
    value = builder.input("x", list(x.shape), source)
    layer = builder.conv2d(
        "conv",
        value,
        WINDOW,
        groups,
        weight=weight,
        factor=factor,
        bias=bias,
        target=_C.Target(target, 0.0, float("inf")),
    )
    builder.output(layer)
    found = run(builder, "conv", x, tmp_path)

    centred = x.astype(np.int64) - source_oracle.zero_code
    steps, _ = layer_steps(
        pieces,
        channels_of(pieces, factor, bias, source_oracle, target_oracle),
        max(source_oracle.zero_code, 255 - source_oracle.zero_code),
        lambda plane: correlate(centred, plane, Geometry(groups), 0),  # type: ignore[arg-type]
    )
    expected = np.clip(steps + target_oracle.zero_point, target_oracle.codes(0.0), 255)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 5


@pytest.mark.parametrize("depth", [1, 2, 63, 400])
@pytest.mark.parametrize("target_bits", [None, 4, 8])
def test_piecewise_linear_is_the_real_formula(depth: int, target_bits: int | None, tmp_path: Path) -> None:
    """Each code is the exact real result rounded, to within a thousandth of a step."""
    rng = np.random.default_rng(SEED + depth)
    source, source_oracle = grids(rng, 8)
    target, target_oracle = grids(rng, target_bits) if target_bits else (None, None)
    weight, pieces = random_pieces(rng, (5, depth), 4, 2, True, True)
    bias = rng.uniform(-1, 1, 5)
    x = rng.integers(0, 256, (9, depth)).astype(np.uint8)

    builder = _C.Builder()
    value = builder.input("x", list(x.shape), source)
    wanted = None if target is None else _C.Target(target, -float("inf"), float("inf"))
    builder.output(builder.linear("fc", value, weight=weight, bias=bias, target=wanted))
    found = run(builder, "fc", x, tmp_path)

    centred = x.astype(np.int64) - source_oracle.zero_code
    channels = channels_of(pieces, None, bias, source_oracle, target_oracle)
    steps, units = layer_steps(
        pieces, channels, max(source_oracle.zero_code, 255 - source_oracle.zero_code), lambda plane: centred @ plane.T
    )
    exact = exact_steps(pieces, channels, centred)
    for n, c in np.ndindex(*steps.shape):
        in_units = exact[n][c] if target is not None else exact[n][c] / units[c]
        tolerance = 1e-3 if target is not None else 1.0  # an accumulator counts in 2^-30 of the largest result
        assert distance_to_rounding(in_units, int(steps[n, c])) < tolerance
    if target_oracle is None:
        np.testing.assert_array_equal(found, steps)
        scales = _C.IntegerNetwork(builder.finish()).output_scales()
        assert [Fraction(s) for s in scales] == units
        assert np.abs(found).max() < 2**30
    else:
        np.testing.assert_array_equal(found, np.clip(steps + target_oracle.zero_point, 0, target_oracle.largest))


def test_piecewise_sums_beyond_a_double(tmp_path: Path) -> None:
    """Sums that reach 2^30: with multipliers of 24 bits t needs more than the 53 bits of a double."""
    rng = np.random.default_rng(SEED)
    source, source_oracle = grids(rng, 8)
    target, target_oracle = grids(rng, 8)
    weight, pieces = random_pieces(rng, (2, 40000), 8, 2, True, False)
    factor = np.full(2, 1e-4)
    x = rng.integers(0, 256, (6, 40000)).astype(np.uint8)
    x[0], x[1] = np.where(pieces.negative[0], 0, 255), np.where(pieces.negative[1], 255, 0)
    builder = _C.Builder()
    value = builder.input("x", list(x.shape), source)
    wanted = _C.Target(target, -float("inf"), float("inf"))
    builder.output(builder.linear("fc", value, weight=weight, factor=factor, target=wanted))
    found = run(builder, "fc", x, tmp_path)

    centred = x.astype(np.int64) - source_oracle.zero_code
    largest = max(source_oracle.zero_code, 255 - source_oracle.zero_code)
    channels = channels_of(pieces, factor, None, source_oracle, target_oracle)
    steps, _ = layer_steps(pieces, channels, largest, lambda plane: centred @ plane.T)
    np.testing.assert_array_equal(found, np.clip(steps + target_oracle.zero_point, 0, 255))
    assert max(abs(int(v)) for v in (centred @ pieces.planes()[0].T).flat) > 2**27


def test_piecewise_signs_count_at_magnitude_zero(tmp_path: Path) -> None:
    """-start[1] and +start[1] are two weights of magnitude 0; in region 0 both signs are the weight 0."""
    builder = _C.Builder()
    value = builder.input("x", [1, 4], _C.Grid(scale=1.0))
    weight = _C.PiecewiseWeight(
        bit_width=3,
        region=np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]),
        magnitude=np.zeros((3, 4), np.uint8),
        negative=np.array([[0, 1, 0, 1], [1, 1, 1, 1], [1, 0, 1, 0]]),
        step=np.array([[0.25], [0.5]]),
        start=np.array([[0.0], [3.0]]),
    )
    target = _C.Target(_C.Grid(scale=1.0, zero_point=128), -float("inf"), float("inf"))
    builder.output(builder.linear("fc", value, weight=weight, target=target))
    assert run(builder, "fc", np.array([[5, 7, 11, 13]], np.uint8), tmp_path).tolist() == [[128 + 15, 128 - 21, 128]]


def test_piecewise_ties_go_to_even(tmp_path: Path) -> None:
    builder = _C.Builder()
    value = builder.input("x", [8, 1], _C.Grid(scale=1.0))
    weight = _C.PiecewiseWeight(
        bit_width=2,
        region=np.array([[1]]),
        magnitude=np.array([[1]]),
        negative=np.array([[1]]),
        step=np.array([[1.0], [0.25]]),
        start=np.array([[0.0], [0.25]]),
    )
    target = _C.Target(_C.Grid(scale=1.0, zero_point=101), -float("inf"), float("inf"))
    builder.output(builder.linear("fc", value, weight=weight, target=target))
    x = np.array([[0], [1], [2], [3], [4], [5], [7], [255]], np.uint8)
    # -x / 2: 0, -0.5, -1, -1.5, -2, -2.5, -3.5, -127.5
    assert run(builder, "fc", x, tmp_path).reshape(-1).tolist() == [101, 101, 100, 99, 99, 99, 97, 0]


# --- powers of two, code books ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable_length", [False, True])
@pytest.mark.parametrize(("bits", "exponent"), [(2, 0), (3, -3), (4, 5), (5, -1)])
def test_powers_of_two(bits: int, exponent: int, variable_length: bool, tmp_path: Path) -> None:
    """Codes equal those of the same real weights in 8 or 16 bits of a code book: the encoding changes storage, not results."""
    rng = np.random.default_rng(SEED + bits)
    levels = 2 ** rng.integers(0, 2 ** (bits - 2), (19, 41)) * rng.integers(-1, 2, (19, 41))
    assert np.abs(levels).max() == 2 ** (2 ** (bits - 2) - 1)
    scale = 2.0 ** (exponent + 1 - 2 ** (bits - 2))
    values = levels.astype(np.float32) * np.float32(scale)
    x = rng.integers(0, 256, (7, 41)).astype(np.uint8)
    source, source_oracle = grids(rng, 8)
    target = _C.Target(grids(rng, 8)[0], -float("inf"), float("inf"))
    tables = np.arange(-128, 128)

    def codes_of(weight: _C.RealWeight, folder: str) -> tuple[Array, dict[str, Any]]:
        builder = _C.Builder()
        value = builder.input("x", list(x.shape), source)
        builder.output(builder.linear("fc", value, weight=weight, bias=np.linspace(-1, 1, 19), target=target))
        (tmp_path / folder).mkdir()
        (node,) = _C.IntegerNetwork(builder.finish(), isa="reference").nodes()
        return run(builder, "fc", x, tmp_path / folder), node

    weight = _C.PowerOfTwoWeight(values, bit_width=bits, max_exponent=exponent, variable_length=variable_length)
    found, node = codes_of(weight, "power_of_two")
    if bits < 5:
        uniform, _ = codes_of(_C.CodeBookWeight(values, np.array([scale]), tables), "code_book")
        np.testing.assert_array_equal(found, uniform)
    assert node["weight_encoding"] == "power_of_two"
    assert node["kernel"] == "gemm_reference_shift_add"
    zeros = int((levels == 0).sum())
    stored = zeros + (levels.size - zeros) * bits if variable_length else levels.size * bits
    assert node["weight_bytes"] == -(-stored // 8)

    builder = _C.Builder()  # the accumulators themselves, against plain integers
    value = builder.input("x", list(x.shape), source)
    builder.output(builder.linear("fc", value, weight=weight))
    (tmp_path / "raw").mkdir()
    sums = run(builder, "fc", x, tmp_path / "raw")
    bias = sums - (x.astype(np.int64) - source_oracle.zero_code) @ levels.T
    assert (bias == bias[0]).all()  # the residual alone


@pytest.mark.parametrize("tables", [1, 6])
def test_code_book(tables: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    levels = np.sort(rng.choice(np.arange(-900, 900), (tables, 11), replace=False), 1)
    index = rng.integers(0, 11, (6, 25))
    integers = np.take_along_axis(np.broadcast_to(levels, (6, 11)), index, 1)
    scale = rng.uniform(0.001, 0.01, 6).astype(np.float32)
    weight = _C.CodeBookWeight(integers * scale[:, None], scale, levels if tables > 1 else levels[0])
    x = rng.integers(0, 16, (5, 25)).astype(np.uint8)
    builder = _C.Builder()
    value = builder.input("x", list(x.shape), _C.Grid(scale=0.5, zero_point=3, quant_max=15))
    builder.output(builder.linear("fc", value, weight=weight))
    np.testing.assert_array_equal(run(builder, "fc", x, tmp_path), (x.astype(np.int64) - 3) @ integers.T)
    (node,) = _C.IntegerNetwork(builder.finish()).nodes()
    assert (node["weight_bits"], node["weight_bytes"]) == (4, 6 * 25 // 2 + tables * 11 * 2)


def test_summary_shows_encodings_and_true_bytes() -> None:
    builder = _C.Builder()
    value = builder.input("x", [1, 8], _C.Grid(scale=1.0))
    piecewise = _C.PiecewiseWeight(
        bit_width=4,
        region=np.zeros((3, 8), int),
        magnitude=np.ones((3, 8), int),
        negative=np.zeros((3, 8), int),
        step=np.ones((3, 1)),
        start=np.array([[0.0], [7.0], [14.0]]),
    )
    builder.output(builder.linear("fc", value, weight=piecewise))
    summary = qstep.summary(IntegerNetwork(_C.IntegerNetwork(builder.finish())))
    (row,) = summary.rows
    assert (row.weights, row.bits, row.bytes) == ("piecewise", "W4", 3 * 8 * (4 + 2) // 8)
    assert "piecewise" in str(summary)


# --- switched-off channels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.0, 1e-9, -1e-9])
def test_switched_off_channels(factor: float, tmp_path: Path) -> None:
    """Batch norm with gamma near 0: the bias alone remains, whatever the weights are."""
    rng = np.random.default_rng(SEED)
    levels = np.array([[0, 1, -8, 4], [2, 0, 8, -1]])
    region = np.array([[0, 1, 1, 0], [1, 0, 1, 1]])
    weights = [
        _C.PowerOfTwoWeight(levels.astype(np.float32), bit_width=4, max_exponent=3),
        _C.CodeBookWeight(levels.astype(np.float32), np.ones(1), np.array([-8, -1, 0, 1, 2, 4, 8])),
        _C.PiecewiseWeight(
            bit_width=4,
            region=region,
            magnitude=rng.integers(0, 8, (2, 4)),
            negative=levels < 0,
            step=np.array([[0.1], [0.3]]),
            start=np.array([[0.0], [0.7]]),
        ),
    ]
    for i, weight in enumerate(weights):
        builder = _C.Builder()
        value = builder.input("x", [3, 4], _C.Grid(scale=0.5))
        target = _C.Target(_C.Grid(scale=0.25, zero_point=10), -float("inf"), float("inf"))
        builder.output(
            builder.linear(
                "fc", value, weight=weight, factor=np.full(2, factor), bias=np.array([3.0, 0.0]), target=target
            )
        )
        (tmp_path / str(i)).mkdir()
        x = rng.integers(0, 256, (3, 4)).astype(np.uint8)
        assert run(builder, "fc", x, tmp_path / str(i)).tolist() == [[22, 10]] * 3


# --- errors -----------------------------------------------------------------------------------------------------------


def pieces_with(**changes: Any) -> Callable[[], _C.PiecewiseWeight]:
    arguments: dict[str, Any] = {
        "bit_width": 3,
        "region": np.zeros((2, 4), np.int64),
        "magnitude": np.ones((2, 4), np.int64),
        "negative": np.zeros((2, 4), bool),
        "step": np.ones((2, 1)),
        "start": np.array([[0.0], [4.0]]),
        **changes,
    }
    return lambda: _C.PiecewiseWeight(**arguments)


def powers(values: Any, **changes: Any) -> Callable[[], _C.PowerOfTwoWeight]:
    arguments: dict[str, Any] = {"bit_width": 4, "max_exponent": 3, **changes}
    return lambda: _C.PowerOfTwoWeight(np.array(values, np.float32), **arguments)


def book(values: Any, levels: Any, scale: Any = (1.0,)) -> Callable[[], _C.CodeBookWeight]:
    return lambda: _C.CodeBookWeight(np.array(values, np.float32), np.array(scale), np.array(levels))


nan, inf = float("nan"), float("inf")
BAD: dict[str, tuple[Callable[[], _C.RealWeight], str]] = {
    "not a power": (powers([[3.0]]), "weight 0 of channel 0 must be 0 or +-2^k with k in [0, 3], got 3"),
    "too large": (powers([[1.0], [-16.0]]), "weight 0 of channel 1 must be 0 or +-2^k with k in [0, 3], got -16"),
    "too small": (powers([[0.5]]), "got 0.5"),
    "NaN": (powers([[nan]]), "got nan"),
    "infinite": (powers([[inf]]), "got inf"),
    "1 bit": (powers([[1.0]], bit_width=1), "bit_width of power-of-two weights must be in [2, 5], got 1"),
    "6 bits": (powers([[1.0]], bit_width=6), "got 6"),
    "exponent": (powers([[1.0]], max_exponent=128), "max_exponent must be in [-126, 127], got 128"),
    "empty": (powers(np.zeros((0, 4))), "every size of the weight must be positive, got 0x4"),
    "off the table": (book([[2.0]], [-1, 0, 1]), "there is no level 2"),
    "NaN in a book": (book([[nan]], [-1, 0, 1]), "there is no level nan"),
    "unsorted": (book([[1.0]], [1, 0]), "the levels of table 0 must ascend, got 1, 0"),
    "repeated": (book([[1.0]], [0, 1, 1]), "must ascend"),
    "one level": (book([[1.0]], [1]), "2 to 256 entries, got 1"),
    "257 levels": (book([[1.0]], range(257)), "2 to 256 entries, got 257"),
    "beyond 16 bits": (book([[1.0]], [0, 1, 40000]), "levels: must be in [-32768, 32767], got 40000"),
    "real levels": (book([[1.0]], [0.5, 1.0]), "must be an array of integers, got float64"),
    "3 dimensions": (book([[1.0]], [[[0, 1]]]), "got 3 dimensions"),
    "two tables": (book([[1.0]], [[0, 1], [0, 1]]), "1 or 1 tables of levels, got 2"),
    "negative scale": (book([[1.0]], [0, 1], [-1.0]), "weight scale of channel 0 must be finite and positive, got -1"),
    "region": (pieces_with(region=np.full((2, 4), 2)), "region of weight 0 must be below 2, got 2"),
    "negative region": (pieces_with(region=np.full((2, 4), -1)), "region: must be in [0, 255], got -1"),
    "magnitude": (pieces_with(magnitude=np.full((2, 4), 4)), "magnitude of weight 0 must be below 4, got 4"),
    "sign": (pieces_with(negative=np.full((2, 4), 2)), "negative of weight 0 must be 0 or 1, got 2"),
    "real magnitudes": (pieces_with(magnitude=np.ones((2, 4))), "magnitude: must be an array of integers"),
    "sizes": (pieces_with(region=np.zeros((2, 3), int)), "region must have 8 values, one per weight, got 6"),
    "9 bits": (pieces_with(bit_width=9), "bit_width of piecewise weights must be in [2, 8], got 9"),
    "one region": (pieces_with(step=np.ones((1, 1)), start=np.zeros((1, 1))), "2 to 4 regions, got 1"),
    "start of region 0": (pieces_with(start=np.ones((2, 1))), "start of region 0 must be 0, got 1"),
    "NaN step": (pieces_with(step=np.array([[1.0], [nan]])), "step must be finite and not negative, got nan"),
    "negative step": (pieces_with(step=np.array([[1.0], [-1.0]])), "step must be finite and not negative, got -1"),
    "three columns": (pieces_with(step=np.ones((2, 3)), start=np.zeros((2, 3))), "2 x 1 or 2 x 2 values, got 6"),
    "step and start": (pieces_with(start=np.zeros((2, 2))), "step and start must both be"),
    "constant": (pieces_with(constant=np.array([1.0, inf])), "constant must be finite, got inf"),
    "constants": (pieces_with(constant=np.ones(3)), "constant must have 2 values, got 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_weights_are_named(case: str) -> None:
    make, message = BAD[case]
    builder = _C.Builder()
    value = builder.input("x", [1, 4], _C.Grid(scale=1.0))
    with pytest.raises(qstep.Error, match=re.escape(message)):
        builder.linear("fc", value, weight=make())


def test_piecewise_needs_the_exact_policy() -> None:
    for policy in ("gemmlowp", "shift"):
        builder = _C.Builder(policy)
        value = builder.input("x", [1, 4], _C.Grid(scale=1.0))
        with pytest.raises(qstep.Error, match="fc: piecewise weights need the requantization policy exact"):
            builder.linear("fc", value, weight=pieces_with()())


def test_a_code_book_without_zero_cannot_be_switched_off() -> None:
    builder = _C.Builder()
    value = builder.input("x", [1, 1], _C.Grid(scale=1.0))
    with pytest.raises(qstep.Error, match="switches channel 0 off, which takes a level 0"):
        builder.linear("fc", value, weight=book([[1.0]], [-1, 1])(), factor=np.zeros(1), bias=np.ones(1))
