"""torch.ops.qstep.pact, its backward and pact_scale against the float64 oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import qstep
from oracle import pact as oracle

ops = torch.ops.qstep
BITS = range(2, 9)


def run(x, alpha, *, grad_output=None, **options):
    """x_hat and the gradients of x and alpha."""
    x, alpha = x.detach().requires_grad_(), alpha.detach().clone().requires_grad_()
    output = ops.pact(x, alpha, **options)
    grad_output = torch.ones_like(output) if grad_output is None else grad_output
    return output.detach(), *torch.autograd.grad(output, (x, alpha), grad_output)


def edge_values(scale: float, levels: int) -> np.ndarray:
    """Every half step around the range: codes, ties, 0 and both clipping levels, exactly; closely beside each; and what is not finite."""
    exact = np.float32(np.arange(-2 * levels - 5, 2 * levels + 6) / 2 * scale)
    beside = [exact - np.float32(2**-17), exact + np.float32(2**-17)]  # exact as well
    special = np.float32([-0.0, np.inf, -np.inf, np.nan, 1e38, -1e38, 1e-45, -1e-45])
    return np.concatenate([exact, *beside, special])


@pytest.mark.parametrize("gradient", ["pact", "ste"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_edge_value(signed, gradient, dtype):
    for bits in BITS:
        levels = oracle.levels(bits, signed)
        alpha = 0.25 * levels  # the step and all quotients are exact
        x = edge_values(0.25, levels)
        upstream = np.float32(np.random.default_rng(0).integers(1, 64, x.shape)) / 8
        options = {"bit_width": bits, "signed": signed, "gradient": gradient}
        each = [*zip(x[:, None], upstream[:, None], strict=True)] if bits < 4 else []
        for values, grad_output in [*each, (x, upstream)]:
            output, grad_x, grad_alpha = run(
                torch.from_numpy(values).to(dtype),
                torch.tensor(alpha),
                grad_output=torch.from_numpy(grad_output).to(dtype),
                **options,
            )
            expected = oracle.gradients(values, grad_output, alpha, **options)
            np.testing.assert_array_equal(output, oracle.fake_quantize(values, alpha, bits, signed))
            np.testing.assert_array_equal(grad_x, expected.x)
            np.testing.assert_allclose(grad_alpha, expected.alpha.sum(), rtol=1e-6, atol=1e-30)


def test_zero_comes_out_positive():
    for signed in (False, True):
        assert not torch.signbit(
            ops.pact(torch.tensor([-0.0, -0.01]), torch.tensor(7.0), bit_width=4, signed=signed)
        ).any()


@pytest.mark.parametrize("signed", [False, True])
def test_oracles_of_other_methods_are_told_apart(signed):
    """Negative control: LSQ's bounds and its gradient of the scale must not pass for PACT, nor "ste" for "pact"."""
    levels = oracle.levels(4, signed)
    alpha = torch.tensor(0.25 * levels)
    x = edge_values(0.25, levels)
    x = x[np.abs(x) < 100]
    _, grad_x, _ = run(torch.from_numpy(x), alpha, bit_width=4, signed=signed)
    v = np.float64(x) / 0.25
    low = -levels if signed else 0
    lsq = np.where((v > low) & (v < levels), 1.0, 0.0)
    assert np.array_equal(grad_x, lsq) == signed  # one-sided, x = 0 is inside
    mask_of_codes = np.where((np.rint(v) >= low) & (np.rint(v) <= levels), 1.0, 0.0)
    assert not np.array_equal(grad_x, mask_of_codes)
    above_codes = torch.arange(1, levels) * 0.25 + 0.03  # all rounded down
    sums = [run(above_codes, alpha, bit_width=4, signed=signed, gradient=g)[2].item() for g in ("pact", "ste")]
    assert sums[0] == 0
    assert sums[1] < -1e-2


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_integer_grid_bit_for_bit(signed, dtype):
    """Any alpha: the grid {scale = pact_scale(alpha), zero_point = 0} gives the same bits."""
    seed = 1
    generator = np.random.default_rng(seed)
    x = torch.from_numpy(generator.normal(size=4001) * 3).to(dtype)
    for bits in BITS:
        levels = oracle.levels(bits, signed)
        for alpha in torch.from_numpy(generator.lognormal(size=5)).to(dtype):
            scale = ops.pact_scale(alpha, bit_width=bits, signed=signed)
            assert scale.item() == (np.float32 if dtype == torch.float32 else np.float64)(alpha.item()) / levels
            output = ops.pact(x, alpha, bit_width=bits, signed=signed)
            low = -levels if signed else 0
            grid = ops.fake_quantize_affine(x, scale, torch.tensor(0), quant_min=low, quant_max=levels)
            assert torch.equal(output, grid), f"seed {seed}, {bits} bits, alpha {alpha}"
            code = torch.clamp(torch.round(x / scale), low, levels)
            assert torch.equal(output, code * scale), f"seed {seed}, {bits} bits, alpha {alpha}"


