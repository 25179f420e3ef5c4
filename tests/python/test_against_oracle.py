"""Four computations of one network agree in every code of every layer: model.eval(), the exported network, the oracle of
the real-valued model and the oracle of the saved checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import qstep
from networks import RandomNetwork, ResNet20, settle
from oracle import checkpoint, pwlq_weights
from oracle.network import Rules, layer_codes, layer_inputs, network_codes
from oracle.pwlq import fitted_breakpoint

lsq_plus, pwlq = qstep.QConfig.lsq_plus, qstep.QConfig.pwlq

CONFIGS: dict[str, Callable[[], qstep.QConfig]] = {
    "IAO W8A8": lambda: qstep.QConfig.iao(8, 8),
    "IAO W8A8 per channel": lambda: qstep.QConfig.iao(8, 8, per_channel=True),
    "IAO W8A8 gemmlowp": lambda: qstep.QConfig.iao(8, 8, requantization="gemmlowp"),
    "IAO W4A4": lambda: qstep.QConfig.iao(4, 4),
    "LSQ+ W8A8": lambda: lsq_plus(8, 8),
    "LSQ+ W4A4 configuration 1": lambda: lsq_plus(4, 4, act_config=1),
    "LSQ+ W4A4 configuration 2": lambda: lsq_plus(4, 4, act_config=2),
    "LSQ+ W4A4 configuration 3": lambda: lsq_plus(4, 4, act_config=3, per_channel=True),
    "LSQ+ W4A4 configuration 4": lambda: lsq_plus(4, 4, act_config=4),
    "LSQ+ W2A2": lambda: lsq_plus(2, 2),
    "LSQ+ W2A2 everywhere": lambda: lsq_plus(2, 2, first_layer_bits=None, last_layer_bits=None, preactivation_bits=2),
    "LSQ+ W3A5, first layer 6, last layer 7": lambda: lsq_plus(
        3, 5, first_layer_bits=6, last_layer_bits=7, per_channel=True
    ),
    "PACT W4A4": lambda: qstep.QConfig.pact(4, 4),
    "PACT W3A5 per tensor": lambda: qstep.QConfig.pact(3, 5, per_channel=False, gradient="ste"),
    "INQ W5A8": lambda: qstep.QConfig.inq(5, 8),
    "INQ W2A4": lambda: qstep.QConfig.inq(2, 4),
    "INQ W4, LSQ+ A4": lambda: replace(qstep.QConfig.inq(4), activation=lsq_plus(4, 4).activation),
    "PWLQ W4A8": lambda: pwlq(4, 8),
    "PWLQ W3A6 per tensor": lambda: pwlq(
        3, 6, per_channel=False, estimate="laplace", scheme="repo", bias_correction="exact", asymmetric=True
    ),
    "PWLQ W5, LSQ+ A4, absorbed": lambda: replace(
        pwlq(5, batch_norm="absorb", bias_correction=None), activation=lsq_plus(4, 4).activation
    ),
    "PWLQ W4A8 code book": lambda: pwlq(4, 8, representation="code_book"),
    "PWLQ W6A5 code book per tensor, absorbed": lambda: pwlq(
        6, 5, representation="code_book", scheme="repo", per_channel=False, batch_norm="absorb"
    ),
}


class NoNormalization(nn.Module):
    """A small residual network with nothing between the grids but weights and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.linear = nn.Linear(8 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.second(x))
        return self.linear(torch.flatten(nn.functional.avg_pool2d(x, 4), 1))


