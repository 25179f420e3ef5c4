"""Calibration, state, the phases of training, shared layers."""

from __future__ import annotations

import copy
import dataclasses
import io

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import qstep
from networks import ResNet20, settle
from qstep.quantizers import ActivationQuantizer, IaoActivation

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def prepared(config: qstep.QConfig, calibrate: bool = True) -> torch.fx.GraphModule:
    torch.manual_seed(0)
    model = qstep.prepare(settle(ResNet20(), X), config, example_inputs=(X,))
    if calibrate:
        qstep.calibrate(model, [(X, torch.zeros(4))], batches=3, progress=False)
    return model


CONFIGS = [
    pytest.param(qstep.QConfig.lsq_plus(4, 4, per_channel=True), id="lsq_plus"),
    pytest.param(qstep.QConfig.iao(8, 8), id="iao"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_state_dict_loads_before_any_forward_pass(config: qstep.QConfig) -> None:
    model = prepared(config)
    stored = io.BytesIO()
    torch.save(model.state_dict(), stored)
    stored.seek(0)
    fresh = prepared(config, calibrate=False)
    fresh.load_state_dict(torch.load(stored))
    for mode in (True, False):
        assert torch.equal(fresh.train(mode)(X), model.train(mode)(X))
    with torch.no_grad():
        assert torch.equal(fresh(X), model(X))
    assert len(set(model.state_dict())) == len(model.state_dict())
    parameters = list(model.parameters())
    assert len({id(p) for p in parameters}) == len(parameters)


@pytest.mark.parametrize("config", CONFIGS)
def test_copies_are_independent(config: qstep.QConfig) -> None:
    model = prepared(config).eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = model(X)
        for p in twin.parameters():
            p.add_(0.01)
        assert torch.equal(model(X), before)
        assert not torch.equal(twin(X), before)
    result = qstep.compare(twin, qstep.convert(twin), X)
    assert result.differing_codes == 0


@pytest.mark.parametrize("config", CONFIGS)
def test_calibration_leaves_mode_and_batch_norm_alone(config: qstep.QConfig) -> None:
    model = prepared(config, calibrate=False)
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k or k.endswith("weight")}
    qstep.calibrate(model, [X], batches=1, progress=False)
    assert model.training
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert all(q.ready and not q.calibrating for q in model.modules() if isinstance(q, ActivationQuantizer))


def test_every_parameter_learns() -> None:
    model = prepared(qstep.QConfig.lsq_plus(4, 4)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(X), torch.arange(4)).backward()
        optimizer.step()
    still = [k for k, v in model.named_parameters() if torch.equal(v, before[k])]
    assert all(k.endswith("offset") for k in still), (
        "an offset moves only where values are clipped, everything else always"
    )
    assert len(still) < sum(k.endswith("offset") for k in before)


def test_training_lowers_the_loss() -> None:
    for config in (qstep.QConfig.lsq_plus(2, 2), qstep.QConfig.iao(4, 4)):
        model = prepared(config).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(X), torch.arange(4))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.3 * losses[0], losses


def test_frozen_batch_norm_uses_and_keeps_moving_statistics() -> None:
    for config in (qstep.QConfig.lsq_plus(4, 4), qstep.QConfig.iao()):
        model = prepared(config).train()
        qstep.freeze_batch_norm(model)
        qstep.freeze_ranges(model)
        statistics = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
        trained = model(X)
        model.eval()
        assert torch.equal(trained, model(X)), "frozen training and eval() with gradients are one computation"
        after = model.state_dict()
        assert all(torch.equal(after[k], v) for k, v in statistics.items())
        qstep.freeze_batch_norm(model, False)
        model.train()(X)
        assert not torch.equal(
            model.state_dict()["conv1.batch_norm.running_mean"], statistics["conv1.batch_norm.running_mean"]
        )