def test_the_paper_rounds_the_same_but_for_ties():
    """x / (alpha / levels) against the paper's x * levels / alpha in float64: one code in 10,000 may lie on the other side of a tie."""
    seed = 2
    generator = np.random.default_rng(seed)
    x = np.float32(generator.normal(size=100_000))
    for signed in (False, True):
        for bits in (2, 4, 8):
            alpha = np.float32(generator.uniform(0.5, 3))
            output = ops.pact(torch.from_numpy(x), torch.tensor(alpha), bit_width=bits, signed=signed)
            difference = np.abs(np.float64(output) - oracle.fake_quantize(x, float(alpha), bits, signed))
            step = alpha / oracle.levels(bits, signed)
            assert (difference > 1e-6 * alpha).mean() <= 1e-4, f"seed {seed}"
            assert difference.max() < 1.001 * step, f"seed {seed}"


VIEWS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.permute(tuple(reversed(range(x.dim())))),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
    "strided": lambda x: x[..., ::2] if x.dim() else x,
    "expanded": lambda x: x[:1].expand(4, *x.shape[1:]) if x.dim() and len(x) else x,
    "offset": lambda x: x[1:] if x.dim() else x,
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", [(), (1,), (1000,), (37, 130), (3, 5, 7, 9), (2, 3, 91, 101), (0,), (3, 0, 2)])
def test_layouts(shape, view):
    seed = 3
    generator = np.random.default_rng(seed)
    x = VIEWS[view](torch.from_numpy(generator.normal(size=shape)))
    grad_output = torch.from_numpy(generator.normal(size=tuple(x.shape)))
    alpha = torch.tensor([1.5], dtype=torch.float64)  # 15 steps of 0.1
    for gradient in ("pact", "ste"):
        options = {"bit_width": 4, "signed": False, "gradient": gradient}
        output, grad_x, grad_alpha = run(x, alpha, grad_output=grad_output, **options)
        expected = oracle.gradients(x.numpy(), grad_output.numpy(), 1.5, **options)
        assert output.stride() == grad_x.stride() == torch.empty_like(x).stride(), f"seed {seed}"
        np.testing.assert_allclose(output, oracle.fake_quantize(x.numpy(), 1.5, 4), rtol=1e-15, atol=0)
        np.testing.assert_array_equal(grad_x, expected.x, f"seed {seed}")
        assert grad_alpha.shape == (1,)
        np.testing.assert_allclose(grad_alpha.item(), expected.alpha.sum(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_compute_in_float32(dtype):
    """Equal to the float32 op on the same values, rounded once at the end."""
    torch.manual_seed(4)
    x = torch.cat([torch.randn(2000) * 3, torch.randn(500) * 1e-6, torch.tensor([0.0, -0.0, 6e4, -6e4])]).to(dtype)
    grad_output = torch.randn(x.shape).to(dtype)
    options = {"bit_width": 4, "signed": True, "gradient": "ste"}
    half = run(x, torch.tensor(2.3), grad_output=grad_output, **options)
    full = run(x.float(), torch.tensor(2.3), grad_output=grad_output.float(), **options)
    assert half[0].dtype == half[1].dtype == dtype
    for actual, expected in zip(half, full, strict=True):
        torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_alpha_keeps_its_dtype(dtype):
    *_, grad_alpha = run(torch.randn(8, 3), torch.tensor(0.5, dtype=dtype), bit_width=4)
    assert grad_alpha.dtype == dtype
    scale = ops.pact_scale(torch.tensor(0.5, dtype=dtype, requires_grad=True), bit_width=4)
    assert scale.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert not scale.requires_grad


def test_sums_are_exact_to_a_millionth():
    """Terms of one size and sign are the worst case of a float32 sum: it loses what is below half a unit of the running total."""
    upstream = np.full(1 << 20, 0.1, np.float32)
    *_, grad_alpha = run(torch.full((1 << 20,), 100.0), torch.tensor(1.0), grad_output=torch.from_numpy(upstream), bit_width=2)  # fmt: skip
    np.testing.assert_allclose(np.float64(grad_alpha), np.float64(upstream).sum(), rtol=1e-6)


def test_threads_change_nothing():
    torch.manual_seed(5)
    x, grad_output = torch.randn(2, 1_000_001)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            results.append(run(x, torch.tensor(1.1), grad_output=grad_output, bit_width=4, gradient="ste"))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# --- torch's own machinery --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_opcheck(signed):
    torch.manual_seed(6)
    x, alpha = torch.randn(4, 6, 5), torch.tensor(1.3)
    options = {"bit_width": 4, "signed": signed, "gradient": "ste"}
    torch.library.opcheck(ops.pact_backward.default, (torch.randn_like(x), x, alpha), options)
    torch.library.opcheck(ops.pact_scale.default, (alpha,), {"bit_width": 4, "signed": signed})
    torch.library.opcheck(ops.pact.default, (x.requires_grad_(), alpha.requires_grad_()), options)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_is_equal(dynamic):
    torch.manual_seed(7)
    x, alpha = torch.randn(4, 6, 5, requires_grad=True), torch.tensor(1.3, requires_grad=True)

    def layer(x, alpha):
        return ops.pact(x * 2, alpha, bit_width=4, gradient="ste").square()

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    results = []
    for function in (layer, compiled):
        output = function(x, alpha)
        results.append((output, *torch.autograd.grad(output.sum(), (x, alpha))))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_second_derivatives_are_refused():
    x, alpha = torch.randn(5, requires_grad=True), torch.tensor(1.0)
    (grad_x,) = torch.autograd.grad(ops.pact(x, alpha, bit_width=4).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="pact_backward"):
        grad_x.sum().backward()


# --- errors -----------------------------------------------------------------------------------------------------------------------------

X = torch.zeros(2, 3)
A = torch.tensor(0.5)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        *(((X, A), {"bit_width": b}, rf"pact: bit_width must be in \[2, 8\], got {b}") for b in (-1, 0, 1, 9, 64)),
        ((X.long(), A), {}, "pact: x must be float32, float64, bfloat16 or float16, got Long"),
        ((X, A.long()), {}, "pact: alpha must be floating, got Long"),
        ((X, A.expand(3)), {}, r"pact: alpha must have one element .* got shape \[3\]"),
        ((X, A), {"gradient": "lsq"}, "pact: gradient must be 'pact' or 'ste', got 'lsq'"),
        *(
            ((X, torch.tensor(v)), {}, "pact: alpha must be finite and alpha / 15 above 0, got alpha")
            for v in (0.0, -1.0, np.nan, np.inf, 1e-45, 1e-60)
        ),
    ],
)
def test_errors_are_named(arguments, options, message):
    with pytest.raises(RuntimeError, match=message):
        ops.pact(*arguments, **{"bit_width": 4} | options)


