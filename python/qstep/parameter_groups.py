"""parameter_groups: which parameters an optimizer decays, and at what rate scales learn."""

from __future__ import annotations

from typing import Any

from torch import nn

from .quantizers import ClippingLevel, Quantizer


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    alpha_weight_decay: float | None = None,
    scale_lr: float | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for any ``torch.optim`` optimizer: weight decay where it belongs.

    ======================================================= ====================== ============
    parameters                                              weight_decay           lr
    ======================================================= ====================== ============
    weights: of two dimensions or more                      ``weight_decay``       optimizer's
    biases, normalization, others of one dimension          0                      optimizer's
    clipping levels (PACT's alpha)                          ``alpha_weight_decay`` ``scale_lr``
    every other parameter of a quantizer (scale, offset)    0                      ``scale_lr``
    ======================================================= ====================== ============

    Decay draws a scale or an offset to 0, where no code is left; PACT decays its clipping level on purpose, so that it comes down as
    long as clipping costs less than coarse steps do (Choi et al., PACT, 2018, section 3: L2 regularisation of alpha).

    Args:
        model: what :func:`qstep.prepare` returned.
        weight_decay: of the weights.
        alpha_weight_decay: of the clipping levels; ``None`` for that of the weights.
        scale_lr: learning rate of the quantizers' parameters; ``None`` for that of the optimizer.

    Returns:
        The groups that hold a parameter, each with its ``name`` ("weights", "rest", "clipping_levels" or "scales"). Every parameter of
        the model stands in exactly one.

    >>> optimizer = torch.optim.SGD(qstep.parameter_groups(model, weight_decay=1e-4, scale_lr=1e-3), lr=0.01, momentum=0.9)
    """
    for name, value in (
        ("weight_decay", weight_decay),
        ("alpha_weight_decay", alpha_weight_decay),
        ("scale_lr", scale_lr),
    ):
        if value is not None and not value >= 0:
            raise ValueError(f"parameter_groups: {name} must not be negative, got {value!r}")
    levels = _parameters_of(model, ClippingLevel)
    scales = _parameters_of(model, Quantizer)
    norms = _parameters_of(model, (nn.LayerNorm, nn.RMSNorm))  # those of other kinds have one dimension
    rate = {} if scale_lr is None else {"lr": scale_lr}
    groups: dict[str, dict[str, Any]] = {
        "weights": {"weight_decay": weight_decay},
        "rest": {"weight_decay": 0.0},
        "clipping_levels": {
            "weight_decay": weight_decay if alpha_weight_decay is None else alpha_weight_decay,
            **rate,
        },
        "scales": {"weight_decay": 0.0, **rate},
    }
    for parameter in model.parameters():
        if id(parameter) in levels:
            name = "clipping_levels"
        elif id(parameter) in scales:
            name = "scales"
        else:
            name = "weights" if parameter.dim() >= 2 and id(parameter) not in norms else "rest"
        groups[name].setdefault("params", []).append(parameter)
    return [{"name": name, **group} for name, group in groups.items() if "params" in group]


def _parameters_of(model: nn.Module, kind: type | tuple[type, ...]) -> set[int]:
    return {id(p) for module in model.modules() if isinstance(module, kind) for p in module.parameters()}
