"""quantize_post_training and PWLQ's quantizers in networks: what is evaluated is what is exported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import nn

import qstep
from networks import ResNet20
from qstep.quantizers import PwlqActivation, PwlqWeight


def settled(network: nn.Module, x: torch.Tensor) -> nn.Module:
    """Batch norm with statistics of its input, and weights with a few far out, as trained ones have."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.data *= 1 + 2 * (torch.rand_like(parameter) > 0.98)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    network.train()
    with torch.no_grad():
        network(x)
    return network.eval()


@pytest.fixture(scope="module")
def resnet20() -> nn.Module:
    torch.manual_seed(1)
    return settled(ResNet20(), images((3, 32, 32)))


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    torch.manual_seed(2)
    return settled(torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.35), images((3, 32, 32)))


def images(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn((4, *shape), generator=torch.Generator().manual_seed(seed))


def quantized(network: nn.Module, config: qstep.QConfig, x: torch.Tensor) -> torch.fx.GraphModule:
    return qstep.quantize_post_training(network, config, [x], batches=1, progress=False)


def assert_same_codes(model: torch.fx.GraphModule, x: torch.Tensor) -> qstep.IntegerNetwork:
    net = qstep.convert(model)
    for isa in qstep.available_isas():
        result = qstep.compare(model, net.with_options(isa=isa), x)
        assert result.total_codes > 0
        assert result.differing_codes == 0, f"{isa}\n{result}"
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
    return net


CONFIGS = {
    "1 breakpoint": {"breakpoints": 1},
    "2 breakpoints, exact correction": {"breakpoints": 2, "bias_correction": "exact"},
    "3 breakpoints, 3 bits, no correction": {"weight_bits": 3, "breakpoints": 3, "bias_correction": None},
    "code book": {"representation": "code_book"},
    "code book, 2 breakpoints, exact correction": {
        "representation": "code_book",
        "breakpoints": 2,
        "bias_correction": "exact",
    },
    "repo": {"scheme": "repo", "estimate": "laplace"},
    "repo code book": {"scheme": "repo", "representation": "code_book"},
    "per layer, first layer with 8 bits, asymmetric": {
        "per_channel": False,
        "first_layer_bits": 8,
        "asymmetric": True,
        "estimate": "search",
    },
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("network", ["resnet20", "mobilenet"])
def test_evaluation_equals_the_network(network, name, request):
    float_model, x = request.getfixturevalue(network), images((3, 32, 32))
    config = qstep.QConfig.pwlq(**CONFIGS[name])
    model = quantized(float_model, config, x)
    assert not model.training
    net = assert_same_codes(model, images((3, 32, 32), 7))
    with torch.no_grad():
        expected = float_model(x)
        distance = (model(x) - expected).norm() / expected.norm()
    print(f"{network}, {name}: logits differ by {distance:.1%}")
    if network == "resnet20":  # MobileNetV2 of random weights, 52 layers deep, keeps little of its input at 4 bits
        assert distance < 0.6
    assert {i.weight_encoding for i in net.nodes if i.weight_bits is not None} == {
        "code_book" if "code book" in name else "piecewise"
    }


def test_simulated_forward_pass_is_near_the_integers(resnet20):
    x = images((3, 32, 32))
    for config in (qstep.QConfig.pwlq(4, 8), qstep.QConfig.pwlq(4, 8, representation="code_book")):
        model = quantized(resnet20, config, x)
        simulated = model(x).detach()  # with gradients: the training forward pass, frozen statistics
        with torch.no_grad():
            integers = model(x)
        torch.testing.assert_close(simulated, integers, rtol=0, atol=0.02 * integers.abs().max().item())


def test_piecewise_beats_uniform(resnet20):
    x = images((3, 32, 32))
    with torch.no_grad():
        expected = resnet20(x)
        distances = {
            name: (quantized(resnet20, config, x)(x) - expected).norm().item()
            for name, config in {
                "uniform": qstep.QConfig.iao(4, 8, per_channel=True),
                "uniform, 5 bits": qstep.QConfig.iao(5, 8, per_channel=True),
                "1": qstep.QConfig.pwlq(4, 8, bias_correction=None),
                "2": qstep.QConfig.pwlq(4, 8, bias_correction=None, breakpoints=2),
            }.items()
        }
    print(distances)
    assert distances["2"] < distances["1"] < distances["uniform"]


@pytest.mark.parametrize(
    "config",
    [qstep.QConfig.iao(), qstep.QConfig.lsq_plus(8, 8), qstep.QConfig.lsq(8, 8), qstep.QConfig.pwlq(8, 8)],
    ids=["iao", "lsq_plus", "lsq", "pwlq"],
)
def test_every_method_and_a_loader_that_can_be_read_once(config):
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    consumed = []

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for seed in range(5):
            consumed.append(seed)
            yield images((3, 8, 8), seed), torch.zeros(4)

    model = qstep.quantize_post_training(network, config, batches(), batches=3, progress=False)
    assert consumed[:3] == [0, 1, 2] and len(consumed) <= 4
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    x = images((3, 8, 8))
    assert_same_codes(model, x)
    with torch.no_grad():
        expected = network(x)
        assert (model(x) - expected).norm() < 0.1 * expected.norm()
    # fixed: a pass in training mode changes no range and no statistics
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    model(10 * x)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_training_on_top_lowers_the_loss(resnet20):
    x, labels = images((3, 32, 32)), torch.tensor([1, 2, 3, 4])
    model = quantized(resnet20, qstep.QConfig.pwlq(4, 8, breakpoints=2), x).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    losses = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(losses)
    assert losses[-1] < losses[0]
    assert_same_codes(model.eval(), x)


def test_state_dict_round_trip():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    x = images((3, 8, 8))
    model = quantized(network, qstep.QConfig.pwlq(), x)
    fresh = qstep.prepare(network, qstep.QConfig.pwlq(), example_inputs=(x,)).eval()
    with pytest.raises(RuntimeError, match="missing calibration"):
        fresh(x)
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(x), model(x))


def test_range_of_activations_is_the_mean_of_medians():
    for asymmetric, low in ((False, 0.0), (False, -1.0), (True, -1.0), (False, -3.0)):
        quantizer = PwlqActivation(8, nonnegative=False, top_k=3, asymmetric=asymmetric)
        quantizer.start_calibration()
        for scale in (1.0, 3.0):
            values = torch.cat([torch.tensor([100.0, 2.0, 1.0, 50 * low, low, low]), torch.full((9,), 0.5)])
            assert quantizer(values * scale) is not None
        quantizer.finish_calibration()
        grid = quantizer.grid()
        top, bottom = 4.0, 2 * low  # medians 2 and low, of scales 1 and 3
        if low < 0 and not asymmetric:
            assert grid.zero_point == 128
            assert abs(grid.scale - max(top / 127, -bottom / 128)) < 1e-6
        else:
            assert abs(grid.scale - (top - bottom) / 255) < 1e-6
            assert grid.zero_point == round(-bottom / grid.scale)
        assert quantizer(torch.zeros(1)).item() == 0


def test_bad_input():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    x = images((3, 8, 8))
    with pytest.raises(ValueError, match="quantize_post_training: the loader gave no batch"):
        qstep.quantize_post_training(network, qstep.QConfig.pwlq(), [])
    with pytest.raises(TypeError, match="quantize_post_training: a batch must be a tensor or a tuple"):
        qstep.quantize_post_training(network, qstep.QConfig.pwlq(), ["image"])
    with pytest.raises(ValueError, match="calibration data must be finite"):
        quantized(network, qstep.QConfig.pwlq(), x * float("nan"))
    for options, message in (
        ({"estimate": "normal"}, "estimate must be 'gaussian'"),
        ({"scheme": "mine"}, "scheme must be 'paper' or 'repo'"),
        ({"bias_correction": "yes"}, "bias_correction must be 'none', 'repo' or 'exact'"),
        ({"breakpoints": 4}, r"breakpoints must be in \[1, 3\], got 4"),
        ({"representation": "table"}, "representation must be 'piecewise' or 'code_book', got 'table'"),
        ({"weight_bits": 8, "representation": "code_book"}, "at most 256 levels, got 509"),
        ({"top_k": 0}, "top_k must be an integer of at least 1, got 0"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=message):
            quantized(network, qstep.QConfig.pwlq(**options), x)
    for bits in (1, 9):
        with pytest.raises(ValueError, match=r"in \[2, 8\]"):
            qstep.QConfig.pwlq(bits)
    network[0].weight.data[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"0\.weight_quantizer: weights must be finite, got NaN or infinity"):
        quantized(network, qstep.QConfig.pwlq(), x)


@pytest.mark.parametrize("representation", ["piecewise", "code_book"])
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_zero_and_constant_channels(representation, value):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    network[0].weight.data[1] = value
    network[3].weight.data[:] = value
    x = images((3, 8, 8))
    model = quantized(network, qstep.QConfig.pwlq(representation=representation), x)
    assert_same_codes(model, x)
    quantizer = model.get_submodule("3").weight_quantizer
    assert isinstance(quantizer, PwlqWeight)
    torch.testing.assert_close(quantizer(network[3].weight).values, network[3].weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("breakpoints", [1, 2])
def test_summary_counts_the_bits_of_the_pieces(resnet20: nn.Module, breakpoints: int) -> None:
    model = quantized(resnet20, qstep.QConfig.pwlq(4, 8, breakpoints=breakpoints), images((3, 32, 32)))
    of_model = {row.layer: row.bytes for row in qstep.summary(model).rows if row.bytes is not None}
    of_network = {row.layer: row.bytes for row in qstep.summary(qstep.convert(model)).rows if row.bytes is not None}
    bits = 5 if breakpoints == 1 else 6
    assert of_model["blocks.0.conv1"] == 16 * 16 * 9 * bits // 8
    assert all(of_model[name] <= of_network[name] for name in of_model)  # steps and constants come on top
