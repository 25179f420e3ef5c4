"""torch.ops.qstep.fake_quantize_affine, its backward and affine_params against the oracle."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

import qstep  # noqa: F401  (registers torch.ops.qstep)
from oracle import iao as oracle

ops = torch.ops.qstep


def run(x, scale, zero_point, *, grad_output=None, **options):
    """x_hat and the gradient of x."""
    x = x.detach().requires_grad_()
    output = ops.fake_quantize_affine(x, scale, zero_point, **options)
    grad_output = torch.ones_like(output) if grad_output is None else grad_output
    return output.detach(), *torch.autograd.grad(output, x, grad_output)


def column(values: torch.Tensor, axis: int | None, dim: int) -> np.ndarray:
    return (
        values.numpy() if axis is None else values.numpy().reshape([-1 if d == axis % dim else 1 for d in range(dim)])
    )


def edge_values(scale: float, zero_point: int, quant_min: int, quant_max: int) -> np.ndarray:
    steps = np.arange(2 * (quant_min - zero_point) - 5, 2 * (quant_max - zero_point) + 6) / 2
    exact = np.float32(steps * scale)
    beside = [np.nextafter(exact, np.float32(limit)) for limit in (-np.inf, np.inf)]
    special = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-45])
    return np.concatenate([exact, *beside, special])


@pytest.mark.parametrize("rounding", ["half_even", "half_up"])
@pytest.mark.parametrize(
    "quant_min, quant_max, zero_point",
    [(0, 255, 128), (0, 255, 0), (0, 15, 15), (-127, 127, 0), (1, 255, 100), (-8, 7, 3)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_edge_value(quant_min, quant_max, zero_point, rounding, dtype):
    scale = 0.25
    x = edge_values(scale, zero_point, quant_min, quant_max)
    grad_output = np.float32(np.random.default_rng(0).integers(1, 64, x.shape))
    options = {"quant_min": quant_min, "quant_max": quant_max}
    output, grad_x = run(
        torch.from_numpy(x).to(dtype),
        torch.tensor(scale),
        torch.tensor(zero_point),
        grad_output=torch.from_numpy(grad_output).to(dtype),
        rounding=rounding,
        **options,
    )
    np.testing.assert_array_equal(output, oracle.fake_quantize(x, scale, zero_point, rounding=rounding, **options))
    np.testing.assert_array_equal(grad_x, oracle.grad_x(x, grad_output, scale, zero_point, **options))
    assert not torch.signbit(output[output == 0]).any()
    # Negative controls: the other rounding, and a range that ends half a code later, are told apart.
    other = {"half_even": "half_up", "half_up": "half_even"}[rounding]
    assert not np.array_equal(
        output, oracle.fake_quantize(x, scale, zero_point, rounding=other, **options), equal_nan=True
    )
    codes = np.rint(np.float64(x) / scale) + zero_point
    rounded_mask = np.where((codes >= quant_min) & (codes <= quant_max), grad_output, 0.0)
    assert not np.array_equal(grad_x, rounded_mask)


def test_the_bounds_of_an_uneven_scale_are_inside():
    """The nudged ends as float32 computes them, and their neighbours outside."""
    for scale, zero_point in itertools.product(np.float32([0.1, 0.0123, 3.7]), [0, 7, 255]):
        ends = np.float32([(0 - zero_point) * scale, (255 - zero_point) * scale])
        x = np.stack([ends, np.nextafter(ends, np.float32([-np.inf, np.inf]))])
        _, grad_x = run(torch.from_numpy(x), torch.tensor(scale), torch.tensor(zero_point), quant_min=0, quant_max=255)
        np.testing.assert_array_equal(grad_x, [[1, 1], [0, 0]])


def test_half_up_sees_ties_only():
    """floor(v + 0.5) in float32 would round 0.49999997 up."""
    below = np.nextafter(np.float32(0.5), np.float32(0))
    x = torch.tensor([below, 0.5, -0.5, 1.5, 2.5, -1.5])
    output = ops.fake_quantize_affine(
        x, torch.tensor(1.0), torch.tensor(0), quant_min=-8, quant_max=7, rounding="half_up"
    )
    np.testing.assert_array_equal(output, [0, 1, 0, 2, 3, -1])


@pytest.mark.parametrize("shape", [(), (1000,), (37, 130), (3, 5, 7, 9), (2, 3, 91, 101)])
@pytest.mark.parametrize("view", ["contiguous", "channels last", "strided", "expanded"])
def test_layouts_and_axes(shape, view):
    seed = 1
    generator = np.random.default_rng(seed)
    x = torch.from_numpy(generator.normal(size=shape))
    if x.dim() > 1 and view == "channels last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    if x.dim() > 0 and view == "strided":
        x = x[..., 1::2]
    if x.dim() > 0 and view == "expanded":
        x = x[:1].expand(3, *x.shape[1:])
    grad_output = torch.from_numpy(generator.normal(size=tuple(x.shape)))
    for axis in [None, *range(-x.dim(), x.dim())]:
        parameters = () if axis is None else (x.shape[axis],)
        scale = torch.from_numpy(generator.uniform(0.02, 0.3, size=parameters))
        zero_point = torch.from_numpy(np.asarray(generator.integers(0, 16, size=parameters)))
        output, grad_x = run(x, scale, zero_point, grad_output=grad_output, quant_min=0, quant_max=15, axis=axis)
        s, z = (column(p, axis, x.dim()) for p in (scale, zero_point))
        message = f"seed {seed}, axis {axis}"
        assert output.stride() == torch.empty_like(x).stride(), message
        np.testing.assert_array_equal(output, oracle.fake_quantize(x.numpy(), s, z, 0, 15), message)
        np.testing.assert_array_equal(
            grad_x, oracle.grad_x(x.numpy(), grad_output.numpy(), s, z, 0, 15, np.float64), message
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_compute_in_float32(dtype):
    torch.manual_seed(2)
    x = (torch.randn(300, 4) * 3).to(dtype)
    scale, zero_point = torch.full((4,), 0.3), torch.tensor([0, 3, 7, 15])
    options = {"quant_min": 0, "quant_max": 15, "axis": 1}
    for half, full in zip(
        run(x, scale, zero_point, **options), run(x.float(), scale, zero_point, **options), strict=True
    ):
        assert half.dtype == dtype
        assert torch.equal(half, full.to(dtype))


def test_zero_point_may_have_any_number_type():
    x = torch.randn(100)
    results = [
        ops.fake_quantize_affine(x, torch.tensor(0.1), torch.tensor(7, dtype=dtype), quant_min=0, quant_max=15)
        for dtype in (torch.int32, torch.int64, torch.uint8, torch.float32, torch.float64)
    ]
    assert all(torch.equal(results[0], other) for other in results)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 3, 0)])
def test_empty_tensors(shape):
    output, grad_x = run(torch.empty(shape), torch.tensor(0.5), torch.tensor(1), quant_min=0, quant_max=3)
    assert output.shape == grad_x.shape == torch.Size(shape)


def test_threads_change_nothing():
    torch.manual_seed(4)
    x, grad_output = torch.randn(8, 33, 61, 61), torch.randn(8, 33, 61, 61)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(
                run(
                    x,
                    torch.full((33,), 0.1),
                    torch.full((33,), 4),
                    grad_output=grad_output,
                    quant_min=0,
                    quant_max=15,
                    axis=1,
                )
            )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# --- affine_params ----------------------------------------------------------------------------------------------------------------------

CODE_RANGES = [(0, 255), (0, 15), (0, 3), (-128, 127), (-8, 7), (1, 255)]
RANGES = [
    (-1.0, 1.0),
    (0.0, 6.0),
    (-6.0, 0.0),
    (2.0, 5.0),
    (-5.0, -2.0),
    (0.0, 0.0),
    (-0.1, 0.3),
    (-1e-3, 1e3),
    (-3e38, 3e38),
    (-1.0, 254.0),
]


@pytest.mark.parametrize("quant_min, quant_max", CODE_RANGES)
def test_affine_params(quant_min, quant_max):
    seed = 6
    generator = np.random.default_rng(seed)
    ends = np.sort(np.float32(generator.normal(size=(500, 2)) * np.exp(generator.normal(size=(500, 1)) * 3)), axis=1)
    ends = np.concatenate([np.float32(RANGES), ends])
    scale, zero_point = ops.affine_params(*torch.from_numpy(ends).T, quant_min=quant_min, quant_max=quant_max)
    assert (scale.dtype, zero_point.dtype) == (torch.float32, torch.int32)
    for (low, high), s, z in zip(ends.tolist(), scale.tolist(), zero_point.tolist(), strict=True):
        expected_scale, expected_zero_point = oracle.affine_params(low, high, quant_min, quant_max)
        assert abs(Fraction(s) - expected_scale) <= expected_scale * Fraction(1, 2**24), (
            f"range [{low}, {high}], seed {seed}"
        )
        assert z == expected_zero_point, f"range [{low}, {high}], seed {seed}"


@pytest.mark.parametrize("quant_min, quant_max", [(-127, 127), (-128, 127), (-7, 7), (0, 15)])
def test_symmetric_params(quant_min, quant_max):
    ends = torch.tensor(RANGES)
    scale, zero_point = ops.affine_params(*ends.T, quant_min=quant_min, quant_max=quant_max, symmetric=True)
    assert not zero_point.any()
    for (low, high), s in zip(ends.tolist(), scale.tolist(), strict=True):
        expected, _ = oracle.affine_params(low, high, quant_min, quant_max, symmetric=True)
        assert abs(Fraction(s) - expected) <= expected * Fraction(1, 2**24)


def test_true_ties_of_the_zero_point_go_away_from_zero():
    """[-1, 1] on 0..255 puts zero at 127.5, on -128..127 at -0.5."""
    ends = torch.tensor([-1.0]), torch.tensor([1.0])
    assert ops.affine_params(*ends, quant_min=0, quant_max=255)[1].item() == 128
    assert ops.affine_params(*ends, quant_min=-128, quant_max=127)[1].item() == -1


def test_params_of_ranges_without_width():
    for width in (0.0, 1e-45):
        scale, zero_point = ops.affine_params(torch.tensor(0.0), torch.tensor(width), quant_min=3, quant_max=15)
        assert (scale.item(), zero_point.item()) == (1.0, 3)


def test_params_take_part_in_no_gradient():
    w = torch.randn(3, 4, requires_grad=True)
    scale, zero_point = ops.affine_params(w.amin(1), w.amax(1), quant_min=-127, quant_max=127, symmetric=True)
    assert not scale.requires_grad
    ops.fake_quantize_affine(w, scale, zero_point, quant_min=-127, quant_max=127, axis=0).sum().backward()
    assert torch.equal(w.grad, torch.ones_like(w))


# --- torch's own machinery --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 1, -1])
def test_opcheck(axis):
    torch.manual_seed(5)
    x = torch.randn(4, 6, 5)
    parameters = [] if axis is None else [x.shape[axis]]
    scale, zero_point = torch.full(parameters, 0.2), torch.full(parameters, 3)
    options = {"quant_min": 0, "quant_max": 15, "axis": axis}
    torch.library.opcheck(ops.fake_quantize_affine.default, (x.clone().requires_grad_(), scale, zero_point), options)
    torch.library.opcheck(
        ops.fake_quantize_affine_backward.default, (torch.randn_like(x), x, scale, zero_point), options
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_opcheck_params(symmetric):
    options = {"quant_min": -7, "quant_max": 7, "symmetric": symmetric}
    torch.library.opcheck(ops.affine_params.default, (torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 3.0])), options)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_is_equal(dynamic):
    x = torch.randn(5, 7, requires_grad=True)

    def layer(x):
        scale, zero_point = ops.affine_params(x.amin(), x.amax(), quant_min=0, quant_max=15)
        return ops.fake_quantize_affine(x, scale, zero_point, quant_min=0, quant_max=15).square()

    results = []
    for function in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)):
        output = function(x)
        results.append((output, *torch.autograd.grad(output.sum(), x)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# --- errors -----------------------------------------------------------------------------------------------------------------------------

X = torch.zeros(2, 3)
S = torch.tensor(0.5)
Z = torch.tensor(3)
CODES = {"quant_min": 0, "quant_max": 15}


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((X, S, Z), {"quant_min": 3, "quant_max": 2}, "quant_min must be below quant_max, got 3 and 2"),
        ((X.int(), S, Z), CODES, "x must be float32, float64, bfloat16 or float16, got Int"),
        ((X, S, Z.bool()), CODES, "zero_point must be integer or floating, got Bool"),
        ((X, S, Z.expand(2)), CODES, "zero_point must have one element"),
        ((X, S.expand(3), Z), CODES | {"axis": 1}, r"zero_point must have shape \[3\]"),
        ((X, S.expand(3), Z.expand(3)), CODES | {"axis": 4}, "axis must be a dimension of x, which has 2, got 4"),
        ((X, S, Z), CODES | {"rounding": "up"}, "rounding must be 'half_even' or 'half_up', got 'up'"),
        ((X, -S, Z), CODES, "scale must be finite and above 0, got -0.5"),
        ((X, S * torch.nan, Z), CODES, "scale must be finite and above 0, got nan"),
        *(
            ((X, S, torch.tensor(z)), CODES, "zero_point must be an integer of .* = .0, 15., got")
            for z in (-1, 16, 0.5, np.nan)
        ),
    ],
)
def test_errors_are_named(arguments, options, message):
    with pytest.raises(RuntimeError, match="fake_quantize_affine: " + message):
        ops.fake_quantize_affine(*arguments, **options)


@pytest.mark.parametrize(
    "low, high, message",
    [
        (torch.tensor(2.0), torch.tensor(1.0), "min must not be above max, got 2 and 1"),
        (torch.tensor(np.nan), torch.tensor(1.0), "min must be finite, got nan"),
        (torch.tensor(0.0), torch.tensor(np.inf), "max must be finite, got inf"),
        (torch.tensor([0.0]), torch.tensor(1.0), "max must have the shape, dtype and device of min"),
        (torch.tensor(0), torch.tensor(1), "min must be floating, got Long"),
    ],
)
def test_errors_of_params_are_named(low, high, message):
    with pytest.raises(RuntimeError, match="affine_params: " + message):
        ops.affine_params(low, high, **CODES)
