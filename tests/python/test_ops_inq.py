"""torch.ops.qstep.inq_quantize, inq_range, inq_partition and inq_fractions against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import qstep
from oracle import inq as oracle

ops = torch.ops.qstep
F = qstep.functional

BITS = [2, 3, 4, 5]
NAMES = {torch.float32: np.float32, torch.float64: np.float64}


def quantized(w: torch.Tensor, n1: int, bit_width: int) -> np.ndarray:
    return F.inq_quantize(w, bit_width=bit_width, n1=n1).double().numpy()


def expected(w: np.ndarray, n1: int, bit_width: int) -> np.ndarray:
    flat = [oracle.quantize(float(v), n1, bit_width) for v in w.reshape(-1)]
    return np.array(flat).reshape(w.shape)


def edge_values(n1: int, dtype: type) -> np.ndarray:
    """Every threshold and level of every bit width, and the neighbours of each."""
    exponents = np.arange(n1 - 11, n1 + 4)
    exact = np.concatenate([np.ldexp(1.0, exponents), np.ldexp(1.5, exponents)]).astype(dtype)
    beside = [np.nextafter(exact, dtype(limit)) for limit in (-np.inf, np.inf)]
    special = np.array([0.0, np.inf, np.nan, np.finfo(dtype).max, np.finfo(dtype).tiny, 1e-45], dtype)
    values = np.concatenate([exact, *beside, special])
    return np.concatenate([values, -values])


# --- inq_quantize -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit_width", BITS)
@pytest.mark.parametrize("n1", [-20, -3, 0, 1, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_threshold_and_its_neighbours(bit_width, n1, dtype):
    w = edge_values(n1, NAMES[dtype])
    output = quantized(torch.from_numpy(w), n1, bit_width)
    np.testing.assert_array_equal(output, expected(w, n1, bit_width))
    assert not np.signbit(output[output == 0]).any()
    # Negative control: midpoints to the smaller magnitude are told apart.
    midpoint = np.ldexp(1.5, n1 - 1) if bit_width > 2 else np.ldexp(1.0, n1 - 1)
    assert quantized(torch.tensor(midpoint, dtype=dtype), n1, bit_width) == np.ldexp(1.0, n1)
    below = torch.tensor(np.nextafter(NAMES[dtype](midpoint), NAMES[dtype](0)))
    assert quantized(below, n1, bit_width) < np.ldexp(1.0, n1)


@pytest.mark.parametrize("bit_width", BITS)
@pytest.mark.parametrize("dtype, lowest, highest", [(torch.float32, -126, 127), (torch.float64, -1022, 1023)])
def test_extreme_exponents(bit_width, dtype, lowest, highest):
    lowest += 2 ** (bit_width - 2)
    for n1 in (lowest, highest):
        with np.errstate(over="ignore"):
            w = edge_values(n1, NAMES[dtype])
        np.testing.assert_array_equal(quantized(torch.from_numpy(w), n1, bit_width), expected(w, n1, bit_width))
    for n1 in (lowest - 1, highest + 1):
        with pytest.raises(RuntimeError, match=rf"inq_quantize: n1 must be in \[{lowest}, {highest}\] .*, got {n1}"):
            quantized(torch.ones(1, dtype=dtype), n1, bit_width)


@pytest.mark.parametrize("bit_width", BITS)
def test_random_weights_fixed_points_and_order(bit_width):
    seed = 1
    w = np.float32(np.random.default_rng(seed).normal(size=2001) * 0.1)
    w = np.concatenate([w, -w])
    tensor = torch.from_numpy(w)
    n1, n2 = F.inq_range(tensor, bit_width)
    assert (n1, n2) == oracle.exponents(w.tolist(), bit_width), f"seed {seed}"
    output = F.inq_quantize(tensor, bit_width=bit_width)
    np.testing.assert_array_equal(output, expected(w, n1, bit_width), f"seed {seed}")
    assert torch.equal(F.inq_quantize(output, bit_width=bit_width, n1=n1), output), "values of the set stay"
    assert F.inq_range(output, bit_width) == (n1, n2), "and define the same set"
    ordered = output[tensor.argsort()]
    assert (ordered[1:] >= ordered[:-1]).all()
    assert len(output.unique()) == 2 ** (bit_width - 1) + 1


@pytest.mark.parametrize("dtype, lowest", [(torch.bfloat16, -126), (torch.float16, -24)])
def test_half_types_compute_in_float32(dtype, lowest):
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    for bit_width, n1 in [(5, 0), (5, 15), (2, 0), (4, lowest + 4)]:
        half = F.inq_quantize(every, bit_width=bit_width, n1=n1)
        full = F.inq_quantize(every.float(), bit_width=bit_width, n1=n1)
        assert half.dtype == dtype
        torch.testing.assert_close(half.float(), full, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,), (37, 130), (3, 5, 7, 9)])
def test_layouts(shape):
    seed = 2
    w = torch.from_numpy(np.random.default_rng(seed).normal(size=shape))
    views = [w]
    if w.dim() > 1:
        views += [
            w.transpose(0, 1),
            w.movedim(1, -1).contiguous().movedim(-1, 1),
            w[..., 1::2],
            w[:1].expand(3, *shape[1:]),
        ]
    for view in views:
        output = F.inq_quantize(view, bit_width=4, n1=0)
        assert output.stride() == torch.empty_like(view).stride()
        np.testing.assert_array_equal(output, expected(view.numpy(), 0, 4), f"seed {seed}")


def test_gradient_is_straight_through():
    w = torch.tensor([-9.0, -0.5, 0.0, 0.1, 3.0], requires_grad=True)
    upstream = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0])
    (gradient,) = torch.autograd.grad(F.inq_quantize(w, bit_width=3, n1=0), w, upstream)
    assert torch.equal(gradient, upstream)


def test_threads_change_nothing():
    torch.manual_seed(3)
    w = torch.randn(333, 1001)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(F.inq_quantize(w, bit_width=5))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


# --- inq_range --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_range_at_every_threshold(dtype):
    """n1 changes where 4 s / 3 is a power of two: at s = 0.75 * 2^k, which floats hold exactly."""
    exact = np.ldexp(0.75, np.arange(-60, 61)).astype(NAMES[dtype])
    for s in np.concatenate([exact, *(np.nextafter(exact, NAMES[dtype](limit)) for limit in (0, np.inf))]):
        for bit_width in BITS:
            assert F.inq_range(torch.tensor([0.0, -s]), bit_width) == oracle.exponents([float(s)], bit_width), s


def test_range_of_least_squared_error():
    seed = 20261122
    generator = np.random.default_rng(seed)
    differing = 0
    for trial in range(60):
        w = generator.standard_t(3, size=int(generator.integers(1, 40))) * 2.0 ** generator.integers(-8, 8)
        for bit_width in BITS:
            n1, n2 = F.inq_range(torch.from_numpy(w), bit_width, "mse")
            assert n1 == oracle.least_error_exponent(w.tolist(), bit_width), (seed, trial, bit_width)
            assert n2 == n1 + 1 - 2 ** (bit_width - 2)
            differing += n1 != F.inq_range(torch.from_numpy(w), bit_width)[0]
    assert differing > 20, "the rules differ"
    assert F.inq_range(torch.zeros(3), 2, "mse") == (0, 0)
    assert F.inq_range(torch.tensor([1e-45]), 3, "mse")[0] == -124, "the lowest that float32 has"
    with pytest.raises(RuntimeError, match="rule must be 'max' or 'mse', got 'min'"):
        F.inq_range(torch.ones(3), 2, "min")


def test_range_of_extreme_weights():
    for bit_width in BITS:
        for empty in (torch.zeros(3), torch.zeros(0), -torch.zeros(2, 2)):
            assert F.inq_range(empty, bit_width) == (0, 1 - 2 ** (bit_width - 2))
            assert torch.equal(F.inq_quantize(empty, bit_width=bit_width), torch.zeros(empty.shape))
        # A power beyond the type's range stays inside it.
        assert F.inq_range(torch.tensor([3.4e38]), bit_width)[0] == 127
        assert F.inq_range(torch.tensor([1e-45]), bit_width)[0] == -126 + 2 ** (bit_width - 2)
        assert F.inq_range(torch.tensor([65504.0]).half(), bit_width)[0] == 15
        for w in (torch.tensor([3.4e38, 1e30]), torch.tensor([1e-45, 1e-40]), torch.tensor([65504.0]).half()):
            assert torch.isfinite(F.inq_quantize(w, bit_width=bit_width)).all()


# --- inq_partition ----------------------------------------------------------------------------------------------------------------------

PRESETS = {
    "alexnet_5bit": [0.3, 0.6, 0.8, 1.0],
    "vgg16_5bit": [0.5, 0.75, 0.875, 1.0],
    "googlenet_5bit": [0.2, 0.4, 0.6, 0.8, 1.0],
    "resnet18_5bit": [0.5, 0.75, 0.875, 1.0],
    "resnet50_5bit": [0.5, 0.75, 0.875, 1.0],
    "resnet18_4bit": [0.3, 0.5, 0.8, 0.9, 0.95, 1.0],
    "resnet18_3bit": [0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0],
    "resnet18_2bit": [0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 1.0],
}


def test_presets_are_the_papers():
    for name, fractions in PRESETS.items():
        assert ops.inq_fractions(name) == fractions
    with pytest.raises(RuntimeError, match=r"inq_fractions: preset must be one of alexnet_5bit, .*, got 'lenet'"):
        ops.inq_fractions("lenet")


@pytest.mark.parametrize("strategy", ["magnitude", "random"])
@pytest.mark.parametrize("preset", ["alexnet_5bit", "resnet18_2bit"])
def test_counts_are_exact_and_masks_grow(preset, strategy):
    seed = 4
    generator = torch.Generator().manual_seed(seed)
    for elements in [0, 1, 2, 3, 5, 10, 27, 432, 2305]:
        w = torch.randn(elements, generator=generator)
        frozen = torch.zeros(elements, dtype=torch.bool)
        for fraction in PRESETS[preset]:
            before = frozen
            frozen = F.inq_partition(w, before, fraction, strategy, generator)
            assert int(frozen.sum()) == oracle.frozen_count(fraction, elements), (
                f"{fraction} of {elements}, seed {seed}"
            )
            assert (before <= frozen).all()
            w = torch.where(frozen, w, w + torch.randn(elements, generator=generator))  # the rest trains on
        assert frozen.all()


def test_largest_first_with_ties_by_index():
    seed = 5
    generator = np.random.default_rng(seed)
    for shape in [(7,), (4, 6), (3, 2, 3, 3)]:
        w = torch.from_numpy(generator.integers(-4, 5, shape) / 8.0)
        frozen = torch.from_numpy(generator.random(shape) < 0.25)
        if len(shape) == 4:  # indices count, not the layout of memory
            w, frozen = (
                w.contiguous(memory_format=torch.channels_last),
                frozen.contiguous(memory_format=torch.channels_last),
            )
        for fraction in (0.5, 0.7, 1.0):
            mask = F.inq_partition(w, frozen, fraction)
            wanted = oracle.largest_first(w.reshape(-1).tolist(), frozen.reshape(-1).tolist(), fraction)
            assert mask.reshape(-1).tolist() == wanted, f"{fraction} of {shape}, seed {seed}"
    assert F.inq_partition(torch.ones(5), torch.zeros(5).bool(), 0.3).tolist() == [True, True, False, False, False]


def test_random_is_uniform_over_the_rest_and_follows_its_generator():
    seed = 6
    generator = torch.Generator().manual_seed(seed)
    frozen = torch.tensor([True] * 20 + [False] * 80)
    w = torch.arange(100.0)  # largest first would take the end
    draws = torch.stack([F.inq_partition(w, frozen, 0.4, "random", generator) for _ in range(2000)]).float()
    share = draws.mean(0)
    assert (share[:20] == 1).all()
    assert (share[20:] - 0.25).abs().max() < 0.05, f"seed {seed}: five standard deviations"
    again = [F.inq_partition(w, frozen, 0.4, "random", torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*again)
    torch.manual_seed(8)
    first = F.inq_partition(w, frozen, 0.4, "random")
    torch.manual_seed(8)
    assert torch.equal(F.inq_partition(w, frozen, 0.4, "random"), first)
    assert not torch.equal(F.inq_partition(w, frozen, 0.4, "random"), first)


# --- torch's own machinery --------------------------------------------------------------------------------------------------------------


def test_opcheck():
    torch.manual_seed(9)
    w = torch.randn(4, 6, 5)
    n1 = torch.tensor(1)
    torch.library.opcheck(ops.inq_quantize.default, (w.clone().requires_grad_(), n1), {"bit_width": 4})
    torch.library.opcheck(ops.inq_range.default, (w,), {"bit_width": 4})
    torch.library.opcheck(ops.inq_partition.default, (w, torch.zeros(w.shape).bool()), {"fraction": 0.5})


def test_compiled_is_equal():
    w = torch.randn(5, 7, requires_grad=True)

    def layer(w):
        return ops.inq_quantize(w, ops.inq_range(w, bit_width=3), bit_width=3).square()

    results = []
    for function in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        output = function(w)
        results.append((output, *torch.autograd.grad(output.sum(), w)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# --- errors -----------------------------------------------------------------------------------------------------------------------------

W = torch.zeros(2, 3)
MASK = torch.zeros(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    "call, message",
    [
        *((lambda b=b: F.inq_quantize(W, bit_width=b, n1=0), rf"inq_quantize: bit_width must be in .2, 5., got {b}") for b in (1, 6, -3)),
        *((lambda b=b: F.inq_range(W, b), rf"inq_range: bit_width must be in .2, 5., got {b}") for b in (0, 8)),
        (lambda: F.inq_quantize(W.int(), bit_width=3, n1=0), "inq_quantize: x must be float32, .*, got Int"),
        (lambda: F.inq_quantize(W, bit_width=3, n1=torch.tensor(0.0)), "inq_quantize: n1 must be integer, got Float"),
        (lambda: F.inq_quantize(W, bit_width=3, n1=torch.tensor([1, 2])), "inq_quantize: n1 must have one element"),
        *((lambda v=v: F.inq_range(W + v, 3), "inq_range: w must be finite, got") for v in (torch.nan, torch.inf)),
        *((lambda v=v: F.inq_partition(W + v, MASK, 0.5), "inq_partition: w must be finite, got NaN or infinity") for v in (torch.nan, -torch.inf)),
        *((lambda f=f: F.inq_partition(W, MASK, f), r"inq_partition: fractions must be in \(0, 1\], got") for f in (0.0, -0.1, 1.01, torch.nan)),
        (lambda: F.inq_partition(W, ~MASK, 0.5), "inq_partition: fraction must not be below the share that is frozen already, 6 of 6 weights, got 0.5"),
        (lambda: F.inq_partition(W, MASK, 0.5, "largest"), "inq_partition: strategy must be 'magnitude' or 'random', got 'largest'"),
        (lambda: F.inq_partition(W, MASK.float(), 0.5), "inq_partition: frozen must be Bool"),
        (lambda: F.inq_partition(W, MASK[:1], 0.5), "inq_partition: frozen must be Bool, of the shape"),
    ],
)  # fmt: skip
def test_errors_are_named(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()
