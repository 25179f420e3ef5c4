"""What training needs beside an ordinary optimizer: INQ's schedule, which freezes weights step by step."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .nn import AffineLayer
from .quantizers import InqWeight

_WRAPPERS = ("module", "_orig_mod")  # of DistributedDataParallel and torch.compile
_NOT_OF_THE_PAST = ("ax", "step_size")  # optimizer state that is no running average: ASGD's mean weight, Rprop's step


class _Held(NamedTuple):
    """A parameter, which of its entries are frozen, and the values they keep."""

    weight: Tensor
    frozen: Tensor
    values: Tensor


class InqSchedule:
    """Incremental network quantization: each :meth:`step` freezes a further share of every layer's weights as powers of two, and the
    training between steps lets the others make up for it.

    >>> model = qstep.prepare(float_model, qstep.QConfig.inq(weight_bits=5), example_inputs=(x,))
    >>> qstep.calibrate(model, loader)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    >>> schedule = qstep.optim.InqSchedule(model, optimizer, "resnet18_5bit")
    >>> while not schedule.finished:
    ...     schedule.step()
    ...     train(model, optimizer, epochs=4)  # after the last step: batch norm and biases only

    From the first step on, frozen weights keep their values bit for bit whatever the optimizer does (momentum, weight decay, ...), and its
    running averages of them stay zero: a hook behind ``optimizer.step()`` sees to it, so it works with any ``torch.optim`` optimizer, with
    ``torch.amp.GradScaler`` and with ``DistributedDataParallel``.

    Args:
        model: a network with :class:`qstep.quantizers.InqWeight` quantizers; may be wrapped.
        optimizer: what trains it.
        fractions: cumulative shares of frozen weights, one per step, in (0, 1] and not decreasing; or the name of one of the paper's
            schedules: ``"alexnet_5bit"``, ``"vgg16_5bit"``, ``"googlenet_5bit"``, ``"resnet18_5bit"``, ``"resnet50_5bit"``,
            ``"resnet18_4bit"``, ``"resnet18_3bit"``, ``"resnet18_2bit"``.
        strategy: ``"magnitude"`` freezes the largest weights first (the paper's pruning-inspired strategy), ``"random"`` any.
        generator: for ``"random"``. By default the schedule has one of its own, seeded with 0: the processes of a distributed training draw
            alike.
        lr_reset: puts the learning rates back, at each step, to what they were when the schedule was made (``initial_lr`` where the
            optimizer has a scheduler that is not given here).
        lr_scheduler: goes back, at each step, to the state it had when the schedule was made; needs ``lr_reset``.

    Raises:
        ValueError: fractions outside (0, 1] or decreasing, an unknown name; a model without INQ weights; an optimizer with none of them.

    Source: Zhou et al., Incremental Network Quantization, ICLR 2017, algorithm 1.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        fractions: Sequence[float] | str,
        *,
        strategy: str = "magnitude",
        generator: torch.Generator | None = None,
        lr_reset: bool = True,
        lr_scheduler: LRScheduler | None = None,
    ) -> None:
        shares: Sequence[float] = torch.ops.qstep.inq_fractions(fractions) if isinstance(fractions, str) else fractions
        _check_fractions(shares)
        if strategy not in ("magnitude", "random"):
            raise ValueError(f"InqSchedule: strategy must be 'magnitude' or 'random', got {strategy!r}")
        if lr_scheduler is not None and not lr_reset:
            raise ValueError("InqSchedule: lr_scheduler needs lr_reset=True, got False")
        self.optimizer = optimizer
        self.fractions = [float(share) for share in shares]
        self.strategy = strategy
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.lr_reset = lr_reset
        self.lr_scheduler = lr_scheduler
        self.position = 0  #: steps taken
        self._layers = _layers_of(model)
        if not self._layers:
            raise ValueError("InqSchedule: the model has no layer with INQ weights; see qstep.QConfig.inq")
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not any(id(layer.weight) in trained for layer in self._layers.values()):
            raise ValueError("InqSchedule: the optimizer has none of the model's INQ weights")
        self._held: list[_Held] = []
        if lr_scheduler is None:
            self._learning_rates = [float(g.get("initial_lr", g["lr"])) for g in optimizer.param_groups]
        else:
            self._learning_rates = [float(g["lr"]) for g in optimizer.param_groups]
        self._lr_scheduler_state = None if lr_scheduler is None else copy.deepcopy(lr_scheduler.state_dict())
        optimizer.register_step_post_hook(lambda *_: self._restore())

    @property
    def finished(self) -> bool:
        return self.position == len(self.fractions)

    @property
    def fraction(self) -> float:
        """Share of each layer's weights that is frozen now."""
        return self.fractions[self.position - 1] if self.position else 0.0

    def step(self) -> None:
        """Freezes the next share of each layer and resets the learning rates. Raises ``RuntimeError`` when finished."""
        if self.finished:
            raise RuntimeError(f"InqSchedule: all {len(self.fractions)} steps are done")
        for name, layer in self._layers.items():  # before any of them changes
            if not torch.isfinite(layer.weight).all():
                raise ValueError(f"InqSchedule: {name}: weights must be finite, got NaN or infinity")
        for layer in self._layers.values():
            _quantizer_of(layer).freeze(
                layer.weight.detach(), self.fractions[self.position], self.strategy, self.generator
            )
        self.position += 1
        if isinstance(self.optimizer, LBFGS):  # its history would still move what is frozen now
            self.optimizer.state.clear()
        self._hold()
        if self.lr_reset:
            self._reset_learning_rates()

    def state_dict(self) -> dict[str, Any]:
        """Position, learning rates and generator. The masks and weights are in the model's ``state_dict``, momentum in the optimizer's."""
        return {
            "layers": {name: _description(layer) for name, layer in self._layers.items()},
            "fractions": list(self.fractions),
            "strategy": self.strategy,
            "position": self.position,
            "learning_rates": list(self._learning_rates),
            "lr_scheduler": copy.deepcopy(self._lr_scheduler_state),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes. Load the model, the optimizer and, if there is one, the learning rate scheduler first.

        Raises:
            ValueError: the state is that of another model or schedule, or the model's state has not been loaded.
        """
        self._check_state(state)
        self.position = state["position"]
        self._learning_rates = list(state["learning_rates"])
        self._lr_scheduler_state = copy.deepcopy(state["lr_scheduler"])
        self.generator.set_state(state["generator"].cpu())
        self._hold()

    def _check_state(self, state: dict[str, Any]) -> None:
        saved = state["layers"]
        if saved.keys() != self._layers.keys():
            only_saved = sorted(saved.keys() - self._layers.keys())
            only_here = sorted(self._layers.keys() - saved.keys())
            raise ValueError(
                f"InqSchedule: the state is that of another model: layers only there: {only_saved}, only here: {only_here}"
            )
        for key in ("fractions", "strategy"):
            if state[key] != getattr(self, key):
                raise ValueError(
                    f"InqSchedule: the state is that of another schedule: {key} {state[key]!r}, here {getattr(self, key)!r}"
                )
        if len(state["learning_rates"]) != len(self._learning_rates):
            raise ValueError(
                f"InqSchedule: the state has {len(state['learning_rates'])} parameter groups, the optimizer {len(self._learning_rates)}"
            )
        if (state["lr_scheduler"] is None) != (self.lr_scheduler is None):
            raise ValueError(
                "InqSchedule: lr_scheduler must be given where it was when the state was saved, and only there"
            )
        for name, layer in self._layers.items():
            here = _description(layer)
            for key, value in saved[name].items():
                if here[key] != value:
                    raise ValueError(
                        f"InqSchedule: {name}: {key} is {here[key]} here and was {value} when the state was saved;"
                        " load the state_dict of the model that was saved with it first"
                    )

    # --- frozen weights ---

    @torch.no_grad()
    def _hold(self) -> None:
        """Takes the frozen weights as they are now for what they shall remain."""
        layers = self._layers.values() if self.position else ()
        self._held = [
            _Held(layer.weight, _quantizer_of(layer).frozen, layer.weight.detach().clone()) for layer in layers
        ]
        self._restore()

    @torch.no_grad()
    def _restore(self) -> None:
        for weight, frozen, values in self._held:
            torch.where(frozen, values, weight, out=weight)
            for key, value in self.optimizer.state.get(weight, {}).items():
                if isinstance(value, Tensor) and value.shape == weight.shape and key not in _NOT_OF_THE_PAST:
                    value.masked_fill_(frozen, 0)

    def _reset_learning_rates(self) -> None:
        if self.lr_scheduler is not None and self._lr_scheduler_state is not None:
            self.lr_scheduler.load_state_dict(copy.deepcopy(self._lr_scheduler_state))
        for group, rate in zip(self.optimizer.param_groups, self._learning_rates, strict=True):
            if isinstance(group["lr"], Tensor):  # of a capturable optimizer: it must stay the same tensor
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def _check_fractions(fractions: Sequence[float]) -> None:
    if not fractions:
        raise ValueError("InqSchedule: fractions must hold at least one share, got none")
    before = 0.0
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise ValueError(f"InqSchedule: fractions must be in (0, 1], got {fraction!r}")
        if fraction < before:
            raise ValueError(
                f"InqSchedule: fractions are cumulative and must not decrease, got {fraction!r} after {before!r}"
            )
        before = fraction


def _layers_of(model: nn.Module) -> dict[str, AffineLayer]:
    """Layers with INQ weights by name. Calls of one shared layer have one weight and one quantizer: the first stands for all."""
    layers: dict[str, AffineLayer] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if not isinstance(module, AffineLayer) or not isinstance(module.weight_quantizer, InqWeight):
            continue
        if id(module.weight_quantizer) not in seen:
            seen.add(id(module.weight_quantizer))
            layers[".".join(part for part in name.split(".") if part not in _WRAPPERS)] = module
    return layers


def _quantizer_of(layer: AffineLayer) -> InqWeight:
    assert isinstance(layer.weight_quantizer, InqWeight)
    return layer.weight_quantizer


def _description(layer: AffineLayer) -> dict[str, Any]:
    """What tells whether a model is the one whose state was saved; the digest is of the frozen weights' values and places."""
    quantizer = _quantizer_of(layer)
    held = torch.where(quantizer.frozen, layer.weight.detach().float(), torch.nan)
    return {
        "bit_width": quantizer.bit_width,
        "shape": list(layer.weight.shape),
        "frozen": int(quantizer.frozen.sum()),
        "digest of frozen weights": hashlib.sha256(held.cpu().contiguous().numpy().tobytes()).hexdigest()[:16],
    }
