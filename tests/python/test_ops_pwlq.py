"""torch.ops.qstep.pwlq and its companions against the oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import qstep
from oracle import pwlq as oracle

F = qstep.functional
ops = torch.ops.qstep

DENSITIES = {"gaussian": oracle.gaussian_pdf, "laplace": oracle.laplace_pdf}


def weights(shape, seed: int, kind: str = "gaussian") -> torch.Tensor:
    print(f"seed {seed}, {kind}, {shape}")
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "laplace":
        w = w.sign() * torch.empty(shape, dtype=torch.float64).exponential_(math.sqrt(2), generator=generator)
    return w


def sample_of_range(pdf_name: str, m: float) -> torch.Tensor:
    """max and sd as pwlq_estimate takes them: a channel whose range is m standard deviations."""
    return torch.tensor([m], dtype=torch.float64), torch.ones(1, dtype=torch.float64)


# --- quantization ---


@pytest.mark.parametrize("scheme", ["paper", "repo"])
@pytest.mark.parametrize("bit_width", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("share", [[0.3], [0.5], [0.15, 0.4], [0.1, 0.25, 0.6]])
def test_every_level_and_every_middle(bit_width, share, scheme):
    """Levels, the middles between them, their neighbours, breakpoints, zero and the extremes. m and the steps are exact in binary."""
    m = 2.0 ** (bit_width + 2)
    p = [round(s * m) / 1.0 for s in share]
    levels = np.concatenate(oracle.piece_levels(p, m, bit_width, scheme))
    middles = np.concatenate([(v[1:] + v[:-1]) / 2 for v in oracle.piece_levels(p, m, bit_width, scheme)])
    magnitudes = np.concatenate([levels, np.nextafter(middles, 0), np.nextafter(middles, np.inf), p, [m, 0.0]])
    magnitudes = magnitudes[magnitudes <= m]
    w = np.concatenate([magnitudes, -magnitudes])
    result = F.pwlq(
        torch.from_numpy(w), bit_width=bit_width, breakpoint=torch.tensor(p, dtype=torch.float64), scheme=scheme
    ).numpy()
    nearest = oracle.quantize(w, p, bit_width, scheme)
    step = m / (2 ** (bit_width - 1) - 1)
    # nextafter(middle) may divide to the tie itself: then either neighbour is as near, to one part in 2^50
    same = np.isclose(result, nearest, rtol=1e-14, atol=0)
    tie = np.isclose(np.abs(result - w), np.abs(nearest - w), rtol=1e-12, atol=0)
    assert (same | tie).all()
    assert (same[: len(levels)]).all()
    assert np.abs(result - w).max() <= step
    # Negative control: the other scheme gives other values.
    assert not np.allclose(result, oracle.quantize(w, p, bit_width, {"paper": "repo", "repo": "paper"}[scheme]))


def test_ties_go_to_the_even_magnitude():
    """Piece 0 has levels 0, 1, 2, 3, piece 1 has 3, 5, 7, 9."""
    w = torch.tensor([0.5, 1.5, 2.5, 4.0, 6.0, 8.0, -0.5, -1.5, -4.0, -6.0, 9.0, 3.0])
    expected = [0.0, 2.0, 2.0, 3.0, 7.0, 7.0, 0.0, -2.0, -3.0, -7.0, 9.0, 3.0]
    values = F.pwlq(w, bit_width=3, breakpoint=3.0)
    assert values.tolist() == expected
    assert not torch.signbit(values[values == 0]).any()
    assert not torch.signbit(F.pwlq(torch.tensor([-0.0, 1.0]), bit_width=3)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scheme", ["paper", "repo"])
def test_dtypes(dtype, scheme):
    w = weights((3000,), 1).to(dtype)
    m = w.double().abs().max().item()
    p = [0.35 * m]
    values = F.pwlq(w, bit_width=4, breakpoint=p[0], scheme=scheme)
    assert values.dtype == dtype
    expected = oracle.quantize(w.double().numpy(), p, 4, scheme)
    precision = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    close = np.isclose(values.double().numpy(), expected, rtol=precision, atol=1e-6)
    print(f"{(~close).sum()} of {close.size} at ties")
    assert (~close).mean() < 1e-3


@pytest.mark.parametrize(
    "shape, axis", [((7, 5, 3, 3), 0), ((5, 7, 3, 3), 1), ((5, 7), -1), ((4, 1, 1), 0), ((6, 1, 3, 3), 0)]
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("breakpoints", [1, 2, 3])
@pytest.mark.parametrize("bias_correction", [None, "repo"])
def test_channels_stand_alone(shape, axis, layout, breakpoints, bias_correction):
    w = weights(shape, 2).float() * torch.arange(1, shape[axis] + 1).reshape(
        [-1 if d == axis % len(shape) else 1 for d in range(len(shape))]
    )
    if layout == "channels_last":
        if w.dim() != 4:
            pytest.skip("images only")
        w = w.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        w = torch.stack([w, w + 1], -1)[..., 0]
    options = {"bit_width": 4, "breakpoints": breakpoints, "bias_correction": bias_correction}
    values = F.pwlq(w, axis=axis, **options)
    p = F.pwlq_breakpoint(w, bit_width=4, axis=axis, breakpoints=breakpoints)
    assert p.shape == ((shape[axis],) if breakpoints == 1 else (shape[axis], breakpoints))
    assert (
        torch.equal(F.pwlq(w, axis=axis, bit_width=4, breakpoint=p.double(), bias_correction=bias_correction), values)
        or (F.pwlq(w, axis=axis, bit_width=4, breakpoint=p, bias_correction=bias_correction) - values).abs().max()
        <= 1e-5 * w.abs().max()
    )
    for part, whole in zip(w.unbind(axis), values.unbind(axis), strict=True):
        assert torch.equal(F.pwlq(part, **options), whole)


# --- estimates ---


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize("m", [1.6, 2.0, 3.0, 4.0, 5.5, 8.0, 10.0, 20.0])
def test_bisection_finds_the_minimum(name, m):
    pdf = DENSITIES[name]
    found = ops.pwlq_estimate(*sample_of_range(name, m), estimate=f"optimal_{name}").item()
    brute = oracle.best_breakpoint(pdf, m)
    assert abs(found - brute) <= m / 20000 + 1e-9
    error = oracle.expected_error(pdf, m, [found])
    for beside in (0.97 * found, min(1.03 * found, m / 2)):
        assert error <= oracle.expected_error(pdf, m, [beside]) + 1e-12


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize("m", [2.0, 4.0, 8.0, 16.0])
@pytest.mark.parametrize("count", [2, 3])
def test_several_breakpoints_are_optimal_together(name, m, count):
    pdf = DENSITIES[name]
    found = ops.pwlq_estimate(*sample_of_range(name, m), breakpoints=count, estimate=f"optimal_{name}")[0].tolist()
    brute = oracle.best_breakpoints(pdf, m, count, 400)
    assert np.abs(np.subtract(found, brute)).max() <= 2 * m / 400
    assert oracle.expected_error(pdf, m, found) <= oracle.expected_error(pdf, m, brute) * (1 + 1e-6)


@pytest.mark.parametrize(
    "name, within, at_ten, at_two", [("gaussian", 0.0075, 0.012, 0.036), ("laplace", 0.0099, 0.021, 0.036)]
)
def test_fits_are_as_near_as_stated(name, within, at_ten, at_two):
    def distance(m: float) -> float:
        fit = ops.pwlq_estimate(*sample_of_range(name, m), estimate=name).item()
        return abs(fit - oracle.best_breakpoint(DENSITIES[name], m))

    assert max(distance(m) for m in np.linspace(3, 8, 26)) <= within + 5e-4
    assert distance(10.0) <= at_ten + 1e-3
    assert distance(2.0) <= at_two + 1e-3


def test_erratum_the_fit_gives_p_not_p_over_m():
    """At m = 4 the formula gives 1.400, the optimum of equation 6 is 1.392. Read as p / m it would be beyond the range."""
    value = math.log(0.8614 * 4 + 0.6079)
    assert abs(value - 1.400) < 1e-3
    assert abs(oracle.best_breakpoint(oracle.gaussian_pdf, 4.0) - 1.392) < 2e-3
    assert abs(ops.pwlq_estimate(*sample_of_range("gaussian", 4.0)).item() - value) < 1e-4
    assert value > 0.5  # negative control: no breakpoint is above half of the range


@pytest.mark.parametrize("bit_width, bound", [(2, 9 / 16), (3, 0.340), (4, 0.287), (8, 0.252)])
@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_error_bounds(bit_width, bound, name):
    """E_pw(p*) < C(b - 1) / (16 C(b)) E_uniform, theorem 1."""
    for m in (3.0, 4.0, 6.0, 10.0):
        p = ops.pwlq_estimate(*sample_of_range(name, m), estimate=f"optimal_{name}").item()
        piecewise = oracle.expected_error(DENSITIES[name], m, [p]) / (12 * (2 ** (bit_width - 1) - 1) ** 2)
        ratio = piecewise / oracle.uniform_error(m, bit_width)
        assert ratio < bound + 5e-4
    assert abs((2**bit_width - 1) ** 2 / (16 * (2 ** (bit_width - 1) - 1) ** 2) - bound) < 1e-3


def test_first_piece_of_the_authors_code_is_finer():
    """4 bits on N(0, 1): about 4.3e-3 against 4.7e-3."""
    w = weights((20, 10_000), 3).float()
    errors = [(F.pwlq(w, bit_width=4, axis=0, scheme=s) - w).square().mean().item() for s in ("paper", "repo")]
    print(errors)
    assert 0.90 < errors[1] / errors[0] < 0.94
    assert 4e-3 < errors[1] < errors[0] < 5e-3


@pytest.mark.parametrize("scheme", ["paper", "repo"])
@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("bit_width", [3, 4])
def test_search_is_brute_force_to_a_thousandth(scheme, kind, bit_width):
    w = weights((600,), 4, kind)
    m = w.abs().max().item()
    found = F.pwlq_breakpoint(w, bit_width=bit_width, estimate="search", scheme=scheme).item()

    def error(p: float) -> float:
        return float(np.square(oracle.quantize(w.numpy(), [p], bit_width, scheme) - w.numpy()).sum())

    brute = min(error(k * m / 1000) for k in range(20, 501, 3))
    assert error(found) <= brute * 1.0005  # the stages before the last one leave up to 1 %
    assert error(found) <= error(F.pwlq_breakpoint(w, bit_width=bit_width, scheme=scheme).item()) * (1 + 1e-3)
    assert abs(found / m * 1000 - round(found / m * 1000)) < 1e-6


@pytest.mark.parametrize("breakpoints", [2, 3])
def test_search_beats_the_estimate(breakpoints):
    w = weights((2000,), 5, "laplace")
    error = [
        (F.pwlq(w, bit_width=3, breakpoints=breakpoints, estimate=e) - w).square().sum()
        for e in ("search", "gaussian", "laplace")
    ]
    assert error[0] <= min(error[1:]) * (1 + 1e-3)
    assert error[0] < (F.pwlq(w, bit_width=3, breakpoints=breakpoints - 1, estimate="search") - w).square().sum()


def test_flat_constant_and_empty_channels():
    # max / sd below 1.2: equal pieces
    flat = torch.tensor([-1.0, 1.0, -1.0, 1.0, 0.9, -0.95])
    assert F.pwlq_breakpoint(flat, bit_width=4).item() == 0.5
    np.testing.assert_allclose(F.pwlq_breakpoint(flat, bit_width=4, breakpoints=3), [0.25, 0.5, 0.75])
    for constant in (0.0, -0.7, 1e-30, 3e38):
        w = torch.full((2, 5), constant)
        for correction in (None, "repo", "exact"):
            for estimate in ("gaussian", "search"):
                values = F.pwlq(w, bit_width=4, axis=0, bias_correction=correction, estimate=estimate)
                torch.testing.assert_close(values, w, rtol=1e-6, atol=1e-29)
    assert F.pwlq_breakpoint(torch.zeros(3), bit_width=4).item() == 0.5
    assert F.pwlq_breakpoint(torch.tensor([2.0]), bit_width=4).item() == 1.0  # no deviation
    assert F.pwlq(torch.zeros(0, 3), bit_width=4).shape == (0, 3)
    assert F.pwlq(torch.zeros(2, 0), bit_width=4, axis=0).shape == (2, 0)
    assert F.pwlq_breakpoint(torch.zeros(2, 0), bit_width=4, axis=0).shape == (2,)
    # one value far out: the first piece is not narrower than a fiftieth
    far = torch.cat([1e-4 * torch.randn(1000, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0])])
    assert F.pwlq_breakpoint(far * 1, bit_width=4).item() >= 0.02


# --- bias correction ---


@pytest.mark.parametrize("bit_width", [2, 4, 8])
@pytest.mark.parametrize("scheme", ["paper", "repo"])
def test_bias_correction(bit_width, scheme):
    w = weights((4, 300), 6) + 0.3
    plain = F.pwlq(w, bit_width=bit_width, axis=0, scheme=scheme).numpy()
    for variant in ("repo", "exact"):
        corrected = F.pwlq(w, bit_width=bit_width, axis=0, scheme=scheme, bias_correction=variant).numpy()
        for channel in range(4):
            expected = oracle.bias_corrected(w[channel].numpy(), plain[channel], variant)
            np.testing.assert_allclose(corrected[channel], expected, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(corrected[channel].std(), w[channel].numpy().std(), rtol=1e-9)
            if variant == "exact":
                assert abs(corrected[channel].mean() - w[channel].mean().item()) < 1e-12
    assert not np.allclose(
        F.pwlq(w, bit_width=bit_width, axis=0, bias_correction="repo"),
        F.pwlq(w, bit_width=bit_width, axis=0, bias_correction="exact"),
        rtol=1e-12,
        atol=0,
    )


# --- codes ---


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("breakpoints", [1, 2, 3])
@pytest.mark.parametrize("bit_width", [2, 4, 8])
@pytest.mark.parametrize("scheme", ["paper", "repo"])
@pytest.mark.parametrize("bias_correction", ["none", "repo", "exact"])
def test_codes_stand_for_the_values(axis, breakpoints, bit_width, scheme, bias_correction):
    w = weights((6, 5, 9), 7).float()
    w[0, 0, 0] = -0.0
    options = {
        "bit_width": bit_width,
        "axis": axis,
        "breakpoints": breakpoints,
        "scheme": scheme,
        "bias_correction": bias_correction,
    }
    region, magnitude, negative, start, step, constant = ops.pwlq_encode(w, **options)
    channels = 1 if axis is None else w.shape[axis]
    assert start.shape == step.shape == (breakpoints + 1, channels) and constant.shape == (channels,)
    assert region.max() <= breakpoints and magnitude.max() < 2 ** (bit_width - 1)
    assert (start[0] == 0).all() and (step > 0).all() and not negative[0, 0, 0]
    channel = torch.zeros(w.shape, dtype=torch.long)
    if axis is not None:
        channel += torch.arange(channels).reshape([-1 if d == axis else 1 for d in range(3)])
    sign = 1 - 2 * negative.double()
    values = sign * (start[region.long(), channel] + step[region.long(), channel] * magnitude) + constant[channel]
    torch.testing.assert_close(values, ops.pwlq(w, **options).double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("breakpoints, bit_width", [(1, 2), (1, 4), (1, 7), (2, 3), (2, 6), (3, 4), (3, 6)])
@pytest.mark.parametrize("scheme", ["paper", "repo"])
@pytest.mark.parametrize("bias_correction", ["none", "repo", "exact"])
def test_code_book_is_a_grid(axis, breakpoints, bit_width, scheme, bias_correction):
    w = weights((6, 5, 9), 8).float()
    options = {
        "bit_width": bit_width,
        "axis": axis,
        "breakpoints": breakpoints,
        "scheme": scheme,
        "bias_correction": bias_correction,
    }
    values, scale, levels = ops.pwlq_code_book(w, **options)
    largest = 2 ** (bit_width - 1) - 1
    assert levels.shape[1] == 2 * largest * (breakpoints + 1) + (3 if scheme == "repo" else 1)
    assert (levels[:, 1:] > levels[:, :-1]).all()
    moved = values if axis is None else values.movedim(axis, 0)
    rows = moved.reshape(levels.shape[0], -1)
    codes = rows / scale.reshape(-1, 1)
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=2e-3)
    for row, table in zip(codes.round().short(), levels, strict=True):
        assert torch.isin(row, table).all()
    if bias_correction == "none":
        torch.testing.assert_close(
            rows.abs().amax(1), (w if axis is None else w.movedim(axis, 0)).reshape(rows.shape).abs().amax(1)
        )
        assert torch.equal(levels, -levels.flip(1))


@pytest.mark.parametrize("bit_width", [3, 4])
def test_code_book_has_the_best_multiple(bit_width):
    """One breakpoint of the paper's scheme: p = m / (1 + t) with a whole number t."""
    w = weights((5000,), 9)
    m = w.abs().max().item()
    error = [np.square(oracle.quantize(w.numpy(), [m / (1 + t)], bit_width) - w.numpy()).sum() for t in range(1, 12)]
    values, scale, levels = ops.pwlq_code_book(w, bit_width=bit_width)
    assert abs((values - w).square().sum().item() / min(error) - 1) < 1e-6
    largest = 2 ** (bit_width - 1) - 1
    assert levels.max().item() == largest * (2 + int(np.argmin(error)))
    assert abs(scale.item() * levels.max().item() / m - 1) < 1e-12


