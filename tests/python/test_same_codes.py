"""What you train is what you run: model.eval(), the exported network on every instruction set, and the training forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import nn

import qstep
from networks import RandomNetwork, ResNet20, settle

CONFIGS = {
    "IAO W8A8": lambda: qstep.QConfig.iao(8, 8),
    "IAO W8A8 per channel": lambda: qstep.QConfig.iao(8, 8, per_channel=True),
    "LSQ W8A8": lambda: qstep.QConfig.lsq(8, 8),
    "LSQ+ W4A4": lambda: qstep.QConfig.lsq_plus(4, 4, per_channel=True),
    "LSQ+ W2A2": lambda: qstep.QConfig.lsq_plus(2, 2),
    "LSQ+ W3A5 all layers": lambda: qstep.QConfig.lsq_plus(
        3, 5, act_config=3, first_layer_bits=None, last_layer_bits=None
    ),
    "LSQ+ W8A8 gemmlowp": lambda: qstep.QConfig.lsq_plus(8, 8, requantization="gemmlowp"),
}

NETWORKS = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=20), (3, 64, 64)),
    "resnet50": (lambda: torchvision.models.resnet50(num_classes=20), (3, 64, 64)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=20), (3, 64, 64)),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=20), (3, 64, 64)),
    "shufflenet_v2": (lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=20), (3, 64, 64)),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=20), (3, 64, 64)),
    "efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(num_classes=20), (3, 64, 64)),
    "resnet20": (ResNet20, (3, 32, 32)),
    "resnet20 with option A": (lambda: ResNet20(option="A"), (3, 32, 32)),
}


class Tally:
    """Codes compared in this run of the tests; the last test asks for at least 10^7."""

    compared = 0
    differing = 0


def train_steps(model: nn.Module, x: torch.Tensor, steps: int = 2) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        y = model(x)
        nn.functional.cross_entropy(y, torch.arange(len(y)) % y.shape[1]).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert gradients and all(torch.isfinite(g).all() for g in gradients), f"step {step}"
        # An untrained network at 2 bits, batch norm over a batch of 2: gradients may be huge.
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def trained(float_model: nn.Module, config: qstep.QConfig, x: torch.Tensor) -> torch.fx.GraphModule:
    model = qstep.prepare(float_model, config, example_inputs=(x,))
    qstep.calibrate(model, [x], batches=1, progress=False)
    train_steps(model, x)
    return model


def assert_same_codes(model: torch.fx.GraphModule, x: torch.Tensor, what: str) -> None:
    net = qstep.convert(model)
    for isa in qstep.available_isas():
        result = qstep.compare(model, net.with_options(isa=isa), x)
        Tally.compared += result.total_codes
        Tally.differing += result.differing_codes
        assert result.differing_codes == 0, f"{what}, {isa}\n{result}"
    model.eval()
    with torch.no_grad():
        expected = model(x)
    assert torch.equal(net(x), expected), what


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(3)
    x = torch.randn(2, *shape)
    float_model = settle(make(), x)
    before = copy.deepcopy(float_model.state_dict())
    every = list(CONFIGS) if name in ("resnet20", "mobilenet_v2") else ["IAO W8A8", "LSQ+ W4A4", "LSQ+ W2A2"]
    for config in every:
        model = trained(float_model, CONFIGS[config](), x)
        assert_same_codes(model, x, f"{name}, {config}")
    after = float_model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items()), "prepare must leave the float model as it was"


@pytest.mark.parametrize("seed", range(24))
def test_random_networks(seed: int) -> None:
    torch.manual_seed(seed)
    net = RandomNetwork(seed)
    x = net.example(3, seed)
    settle(net, x)
    config = list(CONFIGS.values())[seed % len(CONFIGS)]()
    model = trained(net, config, x)
    assert_same_codes(model, x, f"seed {seed}")
    assert_same_codes(model, net.example(1, seed + 1000), f"seed {seed}, other batch size")


def test_mixed_widths() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    float_model = settle(ResNet20(), x)
    overrides = {f"blocks.{i}.conv1": {"weight_bits": 2 + i % 7, "act_bits": 2 + (i * 3) % 7} for i in range(9)}
    model = trained(float_model, qstep.QConfig.lsq_plus(5, 6, overrides=overrides), x)
    assert_same_codes(model, x, "mixed widths")


def frozen_forward_cases() -> Iterator[tuple[str, str]]:
    for network in ("resnet20", "mobilenet_v2", "resnet18"):
        for config in ("IAO W8A8", "LSQ W8A8", "LSQ+ W4A4", "LSQ+ W2A2"):
            yield network, config


def test_training_forward_with_frozen_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    """Layer by layer on the same input codes: at most 1 code in 10,000 differs, each by one."""
    compared = differing = end_compared = end_differing = 0
    for network, config in frozen_forward_cases():
        make, shape = NETWORKS[network]
        torch.manual_seed(4)
        x = torch.randn(2, *shape)
        model = trained(settle(make(), x), CONFIGS[config](), x)
        net = qstep.convert(model)
        result = qstep.compare(model, net, x, forward="training", isolate=True)
        layers = [
            layer for layer in result.layers if layer.name in {n.name for n in net.nodes if n.act_bits is not None}
        ]
        assert all(layer.largest_difference <= 1 for layer in layers), f"{network}, {config}\n{result}"
        compared += sum(layer.compared for layer in layers)
        differing += sum(layer.differing for layer in layers)
        end = qstep.compare(model, net, x, forward="training")
        end_compared += end.total_codes
        end_differing += end.differing_codes
    with capsys.disabled():
        print(
            f"\ntraining forward, frozen statistics, layer by layer: {differing} of {compared:,} codes differ ({differing / compared:.1e})"
        )
        print(f"the same end to end: {end_differing} of {end_compared:,} ({end_differing / end_compared:.1e})")
    assert differing <= compared / 10_000


def test_compare_names_the_layer_with_a_planted_error() -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 3, 32, 32)
    model = trained(settle(ResNet20(), x), CONFIGS["LSQ+ W4A4"](), x)
    net = qstep.convert(model)
    assert qstep.compare(model, net, x).first_differing_layer is None
    with torch.no_grad():
        model.get_submodule("blocks.4.conv2").weight.data[3] += 0.5  # .data: the version counter does not move
    result = qstep.compare(model, net, x, isolate=True)
    assert [layer.name for layer in result.layers if layer.differing] == ["blocks.4.conv2"]
    assert qstep.compare(model, net, x).first_differing_layer == "blocks.4.conv2"
    assert "blocks.4.conv2" in str(result)


def test_enough_codes_were_compared(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> None:
    """Runs last in this file."""
    selected = {item.name for item in request.session.items}
    with capsys.disabled():
        print(f"\neval() against the integer network: {Tally.differing} of {Tally.compared:,} codes differ")
    if not selected >= {f"test_networks[{name}]" for name in NETWORKS}:
        pytest.skip("only some of the networks were selected")
    assert Tally.compared >= 10**7
    assert Tally.differing == 0