def test_backward_checks_its_arguments():
    with pytest.raises(RuntimeError, match="pact_backward: grad_output must have the shape of x"):
        ops.pact_backward(torch.zeros(3), X, A, bit_width=4)
    with pytest.raises(RuntimeError, match="pact_backward: alpha must be finite"):
        ops.pact_backward(X, X, -A, bit_width=4)
    with pytest.raises(RuntimeError, match=r"pact_scale: bit_width must be in \[2, 8\], got 1"):
        ops.pact_scale(A, bit_width=1)


# --- the module -------------------------------------------------------------------------------------------------------------------------


def calibrated(x: torch.Tensor, nonnegative: bool, **options) -> qstep.quantizers.PactActivation:
    quantizer = qstep.quantizers.PactActivation(4, nonnegative, **options)
    quantizer.start_calibration()
    assert quantizer(x) is x
    quantizer.finish_calibration()
    return quantizer


def test_first_clipping_level():
    torch.manual_seed(8)
    x = torch.randn(20_000).abs()
    assert calibrated(x, True, alpha_init=10).alpha().item() == 10
    assert calibrated(x, True, alpha_init="max").alpha().item() == pytest.approx(x.max().item(), rel=1e-6)
    assert calibrated(-x, False, alpha_init="max").alpha().item() == pytest.approx(x.max().item(), rel=1e-6)
    error = {init: (calibrated(x, True, alpha_init=init)(x) - x).square().mean() for init in (10.0, "max", "mse")}
    assert error["mse"] < error["max"] < error[10.0]
    brute = min(np.mean((oracle.fake_quantize(x, a, 4) - x.numpy()) ** 2) for a in np.linspace(1, 5, 400))
    assert error["mse"].item() <= 1.05 * brute
    assert calibrated(torch.zeros(100), True).alpha().item() == 15  # scale 1