def test_iao_delay_and_moving_average() -> None:
    model = prepared(qstep.QConfig.iao(8, 8, smoothing=0.75, delay=2)).train()
    quantizer = model.get_submodule("x_quantizer").output_quantizer
    assert isinstance(quantizer, IaoActivation)
    low = quantizer.min.clone()
    for step in range(4):
        y = model.get_submodule("x_quantizer")(2 * X)
        low = 0.75 * low + 0.25 * (2 * X).min()
        assert torch.isclose(quantizer.min, low)
        assert torch.equal(y, 2 * X) == (step < 2), f"step {step}"
    resumed = prepared(qstep.QConfig.iao(8, 8, smoothing=0.75, delay=2), calibrate=False).train()
    resumed.load_state_dict(model.state_dict())
    assert not torch.equal(resumed.get_submodule("x_quantizer")(X), X), "the step count is part of the state"
    model(X)  # delayed layers work on values that lie on no grid yet
    quantizer.freeze()
    frozen = quantizer.min.clone()
    model(5 * X)
    assert torch.equal(quantizer.min, frozen)


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.depth = torchvision.ops.StochasticDepth(0.5, "row")
        self.fc = nn.Linear(8 * 256, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depth(F.relu(self.conv(x)))
        return self.fc(F.dropout(x.flatten(1), 0.5, training=self.training))


@pytest.mark.parametrize("traced_in_training", [True, False])
def test_dropout_functions_follow_the_mode(traced_in_training: bool) -> None:
    torch.manual_seed(3)
    model = qstep.prepare(Dropping().train(traced_in_training), qstep.QConfig.lsq_plus(4, 4), example_inputs=(X,))
    qstep.calibrate(model, [X], batches=1, progress=False)
    model.train()
    assert not torch.equal(model(X), model(X))
    model.eval()
    assert torch.equal(model(X), model(X))
    assert qstep.compare(model, qstep.convert(model), X).differing_codes == 0
    assert copy.deepcopy(model)(X).shape == (4, 4)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(x))
        for _ in range(3):
            x = self.act(self.body(x) + x)
        return self.head(x.mean((2, 3)))


def test_shared_layers_keep_one_weight() -> None:
    torch.manual_seed(2)
    model = qstep.prepare(Shared(), qstep.QConfig.lsq_plus(4, 4), example_inputs=(X,))
    qstep.calibrate(model, [X], batches=1, progress=False)
    calls = [model.get_submodule(name) for name in ("body", "body_1", "body_2")]
    assert all(c.weight is calls[0].weight and c.weight_quantizer is calls[0].weight_quantizer for c in calls)
    assert len({id(c.output_quantizer) for c in calls}) == 3
    model.train()(X).sum().backward()
    net = qstep.convert(model)
    assert qstep.compare(model, net, X).differing_codes == 0


def test_dead_channels_convert() -> None:
    """Batch norm's gamma is 0 or tiny in channels that training switched off."""
    for config in (qstep.QConfig.lsq_plus(4, 4), qstep.QConfig.iao()):
        model = prepared(config)
        with torch.no_grad():
            for layer in (m for m in model.modules() if isinstance(m, qstep.nn.Conv2d)):
                layer.batch_norm.weight[0] = 0.0
                layer.batch_norm.weight[1] = 1e-9
                layer.batch_norm.weight[2] = -1e-12
        result = qstep.compare(model, qstep.convert(model), X)
        assert result.differing_codes == 0
        model.train()
        y = model(X)
        y.sum().backward()
        assert torch.isfinite(y).all()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_summary_covers_every_operation() -> None:
    model = prepared(qstep.QConfig.lsq_plus(4, 4))
    rows = {row.layer: row for row in qstep.summary(model).rows}
    assert rows["conv1"].bits == "W8A4" and "batch norm" in rows["conv1"].kind
    assert rows["linear"].scale == "real-valued"
    assert "0 in floating point" in str(qstep.summary(model))
    net = qstep.convert(model)
    assert {row.layer for row in qstep.summary(net).rows} >= set(rows) - {
        n for n, r in rows.items() if r.kind == "moves codes"
    }
    assert all(row.kernel for row in qstep.summary(net).rows)


@pytest.mark.parametrize("config", [qstep.QConfig.lsq_plus(4, 4), qstep.QConfig.pact(3, 3), qstep.QConfig.lsq(2, 2)])
def test_first_and_last_layer_have_8_bits_by_default(config: qstep.QConfig) -> None:
    model = prepared(config)
    bits = {n: m.weight_quantizer.bit_width for n, m in model.named_modules() if hasattr(m, "weight_quantizer")}
    assert bits.pop("conv1") == bits.pop("linear") == 8
    assert len(bits) == 20 and set(bits.values()) == {config.weight.bit_width}


def test_summary_counts_operations_in_floating_point() -> None:
    model = prepared(qstep.QConfig.iao())
    output = next(n for n in model.graph.nodes if n.op == "output")
    (last,) = output.all_input_nodes
    with model.graph.inserting_after(last):
        own = model.graph.call_function(torch.cumsum, (last, 1))
    own.meta = dict(last.meta)
    output.replace_input_with(last, own)
    model.recompile()
    text = str(qstep.summary(model))
    assert "1 in floating point" in text and "coverage 100 %" not in text


def test_batch_norm_in_eval_is_frozen() -> None:
    """A user's bn.eval() in a training network means what it means in PyTorch: moving statistics, not updated."""
    model = prepared(qstep.QConfig.lsq_plus(4, 4))
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.eval()
    before = [norm.running_mean.clone() for norm in norms]
    own = model(X)
    assert all(torch.equal(a, norm.running_mean) for a, norm in zip(before, norms, strict=True))
    for norm in norms:
        norm.train()
    qstep.freeze_batch_norm(model)
    assert torch.equal(own, model(X))


