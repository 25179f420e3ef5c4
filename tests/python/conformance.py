"""What every method owes, as functions: a check takes a quantizer that is ready, or a configuration, and raises AssertionError.

What a check has to know of a method stands in its :class:`Case`. ``test_conformance.py`` runs the checks on every registered method,
``test_add_a_method.py`` on the one of ``docs/add-a-method.md``; both also on methods with an error, which must not pass.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import itertools
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

import qstep
from networks import ResNet20, settle
from qstep import _C
from qstep.quantizers import ActivationQuantizer, QuantizedWeight, Quantizer, WeightQuantizer

Array = NDArray[np.float64]
SEED = 20


class Expected(NamedTuple):
    """One forward and one backward pass as the oracle has them, in float64."""

    values: Array
    #: "x", and each parameter by its name in ``named_parameters()``; ``None`` for one that learns elsewhere in the network.
    gradients: Mapping[str, Array | float | None]


#: (quantizer, x, grad_output) -> Expected; reads the quantizer's options and state, computes everything else itself.
Oracle = Callable[[Any, Array, Array], Expected]


@dataclasses.dataclass(frozen=True)
class Case:
    """What the suite has to know of a method.

    Args:
        oracle: the method in float64, by an algorithm of its own.
        config: a configuration of a whole network with the method in it.
        options: sets of constructor options to try.
        bit_widths: widths to try.
        options_at_8_bits: further sets, of options that are defined for 8 bits only.
        monotone: larger values never get a smaller one; per channel, for weights.
        idempotent: quantizing what is quantized changes nothing. Not so where the grid follows the values themselves.
        integers: false where the method leaves values as they are, so that a network with it cannot be converted.
    """

    oracle: Oracle
    config: Callable[[], qstep.QConfig]
    options: tuple[Mapping[str, Any], ...] = ({},)
    bit_widths: tuple[int, ...] = (2, 4, 8)
    options_at_8_bits: tuple[Mapping[str, Any], ...] = ()
    monotone: bool = True
    idempotent: bool = True
    integers: bool = True

    def settings(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Widths with options."""
        yield from itertools.product(self.bit_widths, self.options)
        yield from ((8, options) for options in self.options_at_8_bits)


# --- data -------------------------------------------------------------------------------------------------------------------------------


def activations(nonnegative: bool, seed: int = SEED) -> Tensor:
    """Values like those of a layer, 0 and -0, and some far outside of whatever range was found."""
    x = 1.5 * torch.randn(3, 4, 13, 9, generator=torch.Generator().manual_seed(seed))
    x = x.relu() if nonnegative else x
    x.view(-1)[:4] = torch.tensor([0.0, -0.0, 40.0, -40.0])
    return x


def weights() -> Tensor:
    """[out, in, height, width]; channels differ in spread and mean."""
    generator = torch.Generator().manual_seed(SEED)
    spread = 0.02 + 0.3 * torch.rand(6, 1, 1, 1, generator=generator)
    return spread * (torch.randn(6, 5, 3, 3, generator=generator) + 0.2)


def calibrated(quantizer: ActivationQuantizer, nonnegative: bool) -> ActivationQuantizer:
    """Ready, in eval(): the training forward pass with a grid that stays. No value of :func:`activations` is an end of its range."""
    x = activations(nonnegative, seed=SEED + 4).view(-1)[4:]
    quantizer.start_calibration()
    assert quantizer(x) is x, "an activation quantizer must pass x on while it is calibrated"
    quantizer.finish_calibration()
    return quantizer.eval()


def values_of(quantizer: Quantizer, x: Tensor) -> Tensor:
    output = quantizer(x)
    return output.values if isinstance(output, QuantizedWeight) else output


# --- one quantizer ----------------------------------------------------------------------------------------------------------------------


def check_gradients(quantizer: Quantizer, x: Tensor, oracle: Oracle) -> None:
    """Values and all gradients against the oracle. One value in a thousand may be rounded to the other side of a tie."""
    x = x.clone().requires_grad_()
    grad_output = torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED + 1))
    parameters = dict(quantizer.named_parameters())
    output = values_of(quantizer, x)
    assert output.shape == x.shape and output.dtype == x.dtype
    expected = oracle(quantizer, np.float64(x.detach()), np.float64(grad_output))
    far = ~np.isclose(np.float64(output.detach()), expected.values, rtol=1e-5, atol=1e-6)
    assert far.mean() <= 1e-3, f"{far.sum()} of {far.size} values differ from the oracle's (seed {SEED})"

    assert set(expected.gradients) == {"x", *parameters}, (
        f"the oracle has gradients of {sorted(expected.gradients)}, the quantizer of x and {sorted(parameters)}"
    )
    actual = torch.autograd.grad(output, [x, *parameters.values()], grad_output, allow_unused=True)
    scale = float(grad_output.abs().sum())
    for name, gradient in zip(["x", *parameters], actual, strict=True):
        if expected.gradients[name] is None:
            assert gradient is None, f"a gradient reaches {name}, the oracle expects none"
            continue
        assert gradient is not None, f"no gradient reaches {name}"
        np.testing.assert_allclose(
            np.float64(gradient),
            np.broadcast_to(expected.gradients[name], tuple(gradient.shape)),
            rtol=1e-3,
            atol=1e-6 * (1.0 if name == "x" else scale),
            err_msg=f"gradient of {name} (seed {SEED})",
        )


