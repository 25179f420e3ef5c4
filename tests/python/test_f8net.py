"""F8Net networks: the integer network equals evaluation and frozen training in every code, and holds no multiplier."""

from __future__ import annotations

import copy
import math
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import qstep
from networks import BasicBlock, ResNet20, settle
from oracle import checkpoint
from oracle import f8net as oracle
from qstep import _C
from qstep import nn as qnn
from qstep.quantizers import F8NetActivation, F8NetWeight

NETWORKS = {
    "resnet20": (ResNet20, (3, 32, 32)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=20), (3, 64, 64)),
}


def prepared(float_model: nn.Module, x: torch.Tensor, **options: Any) -> torch.fx.GraphModule:
    model = qstep.prepare(float_model, qstep.QConfig.f8net(**options), example_inputs=(x,))
    qstep.calibrate(model, [x], batches=1, progress=False)
    return model


def train_steps(model: nn.Module, x: torch.Tensor, steps: int = 3, lr: float = 1e-2) -> list[float]:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        y = model(x)
        loss = nn.functional.cross_entropy(y, torch.arange(len(y)) % y.shape[1])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def quantizers(model: nn.Module) -> dict[str, F8NetActivation]:
    return {m.path: m for m in model.modules() if isinstance(m, F8NetActivation)}


def residual_network() -> nn.Module:
    """A stem, two residual blocks with a linear and an unsigned branch, average pooling over 9 taps."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), BasicBlock(8, 8, 1), BasicBlock(8, 12, 2),
        nn.AvgPool2d(3), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


def example(seed: int = 0, size: int = 6, batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def assert_same_codes(model: torch.fx.GraphModule, x: torch.Tensor) -> qstep.IntegerNetwork:
    """Zero differing codes: evaluation, the simulated forward pass, and frozen training, each end to end."""
    net = qstep.convert(model)
    for forward in ("eval", "training"):
        result = qstep.compare(model, net, x, forward=forward)
        assert result.differing_codes == 0, f"{forward}\n{result}"
    model.eval()
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
    qstep.freeze_batch_norm(model)
    qstep.freeze_ranges(model)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    assert torch.equal(net(x), model(x).detach())
    return net


@pytest.mark.parametrize("name", NETWORKS)
def test_same_codes_and_no_multiplier(name: str, tmp_path: Path) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(3)
    x = torch.randn(2, *shape)
    model = prepared(settle(make(), x), x)
    train_steps(model, x, steps=2, lr=1e-3)
    net = assert_same_codes(model, x)
    other = torch.randn(3, *shape)
    model.eval()
    with torch.no_grad():
        expected = model(other)
    assert torch.equal(net(other), expected)
    # The saved file, judged and run by an independent reader in plain int64.
    net.save(tmp_path / "net.safetensors")
    saved = checkpoint.load(tmp_path / "net.safetensors")
    checkpoint.assert_shift_only(saved)
    assert "lookup" not in {node.kind for node in saved.nodes}
    assert sum(len(node.arrays.get("multiplier", [])) for node in saved.nodes) > 20  # there is something to judge
    values = saved.run(other.numpy())
    assert np.array_equal(list(values.values())[-1], expected.numpy())
    if name == "resnet20":  # negative control
        affine = qstep.prepare(settle(make(), x), qstep.QConfig.iao(), example_inputs=(x,))
        qstep.calibrate(affine, [x], batches=1, progress=False)
        qstep.convert(affine).save(tmp_path / "affine.safetensors")
        with pytest.raises(AssertionError):
            checkpoint.assert_shift_only(checkpoint.load(tmp_path / "affine.safetensors"))


def test_double_where_float_cannot_hold_the_sums() -> None:
    """Sums beyond 2^24: the frozen training forward runs the layer in float64 and still gives the network's codes."""
    torch.manual_seed(5)
    net = nn.Sequential(nn.Conv2d(800, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 3))
    with torch.no_grad():
        net[0].weight.normal_()  # type: ignore[operator]
    x = torch.rand(2, 800, 4, 4)
    model = prepared(net, x, nonnegative_input=True, format="grid")
    layer = model.get_submodule("0")
    assert isinstance(layer, qnn.Conv2d)
    seen = []
    layer.output_quantizer.register_forward_hook(lambda m, args, y: seen.append(args[0].dtype))  # type: ignore[union-attr]
    assert_same_codes(model, x)
    assert torch.float64 in seen


