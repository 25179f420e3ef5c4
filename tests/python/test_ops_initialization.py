"""torch.ops.qstep.lsq_weight_scale and lsq_activation_init."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import qstep  # noqa: F401  (registers torch.ops.qstep)
from oracle import lsq_plus as oracle

ops = torch.ops.qstep


@pytest.mark.parametrize("rule", ["lsq_plus", "lsq"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_weight_scale(bits, rule, axis):
    seed = 7
    w = np.float32(np.random.default_rng(seed).normal(0.01, 0.05, size=(6, 5, 3, 3)))
    codes = {"quant_min": -(2 ** (bits - 1)), "quant_max": 2 ** (bits - 1) - 1}
    scale = ops.lsq_weight_scale(torch.from_numpy(w), axis=axis, rule=rule, **codes)
    groups = [w] if axis is None else np.moveaxis(w, axis, 0)
    expected = np.array([oracle.weight_scale(group, rule=rule, **codes) for group in groups])
    assert scale.shape == (() if axis is None else (w.shape[axis],))
    np.testing.assert_allclose(scale, expected.reshape(scale.shape), rtol=1e-5, err_msg=f"seed {seed}")


def test_weight_scale_of_dead_channels_is_one():
    w = torch.stack([torch.zeros(9), torch.full((9,), 0.7), torch.full((9,), 1e-45)])
    scale = ops.lsq_weight_scale(w, quant_min=-8, quant_max=7, axis=0)
    torch.testing.assert_close(scale, torch.tensor([1.0, 0.7 / 8, 1.0]))
    assert torch.equal(ops.lsq_weight_scale(torch.empty(3, 0), quant_min=-8, quant_max=7, axis=0), torch.ones(3))


@pytest.mark.parametrize(
    "dtype, expected", [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_scales_have_the_dtype_of_the_arithmetic(dtype, expected):
    x = torch.randn(4, 50).to(dtype)
    assert ops.lsq_weight_scale(x, quant_min=-8, quant_max=7).dtype == expected
    scale, offset = ops.lsq_activation_init(x, quant_min=0, quant_max=15, learn_offset=True)
    assert scale.dtype == offset.dtype == expected


def distributions(n: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    normal = generator.normal(size=n)
    return {
        "normal": normal,
        "shifted": normal + 3,
        "relu": np.maximum(normal, 0),
        "relu6": np.clip(3 * normal, 0, 6),
        "silu": 2 * normal / (1 + np.exp(-2 * normal)),
        "laplace": generator.laplace(size=n),
        "uniform": generator.uniform(-1, 2, size=n),
        "heavy tails": generator.standard_t(3, size=n),
        "two hills": np.concatenate([normal[: n // 2] * 0.1 - 1, normal[n // 2 :] * 0.3 + 2]),
        "lognormal": np.exp(normal),
    }


SEED = 8
SAMPLES = distributions(1500, SEED)


@pytest.mark.parametrize("learn_offset", [False, True])
@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_activation_init_comes_near_brute_force(name, bits, learn_offset):
    x = np.float32(SAMPLES[name])
    signed = not learn_offset and x.min() < 0
    codes = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    scale, offset = ops.lsq_activation_init(
        torch.from_numpy(x), quant_min=codes[0], quant_max=codes[1], learn_offset=learn_offset
    )
    found = oracle.squared_error(np.float64(x), scale.item(), offset.item(), *codes)
    best = oracle.least_squared_error(np.float64(x), *codes, learn_offset=learn_offset)
    assert found <= 1.05 * best, f"{found / best:.3f} of the least error, seed {SEED}"
    if not learn_offset:
        assert offset.item() == 0


def test_configurations_3_and_4_find_the_same_grid():
    """Signed and unsigned codes with an offset are one family: offset_3 = offset_4 + 8 scale."""
    x = torch.from_numpy(np.float32(SAMPLES["silu"]))
    (s3, b3), (s4, b4) = (
        ops.lsq_activation_init(x, quant_min=low, quant_max=low + 15, learn_offset=True) for low in (-8, 0)
    )
    torch.testing.assert_close(s3, s4, rtol=1e-3, atol=0)
    torch.testing.assert_close(b3, b4 + 8 * s4, rtol=1e-3, atol=1e-3)


def test_large_tensors_are_sampled_without_a_period():
    """Columns that a constant stride would visit one of: the sample must see all of them."""
    columns = torch.linspace(-1, 1, 64)
    x = (columns + 0.01 * torch.randn(1 << 14, 64)).contiguous()
    scale, offset = ops.lsq_activation_init(x, quant_min=0, quant_max=255, learn_offset=True)
    whole = ops.lsq_plus(x, scale, offset, quant_min=0, quant_max=255)
    assert (whole - x).square().mean() < 1.05 * (2 / 255) ** 2 / 12
    again = ops.lsq_activation_init(x.clone(), quant_min=0, quant_max=255, learn_offset=True)
    assert (scale, offset) == again  # deterministic


@pytest.mark.parametrize(
    "x, options, expected",
    [
        ([-1.0, 3.0], {"learn_offset": True}, (4 / 15, -1.0)),
        ([-1.0, 3.0], {"learn_offset": False}, (3 / 15, 0.0)),
        ([-4.0, 3.0], {"learn_offset": False, "quant_min": -8, "quant_max": 7}, (0.5, 0.0)),
        ([-4.0, 7.0], {"learn_offset": False, "quant_min": -8, "quant_max": 7}, (1.0, 0.0)),
        ([-4.0, 3.5], {"learn_offset": True, "quant_min": -8, "quant_max": 7}, (0.5, 0.0)),
        ([2.0, 2.0], {"learn_offset": True}, (1.0, 2.0)),
        ([-2.0, -1.0], {"learn_offset": False}, (1.0, 0.0)),
        ([0.0, 0.0], {"learn_offset": False}, (1.0, 0.0)),
        ([], {"learn_offset": True}, (1.0, 0.0)),
    ],
)
def test_min_max(x, options, expected):
    options = {"quant_min": 0, "quant_max": 15, "method": "min_max"} | options
    result = ops.lsq_activation_init(torch.tensor(x), **options)
    np.testing.assert_allclose([v.item() for v in result], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("x", [[2.0] * 5, [0.0] * 5, [-3.0] * 5, []])
@pytest.mark.parametrize("learn_offset", [False, True])
def test_constants_are_kept(x, learn_offset):
    x = torch.tensor(x)
    scale, offset = ops.lsq_activation_init(x, quant_min=-8, quant_max=7, learn_offset=learn_offset)
    assert scale > 0
    torch.testing.assert_close(ops.lsq_plus(x, scale, offset, quant_min=-8, quant_max=7), x)


def test_opcheck():
    x = torch.randn(4, 6, requires_grad=True)
    for axis in (None, 1):
        torch.library.opcheck(ops.lsq_weight_scale.default, (x,), {"quant_min": -8, "quant_max": 7, "axis": axis})
    for method in ("mse", "min_max"):
        options = {"quant_min": 0, "quant_max": 15, "learn_offset": True, "method": method}
        torch.library.opcheck(ops.lsq_activation_init.default, (x,), options)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_must_be_finite(value):
    x = torch.tensor([1.0, value, 2.0])
    with pytest.raises(RuntimeError, match="lsq_weight_scale: w must be finite"):
        ops.lsq_weight_scale(x, quant_min=-8, quant_max=7)
    with pytest.raises(RuntimeError, match="lsq_activation_init: x must be finite"):
        ops.lsq_activation_init(x, quant_min=0, quant_max=15, learn_offset=True)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda x: ops.lsq_weight_scale(x, quant_min=-8, quant_max=-1),
            "lsq_weight_scale: quant_max must be above 0, got -1",
        ),
        (
            lambda x: ops.lsq_weight_scale(x, quant_min=-8, quant_max=7, rule="max"),
            "rule must be 'lsq_plus' or 'lsq', got 'max'",
        ),
        (lambda x: ops.lsq_weight_scale(x, quant_min=-8, quant_max=7, axis=1), "axis must be a dimension of x"),
        (lambda x: ops.lsq_weight_scale(x.long(), quant_min=-8, quant_max=7), "must be float32"),
        (
            lambda x: ops.lsq_activation_init(x, quant_min=7, quant_max=7, learn_offset=True),
            "quant_min must be below quant_max",
        ),
        (
            lambda x: ops.lsq_activation_init(x, quant_min=0, quant_max=7, learn_offset=True, method="kl"),
            "method must be 'mse' or 'min_max', got 'kl'",
        ),
    ],
)
def test_errors_are_named(call, message):
    with pytest.raises(RuntimeError, match=message):
        call(torch.ones(3))