@torch.no_grad()
def check_idempotent(quantizer: Quantizer, x: Tensor) -> None:
    once = values_of(quantizer, x)
    torch.testing.assert_close(values_of(quantizer, once), once, rtol=1e-6, atol=0)


@torch.no_grad()
def check_monotone(quantizer: Quantizer, x: Tensor) -> None:
    rows = x.flatten(1) if isinstance(quantizer, WeightQuantizer) else x.reshape(1, -1)
    y = values_of(quantizer, x).reshape(rows.shape)
    ordered = torch.gather(y, 1, torch.argsort(rows, dim=1, stable=True))
    assert bool((ordered.diff(dim=1) >= 0).all()), "a larger value got a smaller one"


def check_copies(quantizer: Quantizer, make: Callable[[], Quantizer], x: Tensor) -> None:
    """state_dict into a new quantizer, deepcopy and pickle: the same values, and no parameter in common."""
    loaded = make()
    stored = io.BytesIO()
    torch.save(quantizer.state_dict(), stored)
    stored.seek(0)
    loaded.load_state_dict(torch.load(stored))
    for twin in (loaded, copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert twin.ready
        assert torch.equal(values_of(twin.eval(), x), values_of(quantizer, x))
        shared = {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in quantizer.parameters()}
        assert not shared, "a copy shares its parameters with the original"


@torch.no_grad()
def check_activation_grid(quantizer: ActivationQuantizer, x: Tensor) -> None:
    """The output lies on the grid that the quantizer names, and the integer network makes the same of x, bit for bit."""
    y = quantizer(x)
    codes = quantizer.encode(x)
    assert codes.dtype == torch.uint8
    assert int(codes.max()) <= quantizer.quant_max - quantizer.quant_min
    assert torch.equal(quantizer.decode(codes), y), "the output is not what its codes stand for"
    builder = _C.Builder("exact")
    value = builder.quantize("quantize", builder.input("x", list(x.shape)), quantizer.grid())
    builder.output(builder.dequantize("dequantize", value))
    lowered = torch.from_numpy(_C.IntegerNetwork(builder.finish()).run([x.contiguous().numpy()])[0])
    assert torch.equal(lowered, y), "the lowered quantizer, dequantized, is not the forward pass"


@torch.no_grad()
def check_weight_grid(quantizer: WeightQuantizer, w: Tensor) -> None:
    """values = scale * (code - zero_point), the codes within the range; where levels are uneven, a channel has no more than a code has."""
    quantized = quantizer(w)
    assert quantized.values.shape == w.shape
    if not quantized.on_grid:
        levels = max(len(row.unique()) for row in quantized.values.flatten(1))
        assert levels <= 2 ** (quantizer.bit_width + 2), f"{levels} levels"
        return
    scale = quantized.scale.double().reshape(-1, *[1] * (w.dim() - 1))
    codes = quantized.values.double() / scale + quantized.zero_point.double().reshape(-1, *[1] * (w.dim() - 1))
    assert bool((scale > 0).all())
    assert float((codes - codes.round()).abs().max()) < 1e-4, "values off the grid"
    assert int(codes.round().min()) >= quantizer.quant_min
    assert int(codes.round().max()) <= quantizer.quant_max


def _check_quantizer(quantizer: Quantizer, make: Callable[[], Quantizer], x: Tensor, case: Case) -> None:
    check_gradients(quantizer, x, case.oracle)
    if case.idempotent:
        check_idempotent(quantizer, x)
    if case.monotone:
        check_monotone(quantizer, x)
    check_copies(quantizer, make, x)


def check_activation(make: Callable[..., ActivationQuantizer], case: Case) -> None:
    """All of it. ``make(bit_width, nonnegative, **options)``."""
    for bits, options in case.settings():
        for nonnegative in (True, False):
            quantizer = calibrated(make(bits, nonnegative, **options), nonnegative)
            x = activations(nonnegative)
            if case.integers:
                check_activation_grid(quantizer, x)
            _check_quantizer(quantizer, lambda b=bits, n=nonnegative, o=options: make(b, n, **o), x, case)


def check_weight(make: Callable[..., WeightQuantizer], case: Case) -> None:
    """All of it. ``make(bit_width, shape, **options)``."""
    w = weights()
    for bits, options in case.settings():
        quantizer = make(bits, w.shape, **options)
        quantizer.initialize(w)
        quantizer.eval()
        check_weight_grid(quantizer, w)
        _check_quantizer(quantizer, lambda b=bits, o=options: make(b, w.shape, **o), w, case)
        check_weight_lowering(case.config(), w.flatten(1), bits, options)


def check_weight_lowering(config: qstep.QConfig, w: Tensor, bits: int, options: Mapping[str, Any]) -> None:
    """The integer network of one linear layer is the product of the input and the weights that the quantizer gave.

    The input's own scheme is that of ``config``; a real offset in it is rounded into the bias: half an accumulator step.
    """
    scheme = dataclasses.replace(config.weight, bit_width=bits, options={**config.weight.options, **options})
    config = dataclasses.replace(config, weight=scheme, first_layer_bits=None, last_layer_bits=None)
    layer = nn.Linear(w.shape[1], w.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(w)
    x = torch.randn(16, w.shape[1], generator=torch.Generator().manual_seed(SEED + 2))
    model = qstep.prepare(nn.Sequential(layer), config, example_inputs=(x,))
    qstep.calibrate(model, [x], batches=1, progress=False)
    model.eval()
    seen: dict[str, Any] = {}
    for module in model.modules():
        if isinstance(module, WeightQuantizer):
            module.register_forward_hook(lambda _, args, out: seen.update(weight=out.values.detach().double()))
        if isinstance(module, qstep.nn.Linear):
            module.register_forward_pre_hook(lambda _, args: seen.update(x=args[0].detach().double()))
    model(x)
    product = seen["x"] @ seen["weight"].T
    net = qstep.convert(model)
    with torch.no_grad():
        unit = max(float(m.accumulator_scales(x.device).abs().max()) for m in _run_last(model, x))
    rounding = float((seen["x"].abs() @ seen["weight"].abs().T).max()) * 2.0**-23  # of the values, which are float32
    torch.testing.assert_close(net(x).double(), product, rtol=1e-5, atol=0.51 * unit + rounding)


def _run_last(model: nn.Module, x: Tensor) -> list[qstep.nn.Linear]:
    model(x)
    return [m for m in model.modules() if isinstance(m, qstep.nn.Linear)]


# --- whole networks ---------------------------------------------------------------------------------------------------------------------

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (ResNet20, (3, 16, 16)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.35), (3, 32, 32)),
}