def test_input_statistics_and_gradients() -> None:
    torch.manual_seed(0)
    x = example()
    model = prepared(settle(residual_network(), x), x)
    losses = train_steps(model, x, steps=8)
    assert losses[-1] < losses[0]
    for path, quantizer in quantizers(model).items():
        if quantizer.alpha is not None:
            gradient = quantizer.alpha.raw.grad
            assert gradient is not None and gradient.abs() > 0, path


def test_batch_statistics() -> None:
    """One layer in training against the formulas in float64: statistics of un-quantized weights, W_eff of those statistics."""
    torch.manual_seed(7)
    x = torch.randn(6, 3, 5, 5)
    conv, bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
    with torch.no_grad():
        bn.weight.copy_(torch.tensor([1.0, -0.7, 0.4, 1.5]))
        bn.bias.uniform_(-1, 1)
    model = prepared(nn.Sequential(conv, bn, nn.ReLU(), nn.Flatten(), nn.Linear(100, 2)), x)
    model.train()
    layer = model.get_submodule("0")
    assert (
        isinstance(layer, qnn.Conv2d) and layer.output_quantizer is not None and layer.output_quantizer.eta is not None
    )
    x = layer._inputs[0](x).detach()
    eta = layer.output_quantizer.eta.item()
    upstream = torch.randn(6, 4, 5, 5)
    y = layer.simulate(x)
    (y * upstream).sum().backward()

    weight, gamma, beta, bias = (
        p.detach().double().requires_grad_() for p in (conv.weight, bn.weight, bn.bias, conv.bias)
    )
    real = nn.functional.conv2d(x.double(), weight, bias, padding=1)
    mean, var = real.mean((0, 2, 3)), real.var((0, 2, 3), correction=0)
    factor = gamma / (var + bn.eps).sqrt()
    effective = weight * factor.reshape(-1, 1, 1, 1) / eta
    shift = (beta + (bias - mean) * factor) / eta
    length = oracle.fraction_length(effective.std().item(), True)
    codes = [oracle.code(v, length, 8, True) for v in effective.detach().float().flatten().tolist()]
    unit = 2.0**-length * layer._inputs[0].scale.item()
    quantized = torch.tensor(codes, dtype=torch.float64).reshape(effective.shape) * 2.0**-length
    rounded = (shift / unit).round() * unit
    expected = nn.functional.conv2d(x.double(), quantized, rounded, padding=1)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=0)
    # Straight through: the gradients are those of the same layer with effective weights as they are.
    through = nn.functional.conv2d(x.double(), effective, shift, padding=1)
    (through * upstream).sum().backward()
    assert layer.batch_norm is not None
    for ours, reference in ((layer.weight, weight), (layer.batch_norm.weight, gamma), (layer.batch_norm.bias, beta)):
        torch.testing.assert_close(ours.grad.double(), reference.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.batch_norm.running_mean.double(), 0.1 * mean.detach(), rtol=1e-5, atol=1e-6)
    unbiased = 0.9 + 0.1 * real.detach().var((0, 2, 3))
    torch.testing.assert_close(layer.batch_norm.running_var.double(), unbiased, rtol=1e-5, atol=1e-6)
    assert int(layer.batch_norm.num_batches_tracked) == 1


def test_batch_norm_is_estimated_anew() -> None:
    x = example()
    model = prepared(settle(residual_network(), x), x)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    qstep.reestimate_batch_norm(model, [x, x], batches=2, progress=False)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, state[k])}
    assert changed == {k for k in state if "running" in k}
    assert_same_codes(model, x)


def test_rounding_of_a_layer() -> None:
    """Requantization by a shift rounds half to even, ties of both signs included, and clamps."""
    builder = _C.Builder("shift")
    grid = _C.Grid(scale=1.0, zero_point=0, offset=0.0, quant_min=-127, quant_max=127)
    source = builder.input("x", [1, 1], grid)
    weights = np.arange(-127, 128, dtype=np.float32).reshape(-1, 1)
    target = _C.Target(
        _C.Grid(scale=16.0, zero_point=0, offset=0.0, quant_min=-127, quant_max=127), -math.inf, math.inf
    )
    weight = _C.UniformWeight(weights, np.ones(1), quant_min=-127, quant_max=127)
    builder.output(builder.linear("fc", source, weight=weight, target=target))
    x = np.arange(0, 255, dtype=np.uint8).reshape(-1, 1)
    (codes,) = _C.IntegerNetwork(builder.finish()).run([x])
    ties = 0
    for i in range(255):
        for o in range(255):
            product = (i - 127) * (o - 127)
            ties += product % 16 == 8
            assert int(codes[i, o]) - 127 == min(max(round(Fraction(product, 16)), -127), 127)
    assert ties > 1000


