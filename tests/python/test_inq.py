"""INQ networks: quantizer, schedule, frozen weights under optimizers, resuming, integers."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qstep
from networks import ResNet20, settle
from oracle import inq as oracle
from qstep.optim import InqSchedule
from qstep.quantizers import InqWeight, PactActivation

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Two layers with INQ weights, one of them called twice, and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.twice = nn.Conv2d(6, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))
        return self.fc(F.relu(self.twice(F.relu(self.twice(x)))).mean((2, 3)))


def prepared(
    config: qstep.QConfig | None = None, network: type[nn.Module] = Small, seed: int = 0
) -> torch.fx.GraphModule:
    torch.manual_seed(seed)
    config = config or qstep.QConfig.inq(4)
    model = qstep.prepare(settle(network(), X), config, example_inputs=(X,))
    qstep.calibrate(model, [X], batches=1, progress=False)
    return model.train()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), torch.arange(4))
        loss.backward()
        return loss

    for _ in range(steps):
        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()


def layers(model: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if isinstance(getattr(m, "weight_quantizer", None), InqWeight)}


def bits(t: Tensor) -> Tensor:
    return t.detach().view(torch.int32)


# --- quantizer --------------------------------------------------------------------------------------------------------------------------


def test_frozen_weights_are_quantized_the_others_real_and_eval_quantizes_all() -> None:
    model = prepared()
    layer = model.get_submodule("conv")
    quantizer = layer.weight_quantizer
    before = layer.weight.detach().clone()
    quantizer.freeze(layer.weight, 0.3)
    n1 = int(quantizer.n1)
    assert n1 == oracle.exponents(before.flatten().tolist(), 4)[0]
    wanted = oracle.largest_first(before.flatten().tolist(), [False] * before.numel(), 0.3)
    assert quantizer.frozen.flatten().tolist() == wanted
    values = [oracle.quantize(w, n1, 4) if f else w for w, f in zip(before.flatten().tolist(), wanted, strict=True)]
    assert layer.weight.flatten().tolist() == values

    training = quantizer(layer.weight)
    assert torch.equal(training.values, layer.weight) and not training.on_grid
    assert training.scale == 2.0 ** (n1 - 3)
    (gradient,) = torch.autograd.grad(training.values.sum(), layer.weight)
    assert torch.equal(gradient, (~quantizer.frozen).float()), "frozen weights get no gradient"

    model.eval()
    evaluated = quantizer(layer.weight)
    assert evaluated.on_grid
    assert evaluated.values.flatten().tolist() == [oracle.quantize(w, n1, 4) for w in values]
    assert torch.equal(evaluated.values[quantizer.frozen], layer.weight[quantizer.frozen])


def test_exponents_stay_or_are_chosen_anew() -> None:
    for recompute in (False, True):
        model = prepared(qstep.QConfig.inq(3, recompute_n1=recompute))
        layer = model.get_submodule("conv")
        quantizer = layer.weight_quantizer
        quantizer.freeze(layer.weight, 0.5)
        n1 = int(quantizer.n1)
        held = layer.weight.detach()[quantizer.frozen]
        with torch.no_grad():  # one weight grows far beyond the set
            index = int((~quantizer.frozen).flatten().nonzero()[0])
            layer.weight.view(-1)[index] = 1.6 * 2.0**n1
        quantizer.freeze(layer.weight, 0.6)
        assert int(quantizer.n1) == n1 + recompute
        if recompute:  # two sets share all but their smallest and largest powers
            moved = held.abs() == 2.0 ** (n1 - 1)
            assert moved.any()
            held = torch.where(moved, 2 * held, held)
        now = layer.weight.detach()
        assert now.flatten()[index] == 2.0 ** (n1 + recompute), "not 0, as the rule without a limit would have it"
        mask = quantizer.frozen.clone()
        assert set(now[mask].abs().tolist()) <= {0.0, *(2.0 ** (int(quantizer.n1) - k) for k in range(2))}


def test_calibrating_again_keeps_the_set_of_frozen_weights() -> None:
    model = prepared()
    layer = model.get_submodule("conv")
    layer.weight_quantizer.freeze(layer.weight, 0.5)
    n1 = int(layer.weight_quantizer.n1)
    with torch.no_grad():
        layer.weight.view(-1)[int((~layer.weight_quantizer.frozen).flatten().nonzero()[0])] = 100.0
    qstep.calibrate(model, [X], batches=1, progress=False)
    assert int(layer.weight_quantizer.n1) == n1


def test_all_zero_weights() -> None:
    model = prepared()
    with torch.no_grad():
        model.get_submodule("fc").weight.zero_()
    qstep.calibrate(model, [X], batches=1, progress=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = InqSchedule(model, optimizer, [0.5, 1.0])
    for _ in range(2):
        schedule.step()
        train(model, optimizer)
    assert torch.isfinite(model.eval()(X)).all()


# --- frozen weights under optimizers ----------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, dampening=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    "sgd foreach": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, foreach=True),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "adam fused": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, foreach=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01, weight_decay=0.1),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01, weight_decay=0.1),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, weight_decay=0.1),
    "adadelta": lambda p: torch.optim.Adadelta(p, weight_decay=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01, weight_decay=0.1),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01, weight_decay=0.1),
    "muon": lambda p: torch.optim.Muon([w for w in p if w.dim() == 2], lr=0.01, weight_decay=0.1),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_weights_stay_bit_for_bit(name: str) -> None:
    model = prepared()
    optimizer = OPTIMIZERS[name](model.parameters())
    schedule = InqSchedule(model, optimizer, [0.4, 0.8, 1.0])
    train(model, optimizer)  # so that there is momentum
    for _ in range(3):
        schedule.step()
        before = {n: bits(m.weight).clone() for n, m in layers(model).items()}
        train(model, optimizer)
        for n, layer in layers(model).items():
            frozen = layer.weight_quantizer.frozen
            assert torch.equal(bits(layer.weight)[frozen], before[n][frozen]), n
            trained = any(layer.weight is p for group in optimizer.param_groups for p in group["params"])
            assert trained == (name != "muon" or layer.weight.dim() == 2)  # Muon takes matrices only
            assert frozen.all() or not trained or (bits(layer.weight) != before[n])[~frozen].any(), n
            for key, value in optimizer.state.get(layer.weight, {}).items():
                if isinstance(value, Tensor) and value.shape == layer.weight.shape and key not in ("ax", "step_size"):
                    assert not value[frozen].any(), f"{key} of {n}"
    assert all(layer.weight_quantizer.all_frozen for layer in layers(model).values())
    bias = model.get_submodule("fc").bias.detach().clone()
    train(model, optimizer)
    assert name == "muon" or not torch.equal(model.get_submodule("fc").bias, bias), "the rest trains on"


def test_without_the_schedule_optimizers_move_them() -> None:
    """Negative control: masks alone hold nothing; weight decay moves what has no gradient."""
    model = prepared()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.1)
    layer = model.get_submodule("conv")
    layer.weight_quantizer.freeze(layer.weight.detach(), 0.5)
    before = layer.weight.detach().clone()
    train(model, optimizer)
    frozen = layer.weight_quantizer.frozen & (before != 0)
    assert (layer.weight[frozen] != before[frozen]).all()


def test_grad_scaler_steps_and_skips() -> None:
    model = prepared()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    schedule = InqSchedule(model, optimizer, [0.5, 1.0])
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    schedule.step()
    before = {n: bits(m.weight).clone() for n, m in layers(model).items()}
    for poison in (False, True, False):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(X), torch.arange(4))).backward()
        if poison:
            model.get_submodule("conv").weight.grad.fill_(torch.inf)
        scaler.step(optimizer)
        scaler.update()
    for n, layer in layers(model).items():
        frozen = layer.weight_quantizer.frozen
        assert torch.equal(bits(layer.weight)[frozen], before[n][frozen])
        assert torch.isfinite(layer.weight).all()


# --- learning rates ---------------------------------------------------------------------------------------------------------------------


def test_learning_rates_come_back_at_every_step() -> None:
    model = prepared()
    weights, others = [p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.SGD([{"params": weights, "lr": 0.1}, {"params": others, "lr": 0.02}], lr=1.0)
    schedule = InqSchedule(model, optimizer, [0.5, 1.0])
    kept = InqSchedule(model, optimizer, [0.5, 1.0], lr_reset=False)
    for group in optimizer.param_groups:
        group["lr"] *= 0.01
    kept.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.001, 0.0002]
    schedule.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.02]


def test_a_learning_rate_scheduler_starts_again_at_every_step() -> None:
    model = prepared()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4),
        ],
        [2],
    )
    schedule = InqSchedule(model, optimizer, [0.3, 0.6, 1.0], lr_scheduler=scheduler)
    runs = []
    for _ in range(3):
        schedule.step()
        rates = []
        for _ in range(5):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        runs.append(rates)
    assert runs[0] == runs[1] == runs[2]
    assert runs[0][0] == pytest.approx(0.01) and max(runs[0]) == pytest.approx(0.1)


def test_tensor_learning_rates_stay_the_same_tensor() -> None:
    model = prepared()
    rate = torch.tensor(0.01)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = InqSchedule(model, optimizer, [1.0])
    rate.fill_(1e-5)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] is rate and rate == 0.01


# --- state ------------------------------------------------------------------------------------------------------------------------------


def stored(*objects: Any) -> list[Any]:
    stream = io.BytesIO()
    torch.save([o.state_dict() for o in objects], stream)
    stream.seek(0)
    return torch.load(stream)


@pytest.mark.parametrize("strategy", ["magnitude", "random"])
@pytest.mark.parametrize("make", [OPTIMIZERS["nesterov"], OPTIMIZERS["adamw"]])
def test_resumes_bit_for_bit(strategy: str, make: Callable[[Any], torch.optim.Optimizer]) -> None:
    def start(seed: int) -> tuple[Any, ...]:
        model = prepared(seed=seed)
        optimizer = make(model.parameters())
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        schedule = InqSchedule(model, optimizer, "googlenet_5bit", strategy=strategy, lr_scheduler=scheduler)
        return model, optimizer, scheduler, schedule

    def two_steps(model: nn.Module, optimizer: Any, scheduler: Any, schedule: InqSchedule) -> None:
        for _ in range(2):
            schedule.step()
            train(model, optimizer)
            scheduler.step()

    uninterrupted = start(seed=0)
    two_steps(*uninterrupted)
    states = stored(*uninterrupted)
    two_steps(*uninterrupted)

    resumed = start(seed=1)
    for target, state in zip(resumed, states, strict=True):
        target.load_state_dict(state)
    assert resumed[3].position == 2 and resumed[3].fraction == 0.4
    two_steps(*resumed)
    for name, value in uninterrupted[0].state_dict().items():
        assert torch.equal(resumed[0].state_dict()[name], value), name
    assert resumed[1].param_groups[0]["lr"] == uninterrupted[1].param_groups[0]["lr"]


def test_states_of_other_models_and_schedules_are_refused() -> None:
    model = prepared()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = InqSchedule(model, optimizer, [0.5, 1.0])
    schedule.step()
    model_state, state = stored(model, schedule)

    def fresh(config: qstep.QConfig | None = None, network: type[nn.Module] = Small, **options: Any) -> Any:
        other = prepared(config, network)
        return other, InqSchedule(
            other, torch.optim.SGD(other.parameters(), lr=0.1), options.pop("fractions", [0.5, 1.0]), **options
        )

    with pytest.raises(
        ValueError, match=r"InqSchedule: the state is that of another model: layers only there: \['conv'"
    ):
        fresh(network=ResNet20)[1].load_state_dict(state)
    with pytest.raises(ValueError, match="InqSchedule: conv: bit_width is 5 here and was 4"):
        fresh(qstep.QConfig.inq(5))[1].load_state_dict(state)
    with pytest.raises(ValueError, match=r"another schedule: fractions \[0.5, 1.0\], here \[0.4, 1.0\]"):
        fresh(fractions=[0.4, 1.0])[1].load_state_dict(state)
    with pytest.raises(ValueError, match="another schedule: strategy 'magnitude', here 'random'"):
        fresh(strategy="random")[1].load_state_dict(state)
    other, another = fresh()
    with pytest.raises(ValueError, match=r"conv: frozen is 0 here and was 81 .* load the state_dict of the model"):
        another.load_state_dict(state)
    with torch.no_grad():  # the same architecture with as many frozen weights, but others
        other.get_submodule("fc").weight.neg_()
    qstep.calibrate(other, [X], batches=1, progress=False)
    another.step()
    with pytest.raises(ValueError, match=r"fc: digest of frozen weights is \w{16} here and was \w{16} when"):
        another.load_state_dict(state)
    other.load_state_dict(model_state)
    another.load_state_dict(state)
    assert another.position == 1


def test_copies_and_state_dicts_keep_the_masks() -> None:
    model = prepared()
    schedule = InqSchedule(model, torch.optim.SGD(model.parameters(), lr=0.1), [0.5, 1.0])
    schedule.step()
    twin = copy.deepcopy(model)
    schedule.step()
    assert not twin.get_submodule("conv").weight_quantizer.all_frozen
    loaded = prepared(seed=1)
    loaded.load_state_dict(model.state_dict())
    assert loaded.get_submodule("conv").weight_quantizer.all_frozen
    for mode in (True, False):
        assert torch.equal(loaded.train(mode)(X), model.train(mode)(X))


# --- integers ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_bits", [5, 4, 3, 2])
def test_resnet20_trains_and_becomes_its_integer_network(weight_bits: int) -> None:
    model = prepared(qstep.QConfig.inq(weight_bits, variable_length=weight_bits % 2 == 0), ResNet20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    schedule = InqSchedule(model, optimizer, [0.5, 1.0])
    for _ in range(2):
        schedule.step()
        train(model, optimizer, 1)
        net = qstep.convert(model)  # in the middle of the schedule: what eval() computes
        result = qstep.compare(model, net, X)
        assert result.total_codes > 0 and result.differing_codes == 0
        model.train()
    sets = [w.unique().tolist() for w in (layer.weight.detach() for layer in layers(model).values())]
    for values, layer in zip(sets, layers(model).values(), strict=True):
        n1 = int(layer.weight_quantizer.n1)
        assert {abs(v) for v in values} <= {0.0, *(2.0 ** (n1 - k) for k in range(2 ** (weight_bits - 2)))}
    with torch.no_grad():
        assert torch.equal(model.eval()(X), net(X))


def test_training_forward_of_frozen_weights_is_that_of_eval() -> None:
    model = prepared(network=ResNet20)
    schedule = InqSchedule(model, torch.optim.SGD(model.parameters(), lr=0.01), [1.0])
    schedule.step()
    qstep.freeze_batch_norm(model)
    qstep.freeze_ranges(model)
    trained = model(X)
    assert torch.equal(trained, model.eval()(X))


def test_float_activations_train_and_evaluate_but_cannot_be_exported() -> None:
    config = qstep.QConfig.inq(5, act_bits=None)
    model = prepared(config, ResNet20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    schedule = InqSchedule(model, optimizer, [0.5, 1.0])
    for _ in range(2):
        schedule.step()
        train(model, optimizer, 1)
    model.eval()
    expected = model(X)
    with torch.no_grad():
        assert torch.equal(model(X), expected)
    with pytest.raises(NotImplementedError, match="activations in floating point are for training and comparison"):
        qstep.convert(model)
    assert "A32" in str(qstep.summary(model))

    # The float network with its weights quantized is the same function, up to the order of float sums.
    torch.manual_seed(0)
    reference = settle(ResNet20(), X).eval()
    model = prepared(config, ResNet20).eval()
    with torch.no_grad():
        for layer in reference.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.copy_(qstep.functional.inq_quantize(layer.weight, bit_width=5))
        torch.testing.assert_close(model(X), reference(X), rtol=1e-3, atol=1e-4)


# --- with other methods -----------------------------------------------------------------------------------------------------------------


def test_pact_activations_with_inq_weights() -> None:
    inq, pact = qstep.QConfig.inq(4), qstep.QConfig.pact(4, 4)
    model = prepared(replace(inq, activation=pact.activation))
    assert isinstance(model.get_submodule("conv").output_quantizer, PactActivation)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    schedule = InqSchedule(model, optimizer, [0.5, 1.0])
    for _ in range(2):
        schedule.step()
        train(model, optimizer)
    assert all(isinstance(m.weight_quantizer, InqWeight) for m in layers(model).values())
    result = qstep.compare(model, qstep.convert(model), X)
    assert result.differing_codes == 0 < result.total_codes, str(result)
    with pytest.raises(ValueError, match=r"InqWeight: bit_width must be in \[2, 5\], got 8: .*first_layer_bits=None"):
        prepared(replace(pact, weight=inq.weight))


# --- bad input --------------------------------------------------------------------------------------------------------------------------


def test_bad_input_is_named() -> None:
    model = prepared()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for fractions, message in [
        ([], "fractions must hold at least one share"),
        ([0.0, 1.0], r"fractions must be in \(0, 1\], got 0.0"),
        ([0.5, 1.5], r"fractions must be in \(0, 1\], got 1.5"),
        ([float("nan")], r"fractions must be in \(0, 1\], got nan"),
        ([0.5, 0.4], "fractions are cumulative and must not decrease, got 0.4 after 0.5"),
        ("resnet99", "preset must be one of alexnet_5bit"),
    ]:
        with pytest.raises((ValueError, RuntimeError), match=message):
            InqSchedule(model, optimizer, fractions)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strategy must be 'magnitude' or 'random', got 'largest'"):
        InqSchedule(model, optimizer, [1.0], strategy="largest")
    with pytest.raises(ValueError, match="lr_scheduler needs lr_reset=True"):
        InqSchedule(
            model, optimizer, [1.0], lr_reset=False, lr_scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        )
    with pytest.raises(ValueError, match="the model has no layer with INQ weights"):
        InqSchedule(prepared(qstep.QConfig.iao()), optimizer, [1.0])
    with pytest.raises(ValueError, match="the optimizer has none of the model's INQ weights"):
        InqSchedule(prepared(), optimizer, [1.0])

    schedule = InqSchedule(model, optimizer, [0.5, 1.0])
    with torch.no_grad():
        model.get_submodule("fc").weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="InqSchedule: fc: weights must be finite, got NaN or infinity"):
        schedule.step()
    assert schedule.position == 0 and not model.get_submodule("conv").weight_quantizer.frozen.any()
    with pytest.raises(ValueError, match=r"fc.weight_quantizer: weights must be finite"):
        qstep.calibrate(model, [X], batches=1, progress=False)
    with torch.no_grad():
        model.get_submodule("fc").weight[0, 0] = 0
    schedule.step()
    schedule.step()
    with pytest.raises(RuntimeError, match="InqSchedule: all 2 steps are done"):
        schedule.step()


def test_bad_configurations_are_named() -> None:
    network = settle(Small(), X)

    def prepare(config: qstep.QConfig) -> None:
        qstep.prepare(network, config, example_inputs=(X,))

    for bit_width in (6, 8):
        with pytest.raises(ValueError, match=rf"InqWeight: bit_width must be in \[2, 5\], got {bit_width}"):
            prepare(qstep.QConfig.inq(bit_width))
    with pytest.raises(ValueError, match=r"conv.weight_quantizer: batch_norm='fold' does not go with inq weights"):
        prepare(replace(qstep.QConfig.inq(4), batch_norm="fold"))
    with pytest.raises(ValueError, match="bit_width of 'float' must be 32, got 8"):
        qstep.Scheme("float", 8)
    uncalibrated = qstep.prepare(network, qstep.QConfig.inq(4), example_inputs=(X,))
    schedule = InqSchedule(uncalibrated, torch.optim.SGD(uncalibrated.parameters(), lr=0.1), [1.0])
    with pytest.raises(RuntimeError, match="missing calibration"):
        schedule.step()
