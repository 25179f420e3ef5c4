"""Every registered method through the checks of ``conformance.py``; and methods with an error, which the checks must find."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from conformance import (
    NETWORKS,
    Case,
    Expected,
    activations,
    calibrated,
    check_activation,
    check_activation_grid,
    check_gradients,
    check_idempotent,
    check_monotone,
    check_network,
    check_weight,
    check_weight_grid,
    weights,
)
from conformance_cases import ACTIVATIONS, WEIGHTS
from torch import Tensor

import qstep
from qstep import functional as F
from qstep.quantizers import ACTIVATION_METHODS, WEIGHT_METHODS, ActivationQuantizer, QuantizedWeight, WeightQuantizer
from qstep.quantizers.lsq_plus import LsqPlusActivation, LsqPlusWeight


def case_of(name: str, cases: Mapping[str, Case], kind: str) -> Case:
    assert name in cases, (
        f"{kind} method '{name}' is registered, but tests/python/conformance_cases.py has no Case (and so no oracle) for it"
    )
    return cases[name]


@pytest.mark.parametrize("name", WEIGHT_METHODS)
def test_weight_methods(name: str) -> None:
    check_weight(WEIGHT_METHODS[name], case_of(name, WEIGHTS, "weight"))


@pytest.mark.parametrize("name", ACTIVATION_METHODS)
def test_activation_methods(name: str) -> None:
    check_activation(ACTIVATION_METHODS[name], case_of(name, ACTIVATIONS, "activation"))


def distinct_networks() -> list[tuple[str, str]]:
    """Kind and name of every method, but one of two that stand in the same network."""
    configs: list[qstep.QConfig] = []
    methods = []
    for kind, names, cases in (("weight", WEIGHT_METHODS, WEIGHTS), ("activation", ACTIVATION_METHODS, ACTIVATIONS)):
        for name in names:
            config = cases[name].config() if name in cases else None
            if config not in configs:
                methods.append((kind, name))
            if config is not None:
                configs.append(config)
    return methods


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("kind", "name"), distinct_networks())
def test_networks(kind: str, name: str, network: str) -> None:
    case = case_of(name, WEIGHTS if kind == "weight" else ACTIVATIONS, kind)
    config = case.config()
    assert name == getattr(config, kind).method
    check_network(config, network, integers=case.integers)


def test_a_method_without_an_oracle_is_named() -> None:
    with pytest.raises(AssertionError, match="activation method 'new' is registered, but"):
        case_of("new", ACTIVATIONS, "activation")


# --- negative controls: a toy method, right and wrong -----------------------------------------------------------------------------------


class Steps(ActivationQuantizer):
    """The right toy: codes around 0 with a step that calibration finds."""

    method = "steps"
    scale: Tensor

    def __init__(self, bit_width: int, nonnegative: bool) -> None:
        limit = (1 << (bit_width - 1)) - 1
        super().__init__(bit_width, -limit, limit)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.tensor(0))
        self.register_buffer("offset", torch.zeros(()))

    def initialize(self, samples: Tensor) -> None:
        self.scale.copy_(samples.abs().max() / self.quant_max)
        self._set_ready()

    def quantize(self, x: Tensor) -> Tensor:
        return F.fake_quantize_affine(
            x, self.scale, self.zero_point, quant_min=self.quant_min, quant_max=self.quant_max
        )


def steps_oracle(quantizer: Any, x: np.ndarray, grad_output: np.ndarray) -> Expected:
    scale = float(quantizer.scale)
    values = np.clip(np.rint(x / scale), quantizer.quant_min, quantizer.quant_max) * scale
    inside = np.float32(np.abs(x)) <= np.float32(quantizer.quant_max) * np.float32(scale)
    return Expected(values, {"x": np.where(inside, grad_output, 0.0)})


class StraightThroughEverywhere(Steps):
    """Wrong gradient: clipped values let it pass."""

    def quantize(self, x: Tensor) -> Tensor:
        return x + (super().quantize(x) - x).detach()


class TruncatedCodes(Steps):
    """Wrong rounding: on the grid, but not the codes that the integer network gives."""

    def quantize(self, x: Tensor) -> Tensor:
        return super().quantize(x - 0.5 * self.scale * torch.sign(x))


class OffItsGrid(Steps):
    def quantize(self, x: Tensor) -> Tensor:
        return super().quantize(x) * 1.001


class Amplifying(Steps):
    def quantize(self, x: Tensor) -> Tensor:
        return super().quantize(1.5 * x)


class NotMonotone(Steps):
    def quantize(self, x: Tensor) -> Tensor:
        return super().quantize(torch.where(x > 20, x / 20, x))


class Forgetful(Steps):
    """Its step is missing in the state_dict."""

    def __init__(self, bit_width: int, nonnegative: bool) -> None:
        super().__init__(bit_width, nonnegative)
        self.register_buffer("scale", torch.ones(()), persistent=False)


STEPS = Case(
    steps_oracle,
    lambda: dataclasses.replace(qstep.QConfig.lsq_plus(4, 4), activation=qstep.Scheme("steps", 6)),
    bit_widths=(3, 8),
)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[ActivationQuantizer]], None]:
    """Registers a method for the time of one test."""
    return lambda method: monkeypatch.setitem(ACTIVATION_METHODS, "steps", method)


def test_a_right_method_passes(registered: Callable[..., None]) -> None:
    registered(Steps)
    check_activation(ACTIVATION_METHODS["steps"], STEPS)
    check_network(STEPS.config(), "resnet20")


@pytest.mark.parametrize(
    "method, check, message",
    [
        (StraightThroughEverywhere, check_gradients, "gradient of x"),
        (TruncatedCodes, check_gradients, "values differ from the oracle"),
        (TruncatedCodes, check_activation_grid, "what its codes stand for"),
        (OffItsGrid, check_activation_grid, "what its codes stand for"),
        (Amplifying, check_idempotent, "not close"),
        (NotMonotone, check_monotone, "a larger value got a smaller one"),
        (Forgetful, None, ""),
    ],
)
def test_a_wrong_method_fails(
    method: type[Steps], check: Callable[..., None] | None, message: str, registered: Callable[..., None]
) -> None:
    registered(method)
    with pytest.raises(AssertionError):
        check_activation(ACTIVATION_METHODS["steps"], STEPS)
    if check is not None:
        x = activations(nonnegative=False)
        arguments = (x, steps_oracle) if check is check_gradients else (x,)
        with pytest.raises(AssertionError, match=message):
            check(calibrated(method(4, False), False), *arguments)


def test_a_wrong_method_fails_in_a_network(registered: Callable[..., None]) -> None:
    registered(TruncatedCodes)
    with pytest.raises(AssertionError):
        check_network(STEPS.config(), "resnet20")


class WeightsWithADeadScale(LsqPlusWeight):
    """Wrong gradient: the scale learns nothing."""

    def forward(self, weight: Tensor) -> QuantizedWeight:
        values, scale, zero_point, *_ = super().forward(weight)
        fixed = F.lsq_plus(weight, scale.detach(), quant_min=self.quant_min, quant_max=self.quant_max)
        return QuantizedWeight(fixed + 0 * values, scale, zero_point)


class WeightsWithAnotherScale(LsqPlusWeight):
    """The scale that it names is not the one it uses."""

    def forward(self, weight: Tensor) -> QuantizedWeight:
        values, scale, zero_point, *_ = super().forward(weight)
        return QuantizedWeight(values, scale * 1.01, zero_point)


@pytest.mark.parametrize("method", [WeightsWithADeadScale, WeightsWithAnotherScale])
def test_a_wrong_weight_method_fails(method: type[WeightQuantizer]) -> None:
    with pytest.raises(AssertionError):
        check_weight(method, WEIGHTS["lsq_plus"])
    if method is WeightsWithAnotherScale:
        quantizer = method(4, weights().shape)
        quantizer.initialize(weights())
        with pytest.raises(AssertionError, match="values off the grid"):
            check_weight_grid(quantizer, weights())


def test_the_gradient_of_a_parameter_that_the_oracle_does_not_know_is_an_error() -> None:
    quantizer = calibrated(LsqPlusActivation(4, True), True)
    with pytest.raises(AssertionError, match="the oracle has gradients of"):
        check_gradients(quantizer, activations(True), steps_without_parameters)


def steps_without_parameters(quantizer: Any, x: np.ndarray, grad_output: np.ndarray) -> Expected:
    expected = ACTIVATIONS["lsq_plus"].oracle(quantizer, x, grad_output)
    return Expected(expected.values, {"x": expected.gradients["x"]})