@pytest.mark.parametrize("relu6", [False, True])
def test_gradients_are_those_of_pact(relu6: bool) -> None:
    """Through eta in the weights of both layers alpha gets the gradient of PACT on real values, where nothing else is rounded."""
    torch.manual_seed(1)
    x = torch.randint(-40, 40, (50, 4)) / 16.0
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU6() if relu6 else nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        for parameter in net.parameters():  # nothing but the activations is rounded
            parameter.copy_(torch.randint(-40, 40, parameter.shape) / 16.0)
    model = prepared(net, x, alpha_init=255 / (32 if relu6 else 64))  # eta is 1, or with ReLU6 2
    model.train()
    qstep.freeze_ranges(model)
    quantizer = quantizers(model)["0.output_quantizer"]
    assert quantizer.alpha is not None
    quantizer.fraction_length.fill_(6)
    layers = [model.get_submodule(name) for name in ("0", "2")]
    upstream = torch.randn(50, 2)
    (model(x) * upstream).sum().backward()
    # The same from quantized weights, in double: real values = weights of the network * eta.
    eta_value = quantizer.eta.detach().double()
    alpha = quantizer.alpha().detach().double().requires_grad_()
    first, second = (layer._quantized_weight(layer._frozen_affine()[0]).values.detach().double() for layer in layers)  # type: ignore[operator]
    bias = [layer.bias.detach().double() for layer in layers]  # type: ignore[union-attr]
    inputs = layers[0]._inputs[0](x).detach().double()  # type: ignore[index, operator]
    real = torch.relu(inputs @ (first * eta_value).T + bias[0])
    real = real.clamp_max(6) if relu6 else real
    y = qstep.functional.f8net_pact(real, alpha, fraction_length=6, signed=False) @ (second / eta_value).T + bias[1]
    (y * upstream).sum().backward()
    assert alpha.grad is not None and quantizer.alpha.raw.grad is not None
    assert abs(alpha.grad.item()) > 1e-3
    assert math.isclose(alpha.grad.item(), quantizer.alpha.raw.grad.item(), rel_tol=1e-3)


def test_chains_share_alpha_and_differ_by_powers_of_two() -> None:
    torch.manual_seed(2)
    x = example()
    model = prepared(settle(residual_network(), x), x)
    by_path = quantizers(model)
    adds = [m for m in model.modules() if isinstance(m, qnn.Add)]
    assert len(adds) == 2
    parameters = [p for n, p in model.named_parameters() if n.endswith("alpha.raw")]
    assert len(parameters) == len({id(p) for p in parameters})
    for add in adds:
        assert add.output_quantizer is not None
        chain = [*add._inputs, add.output_quantizer]
        assert len({id(q.leader) for q in chain}) == 1  # type: ignore[attr-defined]
        for quantizer in chain:
            assert isinstance(quantizer, F8NetActivation)
            ratio = (quantizer.eta / add.output_quantizer.eta).item()  # type: ignore[operator]
            assert math.frexp(ratio)[0] == 0.5
            assert quantizer.ratio_to(add.output_quantizer).item() == ratio  # type: ignore[union-attr]
            steps = quantizer.eta * quantizer.scale / (quantizer.leader.alpha() / 255)  # type: ignore[misc]
            assert steps.item() == pytest.approx(2 if quantizer.signed else 1, rel=1e-6)
    alone = by_path["2.conv1.output_quantizer"]
    assert alone.leader is alone
    # The sum of real values is what the add computes: eta is a matter of representation.
    model.eval()
    seen: dict[str, tuple[tuple[torch.Tensor, ...], torch.Tensor]] = {}
    adds[0].register_forward_hook(lambda m, args, y: seen.update(add=(args, y)))
    with torch.no_grad():
        model(x)
    args, y = seen["add"]
    target = adds[0].output_quantizer
    assert target is not None and target.eta is not None
    real = sum((q.eta * a for q, a in zip(adds[0]._inputs, args, strict=True)), torch.zeros(()))  # type: ignore[operator]
    step = (target.eta * target.scale).item()
    inside = real.relu().clamp_max(254 * step)
    assert (inside - (target.eta * y).clamp_max(254 * step)).abs().max() <= step * 0.5001


