"""F8Net's ops against the oracle in exact fractions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import qstep
from oracle import f8net as oracle

F = qstep.functional
FORMATS = [
    (8, True, 0),
    (8, True, 7),
    (8, False, 0),
    (8, False, 8),
    (8, False, 5),
    (4, True, 3),
    (5, False, 2),
    (2, True, 1),
    (2, False, 2),
]


def edge_values(word_length: int, signed: bool, fraction_length: int) -> np.ndarray:
    """Every code and every tie, two steps beyond the range, their neighbours, and special values."""
    low, high = oracle.code_range(word_length, signed)
    exact = np.arange(2 * low - 5, 2 * high + 6, dtype=np.float32) / np.float32(2 ** (fraction_length + 1))
    beside = [np.nextafter(exact, np.float32(limit)) for limit in (-np.inf, np.inf)]
    special = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-45])
    return np.concatenate([exact, *beside, special])


def run(x: torch.Tensor, upstream: torch.Tensor, **options):
    x = x.detach().requires_grad_()
    y = F.fixed_point(x, **options)
    return y.detach(), *torch.autograd.grad(y, x, upstream)


@pytest.mark.parametrize("word_length, signed, fraction_length", FORMATS)
@pytest.mark.parametrize("mask", ["pact", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_edge_value(word_length, signed, fraction_length, mask, dtype):
    x = edge_values(word_length, signed, fraction_length)
    upstream = np.float32(np.random.default_rng(0).integers(1, 64, x.shape))
    options = {"fraction_length": fraction_length, "word_length": word_length, "signed": signed}
    y, grad = run(torch.from_numpy(x).to(dtype), torch.from_numpy(upstream).to(dtype), mask=mask, **options)
    arguments = (fraction_length, word_length, signed)
    np.testing.assert_array_equal(y, [oracle.fixed_point(float(v), *arguments) for v in x])
    passes = np.array([oracle.passes(float(v), *arguments, mask) for v in x])
    np.testing.assert_array_equal(grad, np.where(passes, upstream, 0))
    assert not torch.signbit(y[y == 0]).any()
    # Negative control: the other mask differs, at the first and the last half step.
    other = np.array([oracle.passes(float(v), *arguments, "pact" if mask == "reference" else "reference") for v in x])
    assert (passes != other).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types(dtype):
    x = torch.from_numpy(edge_values(8, True, 4)).to(dtype)
    y = F.fixed_point(x, fraction_length=4, signed=True)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.double(), [oracle.fixed_point(v, 4, 8, True) for v in x.double().tolist()])


def test_layouts():
    torch.manual_seed(1)
    base = 5 * torch.randn(4, 6, 5, 7)
    for x in (base, base[:, ::2, 1:, ::3], base.to(memory_format=torch.channels_last), base.permute(2, 0, 3, 1)):
        upstream = torch.randn(x.shape)
        y, grad = run(x, upstream, fraction_length=5, signed=True)
        expected, expected_grad = run(x.contiguous(), upstream, fraction_length=5, signed=True)
        assert torch.equal(y, expected) and torch.equal(grad, expected_grad)
    for shape in ((0,), (0, 3), ()):
        assert F.fixed_point(torch.zeros(shape), fraction_length=5, signed=True).shape == shape


def test_thresholds_are_exact():
    for signed, constant in ((True, 40.0), (False, 70.0)):
        ends = np.float32([constant / 2**f for f in range(-2, 12)])
        stds = np.concatenate(
            [
                ends,
                np.nextafter(ends, np.float32(0)),
                np.nextafter(ends, np.float32(np.inf)),
                np.float32([0, 1e-45, 3e38, np.inf]),
            ]
        )
        lengths = F.f8net_fraction_length(torch.from_numpy(stds), signed=signed)
        assert lengths.dtype == torch.int32
        assert lengths.tolist() == [oracle.fraction_length(float(s), signed) for s in stds]
    # The table of published thresholds.
    signed = [0.3125, 0.625, 1.25, 2.5, 5.0, 10.0, 20.0]
    unsigned = [0.2734375, 0.546875, 1.09375, 2.1875, 4.375, 8.75, 17.5, 35.0]
    assert F.f8net_fraction_length(torch.tensor(signed), signed=True).tolist() == [7, 6, 5, 4, 3, 2, 1]
    assert F.f8net_fraction_length(torch.tensor(unsigned), signed=False).tolist() == [8, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("signed", [True, False])
def test_rule_is_near_the_least_error_for_gaussians(signed):
    """What the constants of the rule were fitted to: the format of least error of Gaussian (rectified) samples."""
    generator = torch.Generator().manual_seed(2)
    agree = total = 0
    for sd in torch.logspace(-0.9, 1.5, 25).tolist():
        x = sd * torch.randn(20_000, generator=generator)
        x = x if signed else x.relu()
        by_rule = int(F.f8net_format(x, signed=signed, rectified=True))
        by_search = int(F.f8net_format(x, signed=signed, rule="grid"))
        assert abs(by_rule - by_search) <= 1, sd
        agree, total = agree + (by_rule == by_search), total + 1
    assert agree >= 0.8 * total


def test_search_takes_the_least_error_and_the_first_minimum():
    rng = np.random.default_rng(3)
    for word_length, signed in itertools.product((2, 3, 5, 8), (True, False)):
        for scale in (0.05, 0.7, 9.0):
            x = np.float32(scale * rng.standard_normal(40))
            got = int(F.f8net_format(torch.from_numpy(x), word_length=word_length, signed=signed, rule="grid"))
            assert got == oracle.search(x.tolist(), word_length, signed), (word_length, signed, scale)
    for values in ([0.0, 0.0], [1.0, 3.0], [0.5, 1.5], [1000.0]):  # several formats hold these equally well
        x = torch.tensor(values)
        assert int(F.f8net_format(x, signed=True, rule="grid")) == oracle.search(values, 8, True)


def test_standard_deviation_is_unbiased_and_rectification_undone():
    x = torch.tensor([0.0, 1.0])  # unbiased deviation sqrt(1/2) = 0.707: 5; biased 0.5: 6
    assert int(F.f8net_format(x, signed=True)) == 5
    assert int(F.f8net_format(x, signed=False)) == 6
    assert int(F.f8net_format(x, signed=False, rectified=True)) == 5  # 0.707 / 0.584 = 1.21
    assert int(F.f8net_format(x, signed=True, rectified=True)) == 5  # a signed tensor never was rectified
    for few in (torch.zeros(0), torch.tensor([3.0]), torch.zeros(5)):
        assert int(F.f8net_format(few, signed=True)) == 7


@pytest.mark.parametrize("signed", [True, False])
def test_pact_through_eta_is_pact(signed):
    """eta * fixed_point(x / eta) has PACT's steps and straight-through gradients, whatever the format."""
    rng = np.random.default_rng(4)
    x = torch.from_numpy(np.concatenate([rng.uniform(-9, 9, 200), [0.0, 100.0, -100.0]])).requires_grad_()
    for alpha_value, length in itertools.product((0.75, 4.0, 6.25), (0, 3, 7)):
        alpha = torch.tensor(alpha_value, dtype=torch.float64, requires_grad=True)
        y = F.f8net_pact(x, alpha, fraction_length=length, signed=signed)
        grad_x, _ = torch.autograd.grad(y.sum(), (x, alpha), retain_graph=True)
        grads_alpha = [torch.autograd.grad(v, alpha, retain_graph=True)[0].item() for v in y[::20]]
        expected = [oracle.pact(v, alpha_value, 8, signed) for v in x.tolist()]
        np.testing.assert_allclose(y.detach(), [float(e[0]) for e in expected], rtol=1e-12)
        assert grad_x.tolist() == [float(e[1]) for e in expected]
        np.testing.assert_allclose(grads_alpha, [float(e[2]) for e in expected[::20]], atol=1e-12)
        negative = F.f8net_pact(x, -alpha, fraction_length=length, signed=signed)  # |alpha| is used
        assert torch.equal(negative, y)


