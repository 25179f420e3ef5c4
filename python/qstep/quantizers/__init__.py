"""Quantizers as modules: parameters, initialisation and the current grid of each method.

A thin shell: forward passes, gradients and initialisations are ``torch.ops.qstep`` operators. Each method has one class for weights and
one for activations; :data:`WEIGHT_METHODS` and :data:`ACTIVATION_METHODS` list them by the name that :class:`qstep.QConfig` uses.
"""

from collections.abc import Callable

from .base import ActivationQuantizer, ClippingLevel, QuantizedWeight, Quantizer, WeightQuantizer
from .f8net import F8NetActivation, F8NetWeight
from .float_activation import FloatActivation
from .iao import IaoActivation, IaoWeight
from .inq import InqWeight
from .lsq_plus import LsqPlusActivation, LsqPlusWeight
from .pact import PactActivation
from .pwlq import PwlqActivation, PwlqWeight

__all__ = [
    "ACTIVATION_METHODS",
    "WEIGHT_METHODS",
    "ActivationQuantizer",
    "ClippingLevel",
    "F8NetActivation",
    "F8NetWeight",
    "FloatActivation",
    "IaoActivation",
    "IaoWeight",
    "InqWeight",
    "LsqPlusActivation",
    "LsqPlusWeight",
    "PactActivation",
    "PwlqActivation",
    "PwlqWeight",
    "QuantizedWeight",
    "Quantizer",
    "WeightQuantizer",
]

WEIGHT_METHODS: dict[str, Callable[..., WeightQuantizer]] = {
    "lsq_plus": LsqPlusWeight,
    "iao": IaoWeight,
    "f8net": F8NetWeight,
    "pwlq": PwlqWeight,
    "inq": InqWeight,
}
ACTIVATION_METHODS: dict[str, Callable[..., ActivationQuantizer]] = {
    "lsq_plus": LsqPlusActivation,
    "iao": IaoActivation,
    "pact": PactActivation,
    "f8net": F8NetActivation,
    "pwlq": PwlqActivation,
    "float": FloatActivation,
}