def trained(float_model: nn.Module, config: qstep.QConfig, x: Tensor) -> fx.GraphModule:
    """Two steps, so that no scale, offset or statistic is what calibration left."""
    model = qstep.prepare(float_model, config, example_inputs=(x,))
    qstep.calibrate(model, [x], batches=1, progress=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        y = model(x)
        nn.functional.cross_entropy(y, torch.arange(len(y)) % y.shape[1]).backward()
        optimizer.step()
    return model.eval()


def differing(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.count_nonzero(a.astype(np.int64) != b.astype(np.int64)))


def assert_agreement(model: fx.GraphModule, x: Tensor, folder: Path, what: str) -> int:
    """Compares the four computations; returns the number of codes compared."""
    net = qstep.convert(model)
    captured = net.capture(x)
    net.save(folder / "network.safetensors")
    saved = checkpoint.load(folder / "network.safetensors")
    of_checkpoint = saved.run(x.numpy())
    of_model = network_codes(model, x)

    assert set(of_model) <= set(captured)
    compared = 0
    for path, seen in layer_inputs(model, x).items():
        with torch.no_grad():
            evaluated = seen.layer.integer_codes(*seen.arguments).numpy()
        counts = {
            "oracle, this layer alone": differing(evaluated, layer_codes(seen.layer, *seen.codes)),
            "oracle, end to end": differing(evaluated, of_model[path]),
            "exported network": differing(evaluated, captured[path]),
        }
        assert not any(counts.values()), f"{what}, {path}: of {evaluated.size} codes of model.eval() differ {counts}"
        compared += 3 * evaluated.size

    assert set(of_checkpoint) == set(captured) | set(saved.outputs)
    for name, codes in captured.items():
        wrong = differing(codes, of_checkpoint[name])
        assert wrong == 0, f"{what}, {name}: {wrong} of {codes.size} codes differ from the checkpoint's oracle"
        compared += codes.size
    with torch.no_grad():
        expected = model(x)
    assert torch.equal(net(x), expected), what
    assert np.array_equal(of_checkpoint[saved.outputs[0]], expected.numpy()), what
    return compared


def resnet20(seed: int, size: int = 32) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(2, 3, size, size)
    return settle(ResNet20(), x), x


def random_network(seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    network = RandomNetwork(seed)
    x = network.example(2, seed)
    return settle(network, x), x


def cases() -> Iterator[tuple[str, str, int]]:
    for config in ("IAO W8A8", "LSQ+ W4A4 configuration 4", "LSQ+ W2A2"):
        yield "resnet20", config, 0
    for seed in range(2 * len(CONFIGS)):
        yield "random network", list(CONFIGS)[seed % len(CONFIGS)], seed


@pytest.mark.parametrize(("network", "config", "seed"), list(cases()))
def test_every_code_agrees(network: str, config: str, seed: int, tmp_path: Path) -> None:
    float_model, x = resnet20(seed) if network == "resnet20" else random_network(seed)
    model = trained(float_model, CONFIGS[config](), x)
    x[1] *= 30  # a sample that saturates
    compared = assert_agreement(model, x, tmp_path, f"{network}, seed {seed}, {config}")
    print(f"{compared:,} codes agree")


def test_mixed_widths(tmp_path: Path) -> None:
    float_model, x = resnet20(1, 16)
    overrides = {f"blocks.{i}.conv1": {"weight_bits": 2 + i % 7, "act_bits": 2 + (i * 3) % 7} for i in range(9)}
    assert_agreement(trained(float_model, lsq_plus(5, 6, overrides=overrides), x), x, tmp_path, "mixed widths")


@pytest.mark.parametrize(
    "config",
    [
        "IAO W8A8",
        "LSQ+ W8A8",
        "LSQ+ W4A4 configuration 1",
        "PACT W4A4",
        "INQ W5A8",
        "PWLQ W4A8",
        "PWLQ W5, LSQ+ A4, absorbed",
        "PWLQ W4A8 code book",
        "PWLQ W6A5 code book per tensor, absorbed",
    ],
)
def test_channels_that_batch_norm_switches_off(config: str, tmp_path: Path) -> None:
    float_model, x = random_network(22)  # three batch norms of 12 to 14 channels
    gamma = [0.0, -0.0, 0.0, 1e-12, -1e-9, 1e-7, -1e-6, 1e-5, 1e-4]
    with torch.no_grad():
        norms = [module for module in float_model.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(norms) == 3
        assert all(module.num_features > len(gamma) for module in norms)
        for module in norms:
            module.weight[: len(gamma)] = torch.tensor(gamma)
            module.bias[2] = 0
    model = qstep.prepare(float_model, CONFIGS[config](), example_inputs=(x,))
    qstep.calibrate(model, [x], batches=1, progress=False)
    assert_agreement(model.eval(), x, tmp_path, f"gamma near 0, {config}")


# --- ties -------------------------------------------------------------------------------------------------------------


def with_ties(configuration: int) -> tuple[fx.GraphModule, Tensor]:
    """Powers of two as scales, odd multiples of half a step as offsets, multiples of half a step as weights and input: every
    rounding meets ties."""
    generator = torch.Generator().manual_seed(11)
    torch.manual_seed(11)
    x = torch.randn(2, 3, 12, 12, generator=generator)
    model = qstep.prepare(NoNormalization(), lsq_plus(3, 4, act_config=configuration), example_inputs=(x,))
    qstep.calibrate(model, [x], batches=1, progress=False)
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "raw"):  # of a learned scale
                module.raw.copy_(torch.exp2(torch.round(torch.log2(module.raw))))
        for module in model.modules():
            if isinstance(module, qstep.quantizers.LsqPlusActivation) and module.has_residual:
                module.offset.copy_((torch.round(module.offset / module.scale) + 0.5) * module.scale)
            if isinstance(module, qstep.nn.AffineLayer):
                half = module.weight_quantizer.scale() / 2
                module.weight.copy_(torch.round(module.weight / half) * half)
        half = model.x_quantizer.output_quantizer.scale / 2
    return model.eval(), torch.round(x / half) * half


@pytest.mark.parametrize("configuration", [1, 2, 3, 4])
def test_ties(configuration: int, tmp_path: Path) -> None:
    model, x = with_ties(configuration)
    assert_agreement(model, x, tmp_path, f"ties, configuration {configuration}")


# --- negative controls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [Rules(ties_to_even=False), Rules(residue=False), Rules(pad_with_zero_code=False)],
    ids=["ties up", "no residue", "padding with code 0"],
)
def test_a_broken_rule_is_noticed(wrong: Rules) -> None:
    model, x = with_ties(4)
    captured, broken = qstep.convert(model).capture(x), network_codes(model, x, rules=wrong)
    assert sum(differing(codes, captured[path]) for path, codes in broken.items()) > 0


def test_a_moved_breakpoint_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    float_model, x = random_network(0)
    model = trained(float_model, pwlq(4, 8), x)
    captured = qstep.convert(model).capture(x)
    monkeypatch.setattr(pwlq_weights, "fitted_breakpoint", lambda estimate, m: 1.01 * fitted_breakpoint(estimate, m))
    assert sum(differing(codes, captured[path]) for path, codes in network_codes(model, x).items()) > 0


def test_a_changed_code_in_the_checkpoint_is_noticed(tmp_path: Path) -> None:
    model, x = with_ties(4)
    net = qstep.convert(model)
    net.save(tmp_path / "network.safetensors")
    read = checkpoint.load(tmp_path / "network.safetensors")
    next(node for node in read.nodes if node.kind == "conv2d").arrays["weight"].flat[0] += 1
    broken = read.run(x.numpy())
    assert sum(differing(codes, broken[name]) for name, codes in net.capture(x).items()) > 0