def test_power_of_two():
    exponents = torch.arange(-126, 128, dtype=torch.int32)
    assert torch.ops.qstep.power_of_two(exponents).tolist() == [2.0**e for e in range(-126, 128)]


def test_sums_fit_float32():
    fits = torch.ops.qstep.sums_fit_float32
    unit, zero = torch.tensor(2.0**-10, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    weight = torch.full((1, 257, 1, 1), 127 / 8)
    deep = torch.full((1, 518, 1, 1), 127 / 8)  # 255 * 127 * 518 < 2^24 < 255 * 127 * 519
    assert fits(weight, torch.tensor(1 / 8), 255, zero, unit) and fits(deep, torch.tensor(1 / 8), 255, zero, unit)
    assert not fits(torch.cat([deep, deep[:, :1]], 1), torch.tensor(1 / 8), 255, zero, unit)
    bias = torch.tensor([(2**24 - 255 * 127 * 257) * 2.0**-10], dtype=torch.float64)
    assert not fits(weight, torch.tensor(1 / 8), 255, bias, unit)
    assert fits(weight, torch.tensor(1 / 8), 255, bias - unit, unit)


def test_operator_registration():
    x = torch.randn(3, 4, requires_grad=True)
    length = torch.tensor(4, dtype=torch.int32)
    torch.library.opcheck(torch.ops.qstep.fixed_point.default, (x, length), {"signed": True})
    torch.library.opcheck(torch.ops.qstep.f8net_fraction_length.default, (torch.tensor([0.5, 2.0]),), {"signed": True})


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: F.fixed_point(x, fraction_length=8, signed=True), r"fixed_point: fraction_length must be in \[0, 7\]"),
        (lambda x: F.fixed_point(x, fraction_length=9, signed=False), r"in \[0, 8\] for unsigned words of 8 bits, got 9"),
        (lambda x: F.fixed_point(x, fraction_length=-1, signed=True), r"fraction_length must be in"),
        (lambda x: F.fixed_point(x, fraction_length=3, signed=True, word_length=9), r"word_length must be in \[2, 8\], got 9"),
        (lambda x: F.fixed_point(x, fraction_length=3, signed=True, mask="ste"), r"mask must be 'pact' or 'reference', got 'ste'"),
        (lambda x: F.fixed_point(x, fraction_length=torch.tensor(3.0), signed=True), r"fraction_length must be an integer"),
        (lambda x: F.fixed_point(x, fraction_length=torch.tensor([3, 4]), signed=True), r"fraction_length must have one element"),
        (lambda x: F.fixed_point(x.long(), fraction_length=3, signed=True), r"x must be float32"),
        (lambda x: F.f8net_format(x, word_length=4, signed=True), r"'std' is defined for word_length 8, got 4"),
        (lambda x: F.f8net_format(x, signed=True, rule="mae"), r"rule must be 'std' or 'grid', got 'mae'"),
        (lambda x: F.f8net_format(x * float("nan"), signed=True), r"std must be a number"),
        (lambda x: F.f8net_format(x * float("inf"), signed=True, rule="grid"), r"x must be finite"),
        (lambda x: F.f8net_fraction_length(torch.tensor(-1.0), signed=True), r"std must be a number that is not negative"),
    ],
)  # fmt: skip
def test_named_errors(call, message):
    with pytest.raises((RuntimeError, ValueError), match=message):
        call(torch.ones(3))