def test_private_ranges_are_powers_of_two_apart() -> None:
    """A chain whose later tensors are twenty times as large as the first ones."""
    torch.manual_seed(4)
    x = example()
    net = settle(residual_network(), x)
    with torch.no_grad():
        for name, parameter in net[3].named_parameters():
            if name.startswith("bn2"):
                parameter *= 20
    error, use = {}, {}
    for private_range in (False, True):
        model = prepared(copy.deepcopy(net), x, alpha_init="max", private_range=private_range).eval()
        members = {q: 0.0 for q in quantizers(model).values() if q.leader.alpha is not None and not q._source}
        steps = {(q.eta * q.scale / (q.leader.alpha() / q.levels)).item() for q in members}
        assert all(math.frexp(round(step, 6))[0] == 0.5 for step in steps)
        assert (len(steps) > 2) == private_range  # else 1, and 2 for signed ones
        for module in model.modules():
            if getattr(module, "output_quantizer", None) in members:
                module.register_forward_hook(
                    lambda m, _, y, used=members: used.update(
                        {m.output_quantizer: y.abs().max().item() / m.output_quantizer.scale.item()}
                    )
                )
        with torch.no_grad():
            error[private_range] = (model(x) - net(x)).square().mean().item()
        use[private_range] = min(code / q.quant_max for q, code in members.items())
        train_steps(model, x)
        assert_same_codes(model, x)
    assert use[True] > 0.45 > 0.2 > use[False]
    assert error[True] < error[False]


def test_pure_signed_chain_uses_all_codes() -> None:
    class Bottlenecks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            x = x + self.b(x)
            return self.c(x)

    x = example()
    model = prepared(Bottlenecks(), x)
    add = next(m for m in model.modules() if isinstance(m, qnn.Add))
    for quantizer in (*add._inputs, add.output_quantizer):
        assert isinstance(quantizer, F8NetActivation)
        assert quantizer.levels == 127
        assert (quantizer.eta * quantizer.scale * 127 / quantizer.leader.alpha()).item() == pytest.approx(1)  # type: ignore[misc]
    assert_same_codes(model, x)


def test_average_pooling_is_folded_into_eta() -> None:
    x = example(size=6)
    model = prepared(settle(residual_network(), x), x)
    (pool,) = (m for m in model.modules() if isinstance(m, qnn.ShiftAvgPool2d))
    assert pool.divisor == 16
    assert (
        pool.output_quantizer is not None and pool.output_quantizer.eta is not None and pool._inputs[0].eta is not None
    )
    assert (pool.output_quantizer.eta / pool._inputs[0].eta).item() == pytest.approx(16 / 9)
    values = torch.randint(0, 256, (2, 12, 3, 3)) * pool._inputs[0].scale
    expected = nn.functional.avg_pool2d(values * pool._inputs[0].eta, 3)
    got = pool.simulate(values) * pool.output_quantizer.eta
    torch.testing.assert_close(got, expected)
    assert_same_codes(model, x)


def test_formats_move_by_average_and_freeze() -> None:
    x = example()
    model = prepared(settle(residual_network(), x), x)
    quantizer = quantizers(model)["2.conv1.output_quantizer"]
    before = int(quantizer.fraction_length)
    with torch.no_grad():
        quantizer.average.fill_(before - 0.4)
    model.train()
    model(x)
    assert int(quantizer.fraction_length) == before  # rounds back
    with torch.no_grad():
        quantizer.average.fill_(before - 0.6)
    seen: list[torch.Tensor] = []
    quantizer.register_forward_hook(lambda _, args, y: seen.append(args[0].detach()))
    model(x)
    assert int(quantizer.fraction_length) == before - 1
    average = quantizer.average.item()
    assert average == pytest.approx(0.9 * (before - 0.6) + 0.1 * int(quantizer._format_of(seen[-1])), abs=1e-6)
    assert average != pytest.approx(before - 0.6)
    qstep.freeze_ranges(model)
    model(x)
    assert quantizer.average.item() == average
    image = next(m for m in model.modules() if isinstance(m, qnn.Quantize)).output_quantizer
    assert isinstance(image, F8NetActivation)
    assert image.eta.item() == 1 and image.signed


