"""The arithmetic of layers: convolution and linear layer on codes, rounded bias, frozen batch norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import qstep  # noqa: F401  (registers torch.ops.qstep)

ops = torch.ops.qstep


def on_grid(shape, low, high, scale, residual, seed, dtype=torch.float32):  # type: ignore[no-untyped-def]
    codes = torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed))
    return (codes.to(dtype) * scale + residual).requires_grad_(), codes


GEOMETRIES = [
    # stride, padding (top, left, bottom, right), dilation, groups
    ((1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((2, 1), (1, 2, 1, 2), (1, 1), 1),
    ((1, 2), (0, 1, 2, 0), (1, 2), 2),
    ((1, 1), (1, 1, 1, 1), (2, 1), 4),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("residual", [None, -0.0137])
def test_conv2d_is_the_integer_convolution_scaled_once(geometry, residual) -> None:  # type: ignore[no-untyped-def]
    stride, padding, dilation, groups = geometry
    scale_x, scale_w = torch.tensor(0.0371), torch.rand(8, generator=torch.Generator().manual_seed(1)) + 0.01
    r = 0.0 if residual is None else residual
    x, codes_x = on_grid((2, 4, 9, 8), -128, 127, 0.0371, r, 2)
    w, codes_w = on_grid((8, 4 // groups, 3, 3), -8, 7, scale_w.reshape(-1, 1, 1, 1), 0.0, 3)
    bias = torch.randn(8, generator=torch.Generator().manual_seed(4)).requires_grad_()
    residual_tensor = None if residual is None else torch.tensor(residual)
    y = ops.conv2d(x, w, bias, scale_x, residual_tensor, scale_w, stride, padding, dilation, groups)

    top, left, bottom, right = padding
    pad = (left, right, top, bottom)
    sums = F.conv2d(F.pad(codes_x.double(), pad), codes_w.double(), None, stride, 0, dilation, groups)
    scaled = sums.float() * (scale_x * scale_w).reshape(-1, 1, 1)
    without_bias = ops.conv2d(x, w, None, scale_x, residual_tensor, scale_w, stride, padding, dilation, groups)
    assert torch.equal(without_bias, scaled), "the sum must be exact and be scaled once"
    assert torch.allclose(y, scaled + bias.reshape(-1, 1, 1), rtol=1e-6, atol=1e-6)

    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    y.backward(upstream)
    x64, w64, b64 = (t.detach().double().requires_grad_() for t in (x, w, bias))
    F.conv2d(F.pad(x64 - r, pad), w64, b64, stride, 0, dilation, groups).backward(upstream.double())
    for ours, theirs in ((x.grad, x64.grad), (w.grad, w64.grad), (bias.grad, b64.grad)):
        assert torch.allclose(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12), (0, 12), (12,)])
def test_linear(shape) -> None:  # type: ignore[no-untyped-def]
    scale_x, scale_w = torch.tensor(0.11), torch.tensor(0.013)
    x, codes_x = on_grid(shape, 0, 255, 0.11, 0.021, 6)
    w, codes_w = on_grid((7, 12), -127, 127, 0.013, 0.0, 7)
    y = ops.linear(x, w, None, scale_x, torch.tensor(0.021), scale_w)
    assert torch.equal(y, (codes_x.double() @ codes_w.double().T).float() * (scale_x * scale_w))
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(8))
    y.backward(upstream)
    x64, w64 = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    F.linear(x64 - 0.021, w64).backward(upstream.double())
    assert torch.allclose(x.grad.double(), x64.grad, rtol=1e-5, atol=1e-6)
    assert torch.allclose(w.grad.double(), w64.grad, rtol=1e-5, atol=1e-5)


def test_operators_satisfy_opcheck() -> None:
    x, _ = on_grid((2, 4, 6, 6), 0, 15, 0.1, 0.0, 1)
    w, _ = on_grid((6, 4, 3, 3), -7, 7, 0.05, 0.0, 2)
    one, half = torch.tensor(0.1), torch.full((6,), 0.05)
    bias = torch.zeros(6, requires_grad=True)
    for residual in (None, torch.tensor(0.02)):
        torch.library.opcheck(ops.conv2d, (x, w, bias, one, residual, half, [1, 1], [1, 1, 1, 1], [1, 1], 1))
        torch.library.opcheck(ops.conv2d, (x, w, None, one, residual, half, [1, 2], [0, 1, 1, 0], [1, 1], 1))
    rows, _ = on_grid((3, 5), 0, 15, 0.1, 0.0, 3)
    matrix, _ = on_grid((6, 5), -7, 7, 0.05, 0.0, 4)
    torch.library.opcheck(ops.linear, (rows, matrix, bias, one, None, half))
    real = torch.randn(6, dtype=torch.double, requires_grad=True)
    torch.library.opcheck(ops.round_bias, (real, half.double(), torch.tensor(0.3)))


def test_round_bias() -> None:
    unit = torch.tensor([0.5, 0.25, -0.5, 2.0, 0.0, 1e-12], dtype=torch.double)
    bias = torch.tensor([0.75, 0.3, 0.75, -3.0, 0.7, 0.9], dtype=torch.double, requires_grad=True)
    rounded = ops.round_bias(bias, unit)
    # ties to even; negative units; units of 0 and units too small to count in leave the bias as it is
    assert rounded.tolist() == [1.0, 0.25, 1.0, -4.0, 0.7, 0.9]
    rounded.sum().backward()
    assert bias.grad.tolist() == [1.0] * 6
    shifted = ops.round_bias(torch.tensor([0.9], dtype=torch.double), torch.tensor([0.5]), torch.tensor(0.125))
    assert shifted.tolist() == [1.125]


def test_batch_norm_affine() -> None:
    generator = torch.Generator().manual_seed(9)
    gamma, beta, mean, bias = (torch.randn(5, generator=generator) for _ in range(4))
    var = torch.rand(5, generator=generator) + 0.1
    x = torch.randn(3, 5, 2, 2, generator=generator)
    factor, shift = ops.batch_norm_affine(gamma, beta, mean, var, 1e-5, bias)
    expected = F.batch_norm(
        x.double() + bias.double().reshape(-1, 1, 1), mean.double(), var.double(), gamma.double(), beta.double()
    )
    assert torch.allclose(
        x.double() * factor.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1), expected, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("shape", [(64, 5), (3, 5, 7, 6)])
def test_mean_and_variance(shape: tuple[int, ...]) -> None:
    y = torch.randn(shape, generator=torch.Generator().manual_seed(12), dtype=torch.float64).requires_grad_()
    mean, variance = ops.mean_and_variance(y)
    channels = y.detach().numpy().swapaxes(0, 1).reshape(5, -1)
    assert np.allclose(mean.detach(), channels.mean(1), rtol=1e-13, atol=1e-15)
    assert np.allclose(variance.detach(), channels.var(1), rtol=1e-13)
    torch.autograd.gradcheck(ops.mean_and_variance, (y,))


def test_residual_and_codes_follow_the_definition() -> None:
    scale, offset, zero = torch.tensor(0.3), torch.tensor(-0.41), torch.tensor(0)
    nearest = round(0.41 / float(scale))
    expected = np.float32(np.float64(np.float32(0.3)) * nearest + np.float64(np.float32(-0.41)))
    assert ops.grid_residual(scale, zero, offset, 0, 15).item() == expected
    assert (
        ops.grid_residual(scale, zero, torch.tensor(9.0), 0, 15).item() == 9.0
    )  # zero is out of range: its code is the bound
    x = torch.tensor([-10.0, -0.41, -0.26, 0.0, 1.0, 100.0, float("inf"), -float("inf")])
    codes = ops.encode(x, scale, zero, offset, 0, 15)
    assert codes.tolist() == [0, 0, 0, 1, 5, 15, 15, 0]
    back = ops.decode(codes, scale, zero, offset, 0)
    assert torch.equal(ops.encode(back, scale, zero, offset, 0, 15), codes)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "strided": lambda x: x[:, ::2, 1:],
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1),
    "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("quant_min", [0, -8])
def test_codes_do_not_depend_on_the_layout(layout: str, quant_min: int) -> None:
    """The CPU kernel against the formula in numpy, ties included."""
    scale, offset, zero = np.float32(0.25), np.float32(-0.125), 3 + quant_min
    x = LAYOUTS[layout](torch.arange(-288, 288).reshape(2, 6, 6, 8) / 64)
    grid = [torch.tensor(scale), torch.tensor(zero), torch.tensor(offset)]
    codes = ops.encode(x, *grid, quant_min, quant_min + 15)
    expected = np.clip(np.rint((x.numpy() - offset) / scale) + zero - quant_min, 0, 15)
    assert np.array_equal(codes.numpy(), expected)
    values = ops.decode(codes, *grid, quant_min)
    assert np.array_equal(values.numpy(), scale * (expected + quant_min - zero).astype(np.float32) + offset)


def test_bad_arguments_are_named() -> None:
    x, w, s = torch.zeros(1, 4, 5, 5), torch.zeros(6, 4, 3, 3), torch.tensor(1.0)

    def call(x, w, b=None, sx=s, sw=s):  # type: ignore[no-untyped-def]
        return ops.conv2d(x, w, b, sx, None, sw, [1, 1], [0, 0, 0, 0], [1, 1], 1)

    for arguments, message in (
        ((x[:, :3], w), "x has 3 channels, the weight takes 4"),
        ((x[0], w), "must have 4 dimensions, got 3 and 4"),
        ((x.double(), w), "must have one dtype"),
        ((x.int(), w.int()), "must be floating point"),
        ((x, w, torch.zeros(5)), r"bias must have shape \[6\]"),
        ((x, w, None, torch.ones(2)), "input_scale must have one element, got 2"),
        ((x, w, None, s, torch.ones(4)), "weight_scale must have 1 or 6 elements, got 4"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call(*arguments)
    with pytest.raises(RuntimeError, match="linear: x must end in 3 features"):
        ops.linear(torch.zeros(2, 4), torch.zeros(5, 3), None, s, None, s)