# --- gradient, registration ---


def test_gradient_passes_unchanged():
    for function in (
        lambda w: F.pwlq(w, bit_width=4, axis=0, bias_correction="repo"),
        lambda w: ops.pwlq_code_book(w, bit_width=4, axis=0)[0],
    ):
        w = weights((3, 8), 10).float().requires_grad_()
        upstream = torch.randn(3, 8)
        (grad,) = torch.autograd.grad(function(w), w, upstream)
        assert torch.equal(grad, upstream)
    assert not F.pwlq_breakpoint(w, bit_width=4).requires_grad


@pytest.mark.parametrize("breakpoint", [None, 0.5])
def test_opcheck(breakpoint):
    w = weights((4, 6), 11).float().requires_grad_()
    p = None if breakpoint is None else torch.full((4,), breakpoint)
    for op in (ops.pwlq, ops.pwlq_encode, ops.pwlq_code_book):
        torch.library.opcheck(op, (w, p), {"bit_width": 4, "axis": 0, "bias_correction": "exact"})
    torch.library.opcheck(ops.pwlq_breakpoint, (w,), {"bit_width": 4, "axis": 0, "breakpoints": 2})
    torch.library.opcheck(ops.top_k_range, (w,), {"k": 3})


# --- activations ---


@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (10,), (11,), (3, 50), (2, 3, 4, 5)])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_top_k_range(shape, k):
    x = weights(shape, 12).float()
    np.testing.assert_allclose(F.top_k_range(x, k=k), oracle.top_k_range(x.numpy(), k), rtol=1e-6)
    np.testing.assert_allclose(
        F.top_k_range(x.t() if x.dim() == 2 else x, k=k), oracle.top_k_range(x.numpy(), k), rtol=1e-6
    )


