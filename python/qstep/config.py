"""What to quantize and how: :class:`QConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


def _check_bits(name: str, bits: int) -> None:
    if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= 8:
        raise ValueError(f"QConfig: {name} must be an integer in [2, 8], got {bits!r}")


@dataclass(frozen=True)
class Scheme:
    """One method with its options, for weights or for activations.

    ``method`` names an entry of :data:`qstep.quantizers.WEIGHT_METHODS` or :data:`qstep.quantizers.ACTIVATION_METHODS`; ``options`` go to
    its constructor.
    """

    method: str
    bit_width: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method == "float":
            if self.bit_width != 32:
                raise ValueError(f"Scheme: bit_width of 'float' must be 32, got {self.bit_width!r}")
        else:
            _check_bits("bit_width", self.bit_width)

    def with_bits(self, bits: int | None) -> Scheme:
        return self if bits is None or self.method == "float" else replace(self, bit_width=bits)


@dataclass(frozen=True)
class QConfig:
    """Methods and bit widths of a network. Build one with :meth:`lsq_plus`, :meth:`lsq`, :meth:`iao`, :meth:`pact`,
    :meth:`f8net`, :meth:`inq` or :meth:`pwlq`.

    Args:
        weight, activation: the schemes.
        first_layer_bits, last_layer_bits: width of weights and of the input of the first and the last convolution or linear layer, as the
            papers on low bit widths do; ``None`` gives them no exception.
        preactivation_bits: width of the input of an activation that runs as a table (SiLU, sigmoid, ...).
        batch_norm: ``"fold"`` multiplies batch norm into the weights before they are quantized (IAO); ``"absorb"`` leaves the weights alone
            and puts it into the integer multiplier of each channel; ``"fold_batch"`` is ``"fold"`` with batch statistics in training
            (F8Net).
        requantization: ``"exact"`` (one rounding), ``"gemmlowp"`` (bit-exact to TFLite's two roundings), or ``"shift"`` (F8Net: powers of
            two only).
        nonnegative_input: the network's input is never negative (images in [0, 1]): methods that have unsigned grids use one for it.
        overrides: layer name -> what differs there: ``weight_bits`` and ``act_bits``, or ``weight`` and ``activation``, whole
            :class:`Scheme` objects of any method. ``act_bits`` and ``activation`` are those of the layer's output.

    Methods mix: ``dataclasses.replace(QConfig.lsq_plus(4, 4), activation=QConfig.iao(8, 8).activation)``.
    """

    weight: Scheme
    activation: Scheme
    first_layer_bits: int | None = 8
    last_layer_bits: int | None = 8
    preactivation_bits: int = 8
    batch_norm: str = "absorb"
    requantization: str = "exact"
    nonnegative_input: bool = False
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("first_layer_bits", "last_layer_bits"):
            if getattr(self, name) is not None:
                _check_bits(name, getattr(self, name))
        _check_bits("preactivation_bits", self.preactivation_bits)
        if self.batch_norm not in ("fold", "absorb", "fold_batch"):
            raise ValueError(f"QConfig: batch_norm must be 'fold', 'absorb' or 'fold_batch', got {self.batch_norm!r}")
        if self.requantization not in ("exact", "gemmlowp", "shift"):
            raise ValueError(
                f"QConfig: requantization must be 'exact', 'gemmlowp' or 'shift', got {self.requantization!r}"
            )
        for layer, entry in self.overrides.items():
            for key, value in entry.items():
                if key in ("weight_bits", "act_bits"):
                    _check_bits(f"overrides[{layer!r}][{key!r}]", value)
                elif key not in ("weight", "activation"):
                    raise ValueError(
                        f"QConfig: overrides of {layer!r} may set weight_bits, act_bits, weight and activation, got {key!r}"
                    )
                elif not isinstance(value, Scheme):
                    raise ValueError(f"QConfig: overrides[{layer!r}][{key!r}] must be a Scheme, got {value!r}")
        self._check_fixed_point()

    @classmethod
    def lsq_plus(
        cls,
        weight_bits: int = 4,
        act_bits: int = 4,
        *,
        act_config: int = 4,
        per_channel: bool = False,
        weight_options: Mapping[str, Any] | None = None,
        act_options: Mapping[str, Any] | None = None,
        **rules: Any,
    ) -> QConfig:
        """LSQ+ (learned scale and offset).

        ``act_config`` is the paper's configuration of activations: 1 unsigned without offset, 2 signed without offset, 3 signed with
        offset, 4 unsigned with offset. Configuration 1 holds after activation functions; tensors that can be negative without one (the
        input, the branches of an add) then use 2.
        """
        if act_config not in (1, 2, 3, 4):
            raise ValueError(f"QConfig.lsq_plus: act_config must be 1, 2, 3 or 4, got {act_config!r}")
        return cls(
            weight=Scheme("lsq_plus", weight_bits, {"per_channel": per_channel, **(weight_options or {})}),
            activation=Scheme("lsq_plus", act_bits, {"configuration": act_config, **(act_options or {})}),
            **rules,
        )

    @classmethod
    def lsq(cls, weight_bits: int = 4, act_bits: int = 4, *, per_channel: bool = False, **rules: Any) -> QConfig:
        """LSQ: learned scale, no offset, LSQ's rule for the first scale of the weights."""
        return cls.lsq_plus(
            weight_bits, act_bits, act_config=1, per_channel=per_channel, weight_options={"rule": "lsq"}, **rules
        )

    @classmethod
    def iao(
        cls,
        weight_bits: int = 8,
        act_bits: int = 8,
        *,
        per_channel: bool = False,
        smoothing: float = 0.99,
        delay: int = 0,
        **rules: Any,
    ) -> QConfig:
        """IAO: ranges of weights from the weights, of activations from a moving average; batch norm folded; every layer alike.

        Args:
            per_channel: symmetric weights with one scale per output channel (TFLite's later extension) instead of one range per tensor.
            smoothing: of the moving average of activation ranges.
            delay: training steps before activations are quantized.
        """
        rules = {"batch_norm": "fold", "first_layer_bits": None, "last_layer_bits": None, **rules}
        return cls(
            weight=Scheme("iao", weight_bits, {"per_channel": per_channel}),
            activation=Scheme("iao", act_bits, {"smoothing": smoothing, "delay": delay}),
            **rules,
        )

    @classmethod
    def pact(
        cls,
        weight_bits: int = 4,
        act_bits: int = 4,
        *,
        alpha_init: float | str = "mse",
        gradient: str = "pact",
        per_channel: bool = True,
        weight_options: Mapping[str, Any] | None = None,
        **rules: Any,
    ) -> QConfig:
        """PACT (learned clipping level of activations), with LSQ+ weights.

        PACT says nothing of weights; its experiments take DoReFa's, whose levels are odd multiples of half a step: zero is none of them, and
        the largest weight of a layer stretches all. Learned scales have integer codes around zero.

        Args:
            alpha_init: first clipping level: ``"mse"``, ``"max"`` or a number; see :class:`qstep.quantizers.PactActivation`.
            gradient: of the clipping level: ``"pact"`` or ``"ste"``.
            per_channel: one scale of weights per output channel instead of one per layer.
            weight_options: further options of :class:`qstep.quantizers.LsqPlusWeight`.

        The paper decays clipping levels as it does weights: :func:`qstep.parameter_groups`.
        """
        return cls(
            weight=Scheme("lsq_plus", weight_bits, {"per_channel": per_channel, **(weight_options or {})}),
            activation=Scheme("pact", act_bits, {"alpha_init": alpha_init, "gradient": gradient}),
            **rules,
        )

    @classmethod
    def f8net(
        cls,
        weight_bits: int = 8,
        act_bits: int = 8,
        *,
        alpha_init: str | float = "mse",
        clipping: bool = True,
        format: str = "std",
        rectified: bool = True,
        private_range: bool = False,
        reference_mask: bool = False,
        reference_fl: bool = False,
        reference_residual: bool = False,
        **rules: Any,
    ) -> QConfig:
        """F8Net: 8-bit fixed-point numbers, shifts instead of multipliers between layers; every layer alike.

        Args:
            weight_bits, act_bits: word lengths; other than 8 needs ``format="grid"``.
            alpha_init: first clipping level, see :class:`qstep.quantizers.F8NetActivation`.
            clipping: learn clipping levels; ``False`` for a short fine-tuning.
            format: fraction lengths from the standard deviation (``"std"``) or by search (``"grid"``).
            rectified: the standard deviation of a rectified tensor is put back to that of the Gaussian.
            private_range: tensors that additions connect clip at levels powers of two apart, not at one (beyond the paper).
            reference_mask, reference_fl, reference_residual: do what the official code does where that differs.
        """
        rules = {
            "batch_norm": "fold_batch",
            "requantization": "shift",
            "first_layer_bits": None,
            "last_layer_bits": None,
            **rules,
        }
        shared = {"format": format, "mask": "reference" if reference_mask else "pact"}
        activation = {
            "alpha_init": alpha_init,
            "clipping": clipping,
            "rectified": rectified,
            "private_range": private_range,
            "reference_fl": reference_fl,
            "reference_residual": reference_residual,
        }
        return cls(
            weight=Scheme("f8net", weight_bits, shared),
            activation=Scheme("f8net", act_bits, {**shared, **activation}),
            **rules,
        )

    @classmethod
    def pwlq(
        cls,
        weight_bits: int = 4,
        act_bits: int = 8,
        *,
        breakpoints: int = 1,
        estimate: str = "gaussian",
        scheme: str = "paper",
        bias_correction: str | None = "repo",
        representation: str = "piecewise",
        per_channel: bool = True,
        top_k: int = 10,
        asymmetric: bool = False,
        **rules: Any,
    ) -> QConfig:
        """PWLQ: weights in pieces of differing steps, for :func:`qstep.quantize_post_training`; batch norm folded; every layer alike.

        Args:
            breakpoints, estimate, scheme, bias_correction, representation, per_channel: see :class:`qstep.quantizers.PwlqWeight`.
            top_k, asymmetric: see :class:`qstep.quantizers.PwlqActivation`.
        """
        rules = {"batch_norm": "fold", "first_layer_bits": None, "last_layer_bits": None, **rules}
        weight_options = {
            "breakpoints": breakpoints,
            "estimate": estimate,
            "scheme": scheme,
            "bias_correction": bias_correction,
            "representation": representation,
            "per_channel": per_channel,
        }
        return cls(
            weight=Scheme("pwlq", weight_bits, weight_options),
            activation=Scheme("pwlq", act_bits, {"top_k": top_k, "asymmetric": asymmetric}),
            **rules,
        )

    def _check_fixed_point(self) -> None:
        """F8Net's networks are of one piece: every scale a power of two."""
        overridden = [e[key] for e in self.overrides.values() for key in ("weight", "activation") if key in e]
        methods = {scheme.method for scheme in (self.weight, self.activation, *overridden)}
        if "f8net" not in methods and self.requantization != "shift" and self.batch_norm != "fold_batch":
            return
        if methods != {"f8net"} or self.requantization != "shift" or self.batch_norm != "fold_batch":
            raise ValueError(
                "QConfig: f8net goes with f8net weights and activations in every layer, requantization='shift' and "
                f"batch_norm='fold_batch', got {', '.join(sorted(methods))}, {self.requantization!r} and {self.batch_norm!r}"
            )

    @classmethod
    def inq(
        cls,
        weight_bits: int = 5,
        act_bits: int | None = 8,
        *,
        n1_rule: str = "max",
        recompute_n1: bool = False,
        variable_length: bool = False,
        smoothing: float = 0.99,
        delay: int = 0,
        **rules: Any,
    ) -> QConfig:
        """INQ: powers of two as weights, frozen step by step (:class:`qstep.optim.InqSchedule`); every layer alike.

        Args:
            weight_bits: 2 to 5.
            act_bits: width of activations, quantized as by :meth:`iao`; ``None`` leaves them in floating point as the paper does, for
                training and comparison only.
            n1_rule, recompute_n1, variable_length: as in :class:`qstep.quantizers.InqWeight`.
            smoothing, delay: as in :meth:`iao`.
        """
        rules = {"first_layer_bits": None, "last_layer_bits": None, **rules}
        options = {"smoothing": smoothing, "delay": delay}
        weight_options = {"n1_rule": n1_rule, "recompute_n1": recompute_n1, "variable_length": variable_length}
        return cls(
            weight=Scheme("inq", weight_bits, weight_options),
            activation=Scheme("float", 32) if act_bits is None else Scheme("iao", act_bits, options),
            **rules,
        )

    def override(self, layer: str, key: str) -> Any:
        return self.overrides.get(layer, {}).get(key)
