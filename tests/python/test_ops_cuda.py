"""The ops on CUDA against the same ops on the CPU. Skipped where there is no GPU."""

from __future__ import annotations

import pytest
import torch

import qstep  # noqa: F401  (registers torch.ops.qstep)

ops = torch.ops.qstep

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(
        not torch._C._dispatch_has_kernel_for_dispatch_key("qstep::lsq_plus", "CUDA"), reason="built without CUDA"
    ),
]

CASES = [
    ((), None),
    ((1_000_003,), None),
    ((64, 300), 1),
    ((2000, 64), 1),
    ((64, 300), 0),
    ((4, 6, 17, 19), 1),
    ((2, 3, 200, 211), -3),
    ((512, 1, 3, 3), 0),
    ((0, 5), 1),
]


def on_both(function, *tensors):
    return [function(*(t.to(device) for t in tensors)) for device in ("cpu", "cuda")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("boundary", ["strict", "inclusive"])
@pytest.mark.parametrize("shape, axis", CASES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_lsq_plus(shape, axis, boundary, dtype, channels_last):
    torch.manual_seed(0)
    x, grad_output = (torch.randn(shape).to(dtype) for _ in range(2))
    if channels_last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    size = [] if axis is None else [shape[axis]]
    scale, offset = 0.1 + 0.2 * torch.rand(size), 0.5 * torch.randn(size)
    options = {"quant_min": 0, "quant_max": 15, "axis": axis, "boundary": boundary}

    cpu, cuda = on_both(lambda x, s, o: ops.lsq_plus(x, s, o, **options), x, scale, offset)
    assert torch.equal(cpu, cuda.cpu())
    assert cuda.stride() == cpu.stride()

    def backward(*tensors):
        return ops.lsq_plus_backward(*tensors, **options, grad_scale=0.5)

    cpu, cuda = on_both(backward, grad_output, x, scale, offset)
    again = backward(*(t.cuda() for t in (grad_output, x, scale, offset)))
    assert torch.equal(cpu[0], cuda[0].cpu())
    magnitude = 15 * grad_output.double().abs().sum().item()
    for expected, actual, repeated in zip(cpu[1:], cuda[1:], again[1:], strict=True):
        torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=2e-6 * magnitude)
        assert torch.equal(actual, repeated)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rounding", ["half_even", "half_up"])
@pytest.mark.parametrize("shape, axis", CASES)
def test_fake_quantize_affine(shape, axis, rounding, dtype):
    torch.manual_seed(1)
    x, grad_output = (torch.randn(shape).to(dtype) for _ in range(2))
    size = [] if axis is None else [shape[axis]]
    scale, zero_point = 0.1 + 0.2 * torch.rand(size), torch.randint(0, 16, size)
    options = {"quant_min": 0, "quant_max": 15, "axis": axis}
    cpu, cuda = on_both(
        lambda x, s, z: ops.fake_quantize_affine(x, s, z, rounding=rounding, **options), x, scale, zero_point
    )
    assert torch.equal(cpu, cuda.cpu())
    cpu, cuda = on_both(
        lambda *tensors: ops.fake_quantize_affine_backward(*tensors, **options), grad_output, x, scale, zero_point
    )
    assert torch.equal(cpu, cuda.cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gradient", ["pact", "ste"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shape", [shape for shape, _ in CASES])
def test_pact(shape, signed, gradient, dtype):
    torch.manual_seed(4)
    x, grad_output = (torch.randn(shape).to(dtype) for _ in range(2))
    alpha = torch.tensor(1.1)
    options = {"bit_width": 4, "signed": signed, "gradient": gradient}
    cpu, cuda = on_both(lambda x, a: ops.pact(x, a, **options), x, alpha)
    assert torch.equal(cpu, cuda.cpu())

    def backward(*tensors):
        return ops.pact_backward(*tensors, **options)

    cpu, cuda = on_both(backward, grad_output, x, alpha)
    again = backward(*(t.cuda() for t in (grad_output, x, alpha)))
    assert torch.equal(cpu[0], cuda[0].cpu())
    magnitude = grad_output.double().abs().sum().item()
    torch.testing.assert_close(cuda[1].cpu(), cpu[1], rtol=0, atol=2e-6 * magnitude)
    assert torch.equal(cuda[1], again[1])


def test_pact_scale():
    alphas = torch.linspace(0.1, 20, 1000)
    for signed in (False, True):
        cpu, cuda = on_both(lambda a, signed=signed: ops.pact_scale(a, bit_width=3, signed=signed), alphas)
        assert torch.equal(cpu, cuda.cpu())


@pytest.mark.parametrize("symmetric", [False, True])
def test_affine_params(symmetric):
    torch.manual_seed(2)
    ends = torch.randn(1000, 2).sort(dim=1).values
    results = on_both(
        lambda low, high: ops.affine_params(low, high, quant_min=-127, quant_max=127, symmetric=symmetric), *ends.T
    )
    for cpu, cuda in zip(*results, strict=True):
        assert torch.equal(cpu, cuda.cpu())


def test_initialization():
    torch.manual_seed(3)
    x = torch.randn(16, 400)
    scales = on_both(lambda w: ops.lsq_weight_scale(w, quant_min=-8, quant_max=7, axis=0), x)
    torch.testing.assert_close(scales[0], scales[1].cpu())
    cpu, cuda = on_both(lambda x: ops.lsq_activation_init(x, quant_min=0, quant_max=15, learn_offset=True), x)
    assert [v.item() for v in cpu] == [v.item() for v in cuda]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape, axis", CASES)
def test_inq_quantize(shape, axis, dtype):
    torch.manual_seed(3)
    w = torch.randn(shape).to(dtype)
    for bit_width, n1 in [(2, 0), (3, 1), (4, -1), (5, 1)]:
        cpu, cuda = on_both(lambda w, n1, b=bit_width: ops.inq_quantize(w, n1, bit_width=b), w, torch.tensor(n1))
        assert torch.equal(cpu, cuda.cpu())
    cpu, cuda = on_both(lambda w: ops.inq_range(w, bit_width=5), w)
    assert cpu.item() == cuda.item()


@pytest.mark.parametrize("strategy", ["magnitude", "random"])
def test_inq_partition(strategy):
    torch.manual_seed(4)
    w = torch.randint(-9, 10, (64, 33)).float()  # many ties
    frozen = torch.rand(w.shape) < 0.2
    masks = []
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(5)  # a CPU generator draws alike for both
        options = {"fraction": 0.6, "strategy": strategy, "generator": generator}
        masks.append(ops.inq_partition(w.to(device), frozen.to(device), **options).cpu())
    assert torch.equal(*masks)


def test_autograd_and_current_stream():
    x, scale = (
        torch.randn(1000, device="cuda", requires_grad=True),
        torch.tensor(0.2, device="cuda", requires_grad=True),
    )
    with torch.cuda.stream(torch.cuda.Stream()):
        ops.lsq_plus(x, scale, quant_min=-8, quant_max=7).sum().backward()
    torch.cuda.synchronize()
    assert x.grad.isfinite().all()
    assert scale.grad.isfinite()


def test_parameters_must_be_on_the_device_of_x():
    with pytest.raises(RuntimeError, match="scale must be on the device of x, cuda:0, got cpu"):
        ops.lsq_plus(torch.zeros(3, device="cuda"), torch.tensor(0.5), quant_min=0, quant_max=15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", ["pact", "reference"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", [(), (1_000_003,), (0, 5), (4, 6, 17, 19)])
def test_fixed_point(shape, signed, mask, dtype):
    torch.manual_seed(5)
    x, grad_output = ((3 * torch.randn(shape)).to(dtype) for _ in range(2))
    options = {"signed": signed, "mask": mask}
    length = torch.tensor(5, dtype=torch.int32)
    cpu, cuda = on_both(lambda x, n: ops.fixed_point(x, n, **options), x, length)
    assert torch.equal(cpu, cuda.cpu())
    cpu, cuda = on_both(lambda g, x, n: ops.fixed_point_backward(g, x, n, **options), grad_output, x, length)
    assert torch.equal(cpu, cuda.cpu())


def test_f8net_formats():
    torch.manual_seed(6)
    stds = torch.tensor([0.0, 0.3125, 0.625, 0.7, 5.0, 40.0, 1e9])
    for signed in (True, False):
        cpu, cuda = on_both(lambda s, signed=signed: ops.f8net_fraction_length(s, signed=signed), stds)
        assert torch.equal(cpu, cuda.cpu())
    x = torch.randn(1000)
    for rule in ("std", "grid"):
        cpu, cuda = on_both(lambda x, rule=rule: ops.f8net_format(x, signed=True, rule=rule), x)
        assert int(cpu) == int(cuda)
    cpu, cuda = on_both(lambda n: ops.power_of_two(n), torch.arange(-126, 128, dtype=torch.int32))
    assert torch.equal(cpu, cuda.cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("breakpoints", [1, 2, 3])
@pytest.mark.parametrize("shape, axis", CASES)
def test_pwlq(shape, axis, breakpoints, dtype):
    torch.manual_seed(4)
    w = torch.randn(shape).to(dtype)
    size = [] if axis is None else [shape[axis]]
    m = w.double().abs().reshape(1, -1).amax() if w.numel() else torch.ones(())
    p = (m * torch.linspace(0.1, 0.6, breakpoints + 2, dtype=torch.float64)[1:-1]).expand(*size, breakpoints)
    if axis is not None and w.numel() > 0:  # the same range in every channel
        top = w.movedim(axis, 0).reshape(shape[axis], -1)
        top[:, 0] = m.to(dtype)
        w = top.reshape(w.movedim(axis, 0).shape).movedim(0, axis)
    options = {"bit_width": 4, "axis": axis}
    cpu, cuda = on_both(lambda w, p: ops.pwlq(w, p, **options), w, p)
    assert torch.equal(cpu, cuda.cpu())
    for estimate in ("gaussian", "optimal_laplace", "search"):
        cpu, cuda = on_both(
            lambda w, e=estimate: ops.pwlq_breakpoint(w, **options, estimate=e, breakpoints=breakpoints), w
        )
        torch.testing.assert_close(cuda.cpu(), cpu, rtol=1e-6, atol=1e-7)
    if w.numel() > 0:
        cpu, cuda = on_both(lambda w: torch.stack(ops.top_k_range(w)), w)
        assert torch.equal(cpu, cuda.cpu())