# --- bad input ---


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bit_width": 1}, r"bit_width must be in \[2, 8\], got 1"),
        ({"bit_width": 9}, r"bit_width must be in \[2, 8\], got 9"),
        ({"axis": 2}, "axis must be a dimension of x"),
        ({"breakpoints": 0}, r"breakpoints must be in \[1, 3\], got 0"),
        ({"breakpoints": 4}, r"breakpoints must be in \[1, 3\], got 4"),
        ({"estimate": "normal"}, "estimate must be 'gaussian', 'laplace'"),
        ({"scheme": "mine"}, "scheme must be 'paper' or 'repo', got 'mine'"),
        ({"bias_correction": "yes"}, "bias_correction must be 'none', 'repo' or 'exact', got 'yes'"),
        ({"breakpoint": 0.0}, r"breakpoint must be above 0 and below the largest magnitude of w, 3"),
        ({"breakpoint": -1.0}, "breakpoint must be above 0"),
        ({"breakpoint": 3.0}, "breakpoint must be above 0 and below the largest magnitude of w, 3"),
        ({"breakpoint": float("nan")}, "got nan"),
        ({"breakpoint": [2.0, 1.0]}, "breakpoint must be above 2"),
        ({"breakpoint": [0.1, 0.2, 0.3, 0.4]}, r"breakpoints must be in \[1, 3\], got 4"),
        ({"breakpoint": [[1.0]]}, r"breakpoint must have shape \[\] or \[count\]"),
        ({"breakpoint": [1.0, 1.0, 1.0], "axis": 0}, r"breakpoint must have one row per channel, 2"),
    ],
)
def test_bad_arguments(change, message):
    w = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    if isinstance(change.get("breakpoint"), list):
        change = {**change, "breakpoint": torch.tensor(change["breakpoint"])}
    with pytest.raises(RuntimeError, match=f"pwlq: {message}" if "got nan" not in message else message):
        F.pwlq(w, **{"bit_width": 4, **change})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("axis", [None, 0])
def test_weights_must_be_finite(bad, axis):
    w = torch.ones(3, 4)
    w[1, 2] = bad
    for function in (F.pwlq, F.pwlq_breakpoint, ops.pwlq_encode, ops.pwlq_code_book):
        with pytest.raises(RuntimeError, match="w must be finite"):
            function(w, bit_width=4, axis=axis)


def test_limits_of_code_books_and_ranges():
    with pytest.raises(RuntimeError, match="at most 256 levels, got 509 from bit_width 8 and 1 breakpoints"):
        ops.pwlq_code_book(torch.randn(9), bit_width=8)
    with pytest.raises(RuntimeError, match="x must not be empty"):
        F.top_k_range(torch.zeros(0, 3))
    with pytest.raises(RuntimeError, match="k must be at least 1, got 0"):
        F.top_k_range(torch.zeros(3), k=0)
    with pytest.raises(RuntimeError, match="must be float32, float64"):
        F.pwlq(torch.tensor([1, 2]), bit_width=4)