def test_alpha_stays_positive():
    quantizer = calibrated(torch.rand(100), True)
    first = quantizer.alpha().item()
    for raw, expected in ((-0.5, 0.5), (0.0, first * 2.0**-24)):
        quantizer.alpha.raw.data.fill_(raw)
        assert quantizer.alpha().item() == pytest.approx(expected)
        quantizer(torch.randn(10)).sum().backward()


def test_bad_options():
    make = qstep.quantizers.PactActivation
    for value in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="PactActivation: alpha_init must be above 0 and finite, got"):
            make(4, True, alpha_init=value)
    with pytest.raises(ValueError, match="PactActivation: alpha_init must be a number, 'mse' or 'max', got 'median'"):
        make(4, True, alpha_init="median")
    with pytest.raises(ValueError, match="PactActivation: gradient must be 'pact' or 'ste', got 'lsq'"):
        make(4, True, gradient="lsq")


def small_network() -> torch.nn.Module:
    torch.manual_seed(9)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3),
        torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5),
    )  # fmt: skip


def test_parameter_groups_hold_each_parameter_once():
    x = torch.randn(2, 3, 8, 8)
    model = qstep.prepare(small_network(), qstep.QConfig.pact(4, 4), example_inputs=(x,))
    groups = {
        g["name"]: g for g in qstep.parameter_groups(model, weight_decay=1e-2, alpha_weight_decay=0.5, scale_lr=1e-3)
    }
    assert {n: len(g["params"]) for n, g in groups.items()} == {
        "weights": 3,
        "rest": 5,  # three biases, batch norm
        "clipping_levels": 3,  # input, two layers
        "scales": 3,  # of weights
    }
    assert sorted(id(p) for g in groups.values() for p in g["params"]) == sorted(id(p) for p in model.parameters())
    assert {n: g["weight_decay"] for n, g in groups.items()} == {
        "weights": 1e-2, "rest": 0, "clipping_levels": 0.5, "scales": 0,
    }  # fmt: skip
    assert {n: g.get("lr") for n, g in groups.items()} == {
        "weights": None, "rest": None, "clipping_levels": 1e-3, "scales": 1e-3,
    }  # fmt: skip
    same = {g["name"]: g["weight_decay"] for g in qstep.parameter_groups(model, weight_decay=1e-2)}
    assert same["clipping_levels"] == 1e-2
    with pytest.raises(ValueError, match="parameter_groups: weight_decay must not be negative, got -1"):
        qstep.parameter_groups(model, weight_decay=-1)


def test_decay_brings_the_clipping_level_down():
    """Without a gradient from the loss, L2 alone acts: alpha shrinks by (1 - lr * decay) at every step, scales stay."""
    x = torch.randn(2, 3, 8, 8)
    model = qstep.prepare(small_network(), qstep.QConfig.pact(4, 4), example_inputs=(x,))
    qstep.calibrate(model, [x], batches=1, progress=False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(qstep.parameter_groups(model, weight_decay=0.0, alpha_weight_decay=0.1), lr=0.5)
    (model(x) * 0).sum().backward()
    optimizer.step()
    after = model.state_dict()
    alphas = [k for k in before if k.endswith("alpha.raw")]
    assert len(alphas) == 3
    for key in alphas:
        assert after[key].item() == pytest.approx(before[key].item() * 0.95)
    assert all(torch.equal(after[k], before[k]) for k in before if k.endswith("scale.raw"))