def test_function_does_not_depend_on_fraction_lengths() -> None:
    """Only the formats of weights see a change of fraction lengths: eta takes it up."""
    x = example()
    model = prepared(settle(residual_network(), x), x)
    qstep.freeze_ranges(model)
    quantizer = quantizers(model)["2.conv1.output_quantizer"]
    step = (quantizer.eta * quantizer.scale).item()
    quantizer.fraction_length -= 2
    assert (quantizer.eta * quantizer.scale).item() == step
    assert_same_codes(model, x)


@pytest.mark.parametrize(
    "weight",
    [torch.full((1,), 5.0), torch.full((4,), 0.5), 5 + 1e-3 * torch.randn(50)],
    ids=["one", "constant", "near"],
)
def test_weights_that_the_rule_cannot_hold_are_named(weight: torch.Tensor) -> None:
    """The standard deviation says nothing of a mean; clipped silently, 5 would become 0.99."""
    quantizer = F8NetWeight(8, weight.shape)
    with pytest.raises(ValueError, match="use format='grid'"):
        quantizer.initialize(weight)
    quantizer = F8NetWeight(8, weight.shape, format="grid")
    quantizer.initialize(weight)
    torch.testing.assert_close(quantizer(weight).values, weight, rtol=1 / 64, atol=0)
    F8NetWeight(8, weight.shape).initialize(torch.zeros_like(weight))


def test_reference_fl() -> None:
    x = example()
    float_model = settle(residual_network(), x)
    model = prepared(float_model, x, reference_fl=True, alpha_init=40.0)  # far too large: the batch asks for more
    quantizer = quantizers(model)["2.conv1.output_quantizer"]
    model.train()
    with torch.no_grad():
        quantizer.average.fill_(2.0)
    scales, etas = [], []

    def note(quantizer: F8NetActivation, args: Any, y: torch.Tensor) -> None:
        scales.append(quantizer.scale.item())
        etas.append(quantizer.eta.item())

    quantizer.register_forward_hook(note)
    model(x)
    assert int(quantizer.fraction_length) == 2
    assert quantizer._batch_length is not None
    assert scales == [2.0 ** -int(quantizer._batch_length)]
    assert scales != [2.0**-2]
    assert etas[0] == pytest.approx(4 * quantizer.leader.alpha().item() / 255)  # type: ignore[misc]
    model.eval()
    assert quantizer.scale.item() == 2.0**-2
    assert_same_codes(model, x)


def test_reference_residual() -> None:
    x = example()
    float_model = settle(residual_network(), x)
    for reference in (False, True):
        model = prepared(float_model, x, reference_residual=reference)
        add = next(m for m in model.modules() if isinstance(m, qnn.Add))
        add._inputs[1].fraction_length.fill_(3)  # type: ignore[union-attr, operator]
        assert add.output_quantizer is not None
        add.output_quantizer.fraction_length.fill_(5)  # type: ignore[union-attr, operator]
        a, b = torch.ones(1, 8, 6, 6), torch.ones(1, 8, 6, 6)
        ratio = 1 if reference else 2.0 ** (3 - 5)
        expected = a * (1 if reference else add._ratios()[0]) + b * ratio  # type: ignore[operator]
        assert torch.equal(add.simulate(a, b), expected)
        assert_same_codes(model, x)


def test_reference_mask() -> None:
    x = torch.tensor([0.2 / 64, 254.8 / 64, 1.0], requires_grad=True)
    for reference, expected in ((False, [1, 1, 1]), (True, [0, 0, 1])):
        config = qstep.QConfig.f8net(reference_mask=reference)
        quantizer = F8NetActivation(8, True, **config.activation.options)
        quantizer.start_calibration()
        quantizer(torch.tensor([0.0, 1.0]))
        quantizer.finish_calibration()
        quantizer.fraction_length.fill_(6)
        quantizer.freeze()
        (grad,) = torch.autograd.grad(quantizer(x).sum(), x)
        assert grad.tolist() == expected