class Padded(nn.Module):
    """The channel-padding shortcut of CIFAR ResNets (He et al., section 4.2, option A), and spatial padding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.pad = nn.ZeroPad2d((1, 0, 2, 1))
        self.linear = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 3))
        return self.linear(self.pad(F.relu(self.conv(x) + shortcut)).mean((2, 3)))


@pytest.mark.parametrize("config", [qstep.QConfig.lsq_plus(4, 4, act_config=4), qstep.QConfig.iao()])
def test_padding_pads_with_the_code_of_zero(config: qstep.QConfig) -> None:
    torch.manual_seed(0)
    float_model = Padded()
    model = qstep.prepare(float_model, config, example_inputs=(X,))
    qstep.calibrate(model, [X], progress=False)
    quantizer = model.get_submodule("x_quantizer").output_quantizer
    pad = model.get_submodule("pad_1")  # "pad" is the float module, which another Pad replaces
    grid = quantizer.grid()
    zero = round(-grid.offset / grid.scale) + grid.zero_point
    x = quantizer(X)
    padded = pad(x)
    assert padded.shape[1] == 8 and torch.equal(padded[:, 2:5], x)
    assert torch.equal(quantizer.encode(padded[:, 5:]), torch.full_like(padded[:, 5:], zero, dtype=torch.uint8))
    assert torch.equal(padded[:, 5:], quantizer.decode(quantizer.encode(padded[:, 5:])))
    assert (model(X) - float_model(X)).abs().max() < 1.0


def test_padding_with_other_values_is_an_error() -> None:
    for padding in (nn.ConstantPad2d(1, 0.5), nn.ReflectionPad2d(1)):
        with pytest.raises(qstep.UnsupportedError, match=r"zeros|no integer definition"):
            qstep.prepare(nn.Sequential(nn.Conv2d(3, 4, 1), padding), qstep.QConfig.iao(), example_inputs=(X,))


def test_methods_mix_per_layer() -> None:
    iao, lsq = qstep.QConfig.iao(8, 8), qstep.QConfig.lsq_plus(4, 4)
    config = dataclasses.replace(
        lsq,
        activation=iao.activation,
        overrides={"blocks.0.conv1": {"weight": iao.weight, "activation": lsq.activation}},
    )
    model = prepared(config)
    chosen = {m.path: (m.weight_quantizer.method, m.output_quantizer.method) for m in model.modules()
              if isinstance(m, qstep.nn.Conv2d)}  # fmt: skip
    assert chosen["blocks.0.conv1"] == ("iao", "lsq_plus")
    assert {v for k, v in chosen.items() if k != "blocks.0.conv1"} == {("lsq_plus", "iao")}
    assert qstep.compare(model, qstep.convert(model), X).differing_codes == 0
    with pytest.raises(ValueError, match="must be a Scheme"):
        dataclasses.replace(config, overrides={"linear": {"weight": 4}})


@pytest.mark.parametrize("config", CONFIGS)
def test_reestimated_batch_norm_is_the_mean_of_the_batches(config: qstep.QConfig) -> None:
    model = prepared(config)
    layer = model.get_submodule("conv1")
    x = [torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) + seed for seed in (1, 2, 3)]
    sums = []
    handle = layer.batch_norm.register_forward_pre_hook(lambda _, args: sums.append(args[0]))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    qstep.reestimate_batch_norm(model, x, batches=2, progress=False)
    handle.remove()
    assert len(sums) == 2
    mean = torch.stack([s.mean((0, 2, 3)) for s in sums]).mean(0)
    var = torch.stack([s.var((0, 2, 3)) for s in sums]).mean(0)
    torch.testing.assert_close(layer.batch_norm.running_mean, mean)
    torch.testing.assert_close(layer.batch_norm.running_var, var)
    after = model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and all(k.endswith(("running_mean", "running_var")) for k in changed)  # no range, no scale, no count
    assert model.training and layer.batch_norm.training and layer.batch_norm.momentum == 0.1


def test_reestimation_without_batches_changes_nothing() -> None:
    model = prepared(CONFIGS[0].values[0])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="the loader gave no batch"):
        qstep.reestimate_batch_norm(model, [], progress=False)
    with pytest.raises(ValueError, match="batches must be at least 1, got 0"):
        qstep.reestimate_batch_norm(model, [X], 0)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_evaluation_in_channels_last_memory() -> None:
    model = prepared(CONFIGS[0].values[0]).eval()
    with torch.no_grad():
        expected = model(X)
        assert torch.equal(model(X.to(memory_format=torch.channels_last)), expected)
