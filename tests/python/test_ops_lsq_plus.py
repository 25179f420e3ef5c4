"""torch.ops.qstep.lsq_plus and its backward against the float64 oracle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import qstep  # noqa: F401  (registers torch.ops.qstep)
from oracle import lsq_plus as oracle

ops = torch.ops.qstep

CONFIGURATIONS = {  # LSQ+, table 1: range of codes, learned offset
    1: (0, 15, False),
    2: (-8, 7, False),
    3: (-8, 7, True),
    4: (0, 15, True),
}


def run(x, scale, offset=None, *, grad_output=None, **options):
    """x_hat and the gradients of x, scale and offset."""
    x = x.detach().requires_grad_()
    parameters = [p.detach().clone().requires_grad_() for p in (scale, offset) if p is not None]
    output = ops.lsq_plus(x, *parameters, **options)
    grad_output = torch.ones_like(output) if grad_output is None else grad_output
    return output.detach(), *torch.autograd.grad(output, (x, *parameters), grad_output)


def column(values: np.ndarray, axis: int | None, dim: int) -> np.ndarray:
    """Parameters shaped to broadcast against a tensor of `dim` dimensions."""
    return values if axis is None else values.reshape([-1 if d == axis % dim else 1 for d in range(dim)])


def reduced(values: np.ndarray, axis: int | None) -> np.ndarray:
    if axis is None:
        return values.sum()
    return values.sum(axis=tuple(d for d in range(values.ndim) if d != axis % values.ndim))


def edge_values(scale: float, offset: float, quant_min: int, quant_max: int) -> np.ndarray:
    """Every half step around the range: codes, ties and both bounds, exactly; closely beside each; and what is not finite."""
    steps = np.arange(2 * quant_min - 5, 2 * quant_max + 6) / 2
    exact = np.float32(steps * scale + offset)
    assert ((np.float64(exact) - offset) / scale == steps).all()
    beside = [exact - np.float32(2**-18), exact + np.float32(2**-18)]  # exact as well
    special = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e38, -1e38, 1e-45])
    return np.concatenate([exact, *beside, special])


@pytest.mark.parametrize("boundary", ["strict", "inclusive"])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_edge_value(configuration, boundary, dtype):
    quant_min, quant_max, has_offset = CONFIGURATIONS[configuration]
    scale, offset = 0.25, -0.5 if has_offset else 0.0  # quotients are exact in float32
    values = edge_values(scale, offset, quant_min, quant_max)
    upstream = np.float32(np.random.default_rng(0).integers(1, 64, values.shape)) / 8
    for x, grad_output in [*zip(values[:, None], upstream[:, None], strict=True), (values, upstream)]:
        output, grad_x, grad_scale, *grad_offset = run(
            torch.from_numpy(x).to(dtype),
            torch.tensor(scale),
            torch.tensor(offset) if has_offset else None,
            grad_output=torch.from_numpy(grad_output).to(dtype),
            quant_min=quant_min,
            quant_max=quant_max,
            boundary=boundary,
        )
        expected = oracle.gradients(x, grad_output, scale, offset, quant_min, quant_max, boundary)
        np.testing.assert_array_equal(output, oracle.fake_quantize(x, scale, offset, quant_min, quant_max))
        np.testing.assert_array_equal(grad_x, expected.x)
        np.testing.assert_allclose(grad_scale, expected.scale.sum(), rtol=1e-6, atol=1e-30)
        if has_offset:
            np.testing.assert_allclose(grad_offset[0], expected.offset.sum(), rtol=1e-6, atol=1e-30)


def test_zero_comes_out_positive():
    output = ops.lsq_plus(torch.tensor([-0.0, -0.01]), torch.tensor(0.25), quant_min=-8, quant_max=7)
    assert not torch.signbit(output).any()


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_an_oracle_with_wrong_regions_is_told_apart(configuration):
    """Negative control: the mask of the rounded code, and the other boundary rule, must not pass for LSQ+."""
    quant_min, quant_max, has_offset = CONFIGURATIONS[configuration]
    scale, offset = 0.25, -0.5 if has_offset else 0.0
    x = edge_values(scale, offset, quant_min, quant_max)
    x = x[np.isfinite(x)]
    _, grad_x, grad_scale, *_ = run(
        torch.from_numpy(x), torch.tensor(scale), torch.tensor(offset), quant_min=quant_min, quant_max=quant_max
    )
    ones = np.ones_like(x)
    wrong = oracle.gradients(x, ones, scale, offset, quant_min, quant_max, "inclusive")
    assert not np.array_equal(grad_x, wrong.x)
    codes = np.rint(oracle.position(x, scale, offset))
    rounded_mask = ((codes >= quant_min) & (codes <= quant_max)).astype(float)
    assert not np.array_equal(grad_x, rounded_mask)
    right = oracle.gradients(x, ones, scale, offset, quant_min, quant_max)
    clipped_to_zero = np.where(right.x == 0, 0.0, right.scale)  # saturated elements forgotten
    assert abs(float(grad_scale) - clipped_to_zero.sum()) > 1e-3
    np.testing.assert_array_equal(grad_x, right.x)


LAYOUTS = {
    "scalar": lambda r: r.normal(size=()),
    "vector": lambda r: r.normal(size=1000),
    "matrix": lambda r: r.normal(size=(37, 130)),
    "NCHW": lambda r: r.normal(size=(3, 5, 7, 9)),
    "NCHW, large maps": lambda r: r.normal(size=(2, 3, 91, 101)),
    "NCDHW": lambda r: r.normal(size=(2, 3, 4, 5, 6)),
}
VIEWS = {
    "contiguous": lambda x: x,
    "reversed": lambda x: x.permute(tuple(reversed(range(x.dim())))),
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 1 else x,
    "strided": lambda x: x[..., ::2] if x.dim() else x,
    "expanded": lambda x: x[:1].expand(4, *x.shape[1:]) if x.dim() else x,
    "offset": lambda x: x[1:] if x.dim() else x,
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_axes(layout, view):
    seed = 1
    generator = np.random.default_rng(seed)
    x = VIEWS[view](torch.from_numpy(LAYOUTS[layout](generator)))
    grad_output = torch.from_numpy(generator.normal(size=tuple(x.shape)))
    for axis in [None, *range(-x.dim(), x.dim())]:
        shape = () if axis is None else (x.shape[axis],)
        scale = torch.from_numpy(generator.uniform(0.05, 0.3, size=shape))
        offset = torch.from_numpy(generator.uniform(-0.3, 0.3, size=shape))
        output, grad_x, grad_scale, grad_offset = run(
            x, scale, offset, grad_output=grad_output, quant_min=0, quant_max=15, axis=axis, grad_scale=0.5
        )
        parameters = [column(p.numpy(), axis, x.dim()) for p in (scale, offset)]
        expected = oracle.gradients(x.numpy(), grad_output.numpy(), *parameters, 0, 15)
        message = f"seed {seed}, axis {axis}"
        assert output.stride() == torch.empty_like(x).stride(), message
        # float64 operations are the same in both, so results are equal, not near
        np.testing.assert_array_equal(output, oracle.fake_quantize(x.numpy(), *parameters, 0, 15), message)
        np.testing.assert_array_equal(grad_x, expected.x, message)
        np.testing.assert_allclose(
            grad_scale, 0.5 * reduced(expected.scale, axis), rtol=1e-12, atol=1e-12, err_msg=message
        )
        np.testing.assert_allclose(
            grad_offset, 0.5 * reduced(expected.offset, axis), rtol=1e-12, atol=1e-12, err_msg=message
        )


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_memory_format_is_kept(memory_format):
    x = torch.randn(2, 6, 5, 5).contiguous(memory_format=memory_format)
    output, grad_x, *_ = run(x, torch.full((6,), 0.1), quant_min=-8, quant_max=7, axis=1)
    assert output.is_contiguous(memory_format=memory_format)
    assert grad_x.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 3, 0, 4)])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_empty_tensors(shape, axis):
    x = torch.empty(shape)
    parameter = torch.full([] if axis is None else [shape[axis]], 0.5)
    output, grad_x, grad_scale, grad_offset = run(x, parameter, parameter, quant_min=0, quant_max=3, axis=axis)
    assert output.shape == grad_x.shape == x.shape
    assert grad_scale.shape == parameter.shape
    assert not grad_scale.any()
    assert not grad_offset.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("axis", [None, 1])
def test_half_types_compute_in_float32(dtype, axis):
    """Equal to the float32 op on the same values, rounded once at the end."""
    torch.manual_seed(2)
    x = torch.cat([torch.randn(500, 4) * 3, torch.randn(500, 4) * 1e-6, torch.tensor([[0.0, -0.0, 6e4, -6e4]])]).to(
        dtype
    )
    grad_output = torch.randn(x.shape).to(dtype)
    scale, offset = (torch.full([] if axis is None else [4], value) for value in (0.3, -0.7))
    options = {"quant_min": 0, "quant_max": 15, "axis": axis}
    half = run(x, scale, offset, grad_output=grad_output, **options)
    full = run(x.float(), scale, offset, grad_output=grad_output.float(), **options)
    assert half[0].dtype == half[1].dtype == dtype
    for actual, expected in zip(half, full, strict=True):
        torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_parameters_keep_their_dtype(dtype):
    x = torch.randn(8, 3)
    scale = torch.full((3,), 0.25, dtype=dtype)
    _, _, grad_scale, grad_offset = run(x, scale, -scale, quant_min=0, quant_max=3, axis=1)
    assert grad_scale.dtype == grad_offset.dtype == dtype


def test_float32_is_within_one_rounding_of_the_oracle():
    seed = 3
    generator = np.random.default_rng(seed)
    x = np.float32(generator.normal(size=200_000))
    for bits, scale, offset in itertools.product([2, 4, 8], np.float32([0.0131, 0.37]), np.float32([0.0, -0.278])):
        quant_max = 2**bits - 1
        output = ops.lsq_plus(
            torch.from_numpy(x), torch.tensor(scale), torch.tensor(offset), quant_min=0, quant_max=quant_max
        )
        code = np.rint((np.float64(output) - offset) / scale)
        v = np.clip(oracle.position(x, scale, offset), 0, quant_max)
        # The nearest code but where v lies within its float32 rounding of a tie.
        assert np.abs(code - v).max() <= 0.5 + 2**-23 * np.abs(v).max(), f"seed {seed}"
        assert (code != np.rint(v)).mean() < 1e-4, f"seed {seed}"


@pytest.mark.parametrize("shape, axis", [((1 << 20,), None), ((64, 16384), 0), ((16384, 64), 1), ((64, 64, 256), 1)])
def test_sums_are_exact_to_a_millionth(shape, axis):
    """Terms of one size and sign are the worst case of a float32 sum: it loses what is below half a unit of the running total."""
    upstream = np.full(shape, 0.1, np.float32)
    x = np.full(shape, 100.0, np.float32)  # saturated: the offset's terms are 0.1, the scale's 0.3
    parameter = torch.full([] if axis is None else [shape[axis]], 1.0)
    _, _, grad_scale, grad_offset = run(
        torch.from_numpy(x),
        parameter,
        parameter * 0,
        grad_output=torch.from_numpy(upstream),
        quant_min=0,
        quant_max=3,
        axis=axis,
    )
    expected = reduced(np.float64(upstream), axis)
    np.testing.assert_allclose(np.float64(grad_offset), expected, rtol=1e-6)
    np.testing.assert_allclose(np.float64(grad_scale), 3 * expected, rtol=1e-6)
    naive = np.cumsum(upstream.ravel(), dtype=np.float32)[-1]  # negative control: what the bound is there to catch
    assert abs(naive / np.float64(upstream).sum() - 1) > 1e-5


@pytest.mark.parametrize("shape, axis", [((3_000_001,), None), ((8, 33, 61, 61), 1), ((40_000, 37), 1)])
def test_threads_change_nothing(shape, axis):
    torch.manual_seed(4)
    x, grad_output = torch.randn(shape), torch.randn(shape)
    parameter = torch.full([] if axis is None else [shape[axis]], 0.2)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            results.append(run(x, parameter, -parameter, grad_output=grad_output, quant_min=0, quant_max=15, axis=axis))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_backward_needs_no_full_size_memory_but_grad_x():
    x = torch.randn(1 << 20)
    scale, offset = torch.tensor(0.2), torch.tensor(-0.1)
    grad_output = torch.randn_like(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        ops.lsq_plus_backward(grad_output, x, scale, offset, quant_min=0, quant_max=15)
    allocated = sum(e.cpu_memory_usage for e in profile.events() if e.name == "[memory]" and e.cpu_memory_usage > 0)
    allocated = allocated or sum(max(0, e.self_cpu_memory_usage) for e in profile.events())
    assert x.nbytes <= allocated < 1.05 * x.nbytes


def test_forward_saves_x_and_the_parameters_only():
    saved = []
    x, scale, offset = torch.randn(100, requires_grad=True), torch.tensor(0.2, requires_grad=True), torch.tensor(0.1)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        ops.lsq_plus(x, scale, offset, quant_min=0, quant_max=15)
    assert sorted(saved) == sorted(t.data_ptr() for t in (x, scale, offset))


# --- torch's own machinery --------------------------------------------------------------------------------------------------------------


def sample(axis, has_offset, requires_grad=True):
    torch.manual_seed(5)
    x = torch.randn(4, 6, 5, requires_grad=requires_grad)
    shape = [] if axis is None else [x.shape[axis]]
    parameters = [torch.full(shape, v, requires_grad=requires_grad) for v in ((0.2, -0.1) if has_offset else (0.2,))]
    return x, parameters, {"quant_min": 0, "quant_max": 15, "axis": axis}


@pytest.mark.parametrize("has_offset", [False, True])
@pytest.mark.parametrize("axis", [None, 1, -1])
def test_opcheck(axis, has_offset):
    x, parameters, options = sample(axis, has_offset)
    torch.library.opcheck(ops.lsq_plus.default, (x, *parameters), options)
    x, parameters, options = sample(axis, has_offset, requires_grad=False)
    torch.library.opcheck(ops.lsq_plus_backward.default, (torch.randn_like(x), x, *parameters), options)


@pytest.mark.parametrize("has_offset", [False, True])
@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_is_equal(axis, has_offset, dynamic):
    x, parameters, options = sample(axis, has_offset)

    def layer(x, *parameters):
        return ops.lsq_plus(x * 2, *parameters, **options).square()

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    results = []
    for function in (layer, compiled):
        output = function(x, *parameters)
        results.append((output, *torch.autograd.grad(output.sum(), (x, *parameters))))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_meta_tensors_give_shapes_and_look_at_no_value():
    x = torch.empty(2, 3, device="meta", requires_grad=True)
    scale = torch.empty(3, device="meta", requires_grad=True)
    output = ops.lsq_plus(x, scale, quant_min=0, quant_max=3, axis=1)
    output.sum().backward()
    assert output.shape == x.shape
    assert scale.grad.shape == scale.shape


def test_second_derivatives_are_refused():
    x, (scale,), options = sample(None, False)
    (grad_x,) = torch.autograd.grad(ops.lsq_plus(x, scale, **options).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="lsq_plus_backward"):
        grad_x.sum().backward()


# --- errors -----------------------------------------------------------------------------------------------------------------------------

X = torch.zeros(2, 3)
S = torch.tensor(0.5)
CODES = {"quant_min": 0, "quant_max": 15}


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((X, S), {"quant_min": 3, "quant_max": 3}, "quant_min must be below quant_max, got 3 and 3"),
        ((X, S), {"quant_min": 0, "quant_max": 1 << 30}, r"within \+-2\^23"),
        ((X.long(), S), CODES, "x must be float32, float64, bfloat16 or float16, got Long"),
        ((X, S.long()), CODES, "scale must be floating, got Long"),
        ((X, S.expand(3)), CODES, r"scale must have one element .* got shape \[3\]"),
        ((X, S), CODES | {"axis": 1}, r"scale must have shape \[3\], one element per channel, got \[\]"),
        ((X, S.expand(2)), CODES | {"axis": 1}, r"scale must have shape \[3\], one element per channel, got \[2\]"),
        ((X, S.expand(3), S), CODES | {"axis": 1}, r"offset must have shape \[3\]"),
        ((X, S.expand(3)), CODES | {"axis": 2}, "axis must be a dimension of x, which has 2, got 2"),
        ((X, S.expand(3)), CODES | {"axis": -3}, "axis must be a dimension of x, which has 2, got -3"),
        ((X, S.to("meta")), CODES, "scale must be on the device of x, cpu, got meta|device"),
        ((X, S), CODES | {"boundary": "open"}, "boundary must be 'strict' or 'inclusive', got 'open'"),
        *(
            ((X, torch.tensor(v)), CODES, "scale must be finite and above 0")
            for v in (0.0, -1.0, np.nan, np.inf, 1e-60)
        ),
        *(((X, S, torch.tensor(v)), CODES, "offset must be finite") for v in (np.nan, -np.inf)),
    ],
)
def test_errors_are_named(arguments, options, message):
    with pytest.raises(RuntimeError, match=message) as error:
        ops.lsq_plus(*arguments, **options)
    assert "lsq_plus" in str(error.value) or "meta" in str(error.value)


def test_backward_checks_its_upstream_gradient():
    with pytest.raises(RuntimeError, match="lsq_plus_backward: grad_output must have the shape of x"):
        ops.lsq_plus_backward(torch.zeros(3), X, S, **CODES)
    with pytest.raises(RuntimeError, match="lsq_plus_backward: grad_output must have the dtype of x"):
        ops.lsq_plus_backward(X.double(), X, S, **CODES)