def test_no_clipping_and_other_widths() -> None:
    x = example()
    float_model = settle(residual_network(), x)
    model = prepared(float_model, x, clipping=False, format="grid")
    assert not [n for n, _ in model.named_parameters() if "alpha" in n]
    assert all(q.eta == 1 for q in quantizers(model).values() if not q._source)
    train_steps(model, x)
    assert_same_codes(model, x)
    model = prepared(float_model, x, weight_bits=6, act_bits=5, format="grid")
    train_steps(model, x)
    assert_same_codes(model, x)


def test_nonnegative_input_has_an_unsigned_format() -> None:
    x = torch.rand(2, 3, 6, 6)
    model = prepared(settle(residual_network(), x), x, nonnegative_input=True)
    image = next(m for m in model.modules() if isinstance(m, qnn.Quantize)).output_quantizer
    assert isinstance(image, F8NetActivation)
    assert (image.quant_min, image.quant_max, int(image.fraction_length)) == (0, 255, 8)
    assert_same_codes(model, x)


def test_state_survives() -> None:
    x = example()
    float_model = settle(residual_network(), x)
    model = prepared(float_model, x)
    train_steps(model, x)
    model.eval()
    with torch.no_grad():
        expected = model(x)
        again = qstep.prepare(float_model, qstep.QConfig.f8net(), example_inputs=(x,))
        again.load_state_dict(model.state_dict())
        for other in (again.eval(), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x), expected)
        # The integer layer is lowered anew when the alpha of its chain changes, wherever that is kept.
        add = next(m for m in model.modules() if isinstance(m, qnn.Add))
        before = add.output_quantizer.eta.item()  # type: ignore[union-attr]
        add.output_quantizer.leader.alpha.raw.mul_(0.5)  # type: ignore[union-attr]
        assert add.output_quantizer.eta.item() == before / 2  # type: ignore[union-attr]
        assert not torch.equal(model(x), expected)
        assert torch.equal(qstep.convert(model)(x), model(x))


class Undefined(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 2)
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.kind == "table":
            y = nn.functional.silu(y)
        elif self.kind == "multiply":
            y = y * y
        elif self.kind == "concat":
            y = torch.cat([y, y], 1)[:, :4]
        elif self.kind == "pool":
            y = nn.functional.adaptive_avg_pool2d(y, 4)
        elif self.kind == "mean in a sum":
            y = y + nn.functional.avg_pool2d(y, 3, 1, 1)
        y = nn.functional.adaptive_avg_pool2d(y, 1).flatten(1)
        return y if self.kind == "mean as output" else self.fc(y)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("table", "silu.*no fixed-point definition"),
        ("multiply", "mul.*clipping levels differ"),
        ("concat", "cat.*clipping levels differ"),
        ("pool", "adaptive average pooling of 6 to 4.*one size"),
        ("mean in a sum", "cannot add the mean over a window whose size is not a power of two"),
        ("mean as output", "cannot be an output"),
    ],
)
def test_what_has_no_definition_is_a_named_error(kind: str, message: str) -> None:
    with pytest.raises(qstep.UnsupportedError, match=message):
        qstep.prepare(Undefined(kind), qstep.QConfig.f8net(), example_inputs=(example(),))


def test_bad_configurations() -> None:
    with pytest.raises(ValueError, match="format='std' is defined for 8 bits only, got 4"):
        qstep.prepare(residual_network(), qstep.QConfig.f8net(act_bits=4), example_inputs=(example(),))
    with pytest.raises(ValueError, match="f8net goes with f8net weights and activations"):
        qstep.QConfig(weight=qstep.Scheme("f8net", 8), activation=qstep.Scheme("iao", 8))
    with pytest.raises(ValueError, match=r"f8net goes with.*requantization='shift'"):
        qstep.QConfig.f8net(requantization="exact")
    with pytest.raises(ValueError, match="alpha_init must be above 0 and finite, got -1"):
        F8NetActivation(8, True, alpha_init=-1)
    with pytest.raises(ValueError, match="mask must be"):
        F8NetActivation(8, True, mask="ste")
    x = example()
    for value, message in ((0.5, "needs weights of more than one value"), (float("nan"), "must be finite")):
        net = residual_network()
        with torch.no_grad():
            net[0].weight.fill_(value)  # type: ignore[operator]
        with pytest.raises(ValueError, match=f"0.weight_quantizer: .*{message}"):
            prepared(net, x)
    zero = residual_network()
    with torch.no_grad():
        zero[0].weight.zero_()  # type: ignore[operator]
    assert_same_codes(prepared(zero, x), x)