def trained(config: qstep.QConfig, network: str) -> tuple[torch.fx.GraphModule, Tensor]:
    """The network after calibration and two training steps, and its input."""
    make, shape = NETWORKS[network]
    torch.manual_seed(SEED)
    x = torch.randn(2, *shape)
    model = qstep.prepare(settle(make(), x), config, example_inputs=(x,))
    qstep.calibrate(model, [x], batches=1, progress=False)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(2)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model, x


def check_same_codes(model: torch.fx.GraphModule, x: Tensor) -> None:
    """eval() and the integer network: not one code differs, on any instruction set."""
    net = qstep.convert(model)
    for isa in qstep.available_isas():
        result = qstep.compare(model, net.with_options(isa=isa), x)
        assert result.differing_codes == 0, f"{isa}\n{result}"
    with torch.no_grad():
        assert torch.equal(net(x), model.eval()(x))


def check_training_codes(model: torch.fx.GraphModule, x: Tensor) -> None:
    """The training forward pass with frozen statistics, each layer on the network's own codes: at most 1 code in 10,000 differs, by one."""
    net = qstep.convert(model)
    with_codes = {node.name for node in net.nodes if node.act_bits is not None}
    result = qstep.compare(model, net, x, forward="training", isolate=True)
    layers = [layer for layer in result.layers if layer.name in with_codes]
    assert layers
    assert all(layer.largest_difference <= 1 for layer in layers), str(result)
    differing, compared = sum(layer.differing for layer in layers), sum(layer.compared for layer in layers)
    assert differing <= max(1, compared / 10_000), f"{differing} of {compared} codes differ\n{result}"


def check_model_copies(model: torch.fx.GraphModule, config: qstep.QConfig, network: str, x: Tensor) -> None:
    """state_dict into a new model, deepcopy and pickle: the same output, in the training pass and in integers."""
    torch.manual_seed(SEED + 3)
    loaded = qstep.prepare(NETWORKS[network][0](), config, example_inputs=(x,))
    loaded.load_state_dict(model.state_dict())
    model.eval()
    for twin in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.eval()
        assert torch.equal(twin(x), model(x))
        with torch.no_grad():
            assert torch.equal(twin(x), model(x))


def check_has_no_integers(model: torch.fx.GraphModule) -> None:
    """A network in floating point says so by name instead of being converted."""
    try:
        qstep.convert(model)
    except (qstep.Error, qstep.UnsupportedError, NotImplementedError, TypeError, ValueError) as error:
        assert any(layer.path in str(error) for layer in model.modules() if isinstance(layer, qstep.nn.Layer)), error
    else:
        raise AssertionError("a network with real-valued activations was converted")


def check_network(config: qstep.QConfig, network: str, *, integers: bool = True) -> None:
    """All of it on one of :data:`NETWORKS`."""
    model, x = trained(config, network)
    if integers:
        check_same_codes(model, x)
        check_training_codes(model, x)
        check_model_copies(model, config, network, x)
    else:
        check_has_no_integers(model)
