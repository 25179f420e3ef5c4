"""What all quantized layers share, and the layer where a float tensor enters the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _C
from ..quantizers import ActivationQuantizer
from .activation import Activation


class Layer(nn.Module):
    """What all quantized layers share: where their inputs' grids come from, their output's quantizer, and the integer forward pass.

    Args:
        inputs: the quantizers that the inputs were quantized with. They belong to the layers that made them: they are referred to, not
            registered, so that each parameter stands once in the ``state_dict``.
        output_quantizer: ``None`` for a last layer, whose real-valued accumulators are the network's output.
        activation: fused function, with ``clamp``; or the function of an :class:`Elementwise`.
    """

    path = "layer"  #: place in the model; set by qstep.prepare
    channels_first = False  #: whether the channels of the result are dimension 1; else they are the last
    policy = "exact"  #: requantization policy

    def __init__(
        self,
        inputs: Sequence[ActivationQuantizer],
        output_quantizer: ActivationQuantizer | None,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        self._inputs = tuple(inputs)
        self.output_quantizer = output_quantizer
        self.activation = activation
        self.calibrating = False
        self._engine: tuple[Any, Any] | None = None  # (state it was lowered from, IntegerNetwork)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None}

    # --- to be given by each layer ---

    def simulate(self, *inputs: Tensor) -> Tensor:
        """The layer before activation and output quantizer, on tensors whose values lie on their grids."""
        raise NotImplementedError

    def float_forward(self, *inputs: Tensor) -> Tensor:
        """The same without any quantization, for calibration."""
        return self.simulate(*inputs)

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        """Appends the layer to ``builder``; returns the value it makes. ``shape`` is that of the first input."""
        raise NotImplementedError

    # --- shared ---

    def target(self) -> _C.Target | None:
        if self.output_quantizer is None:
            return None
        low, high = (
            self.activation.clamp if self.activation and self.activation.clamp else (-float("inf"), float("inf"))
        )
        eta = self.output_quantizer.eta
        if eta is not None:
            low, high = (float(b / eta.detach()) if 0 < abs(b) < float("inf") else b for b in (low, high))
        return _C.Target(self.output_quantizer.grid(), low, high)

    def _activate(self, y: Tensor) -> Tensor:
        """The fused activation. Where the tensor holds real values / eta, so do its limits."""
        if self.activation is None:
            return y
        eta = None if self.output_quantizer is None or self.calibrating else self.output_quantizer.eta
        if eta is None or self.activation.clamp is None:
            return self.activation(y)
        low, high = self.activation.clamp
        if low > -float("inf"):
            y = torch.relu(y) if low == 0 else torch.maximum(y, low / eta)
        return torch.minimum(y, high / eta) if high < float("inf") else y

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.calibrating:
            y = self.float_forward(*inputs)
        elif self.training or torch.is_grad_enabled() or not self._has_grids():
            if self.output_quantizer is not None:
                self.output_quantizer.advance()
            y = self.simulate(*inputs)
        else:
            return self.integer_forward(*inputs)
        y = self._activate(y)
        if self.output_quantizer is not None:
            y = self.output_quantizer(y)
        return y.to(inputs[0].dtype)  # float64 where float32 could not hold the sums

    def _has_grids(self) -> bool:
        """Whether the layer exists as integers."""
        output = self.output_quantizer
        return all(q.has_grid for q in self._inputs) and (output is None or output.has_grid)

    def integer_codes(self, *inputs: Tensor) -> Tensor:
        """What the integer engine makes of these inputs: uint8 codes, or int32 accumulators where there is no output quantizer."""
        codes = [q.encode(x).cpu().contiguous() for q, x in zip(self._inputs, inputs, strict=True)]
        return torch.from_numpy(self._lowered(codes).run([c.numpy() for c in codes])[0])

    def integer_forward(self, *inputs: Tensor) -> Tensor:
        codes = self.integer_codes(*inputs).to(inputs[0].device)
        if self.output_quantizer is not None:
            return self.output_quantizer.decode(codes)
        return (codes.double() * self.accumulator_scales(codes.device)).float()

    def accumulator_scales(self, device: torch.device) -> Tensor:
        """Real value of one accumulator step of the last integer forward pass, per channel, float64; shaped to multiply accumulators."""
        assert self._engine is not None and self.output_quantizer is None
        scales = torch.as_tensor(self._engine[1].output_scales(), device=device)
        return scales.reshape(-1, 1, 1) if self.channels_first else scales

    def _lowered(self, codes: Sequence[Tensor]) -> _C.IntegerNetwork:
        # In-place updates raise a tensor's version; writes through .data do not, but change its sum of bits.
        quantizers = self._inputs if self.output_quantizer is None else (*self._inputs, self.output_quantizer)
        others = dict.fromkeys(d for q in quantizers for d in q.depends_on)
        tensors = [t for m in (self, *self._inputs, *others) for t in m.state_dict(keep_vars=True).values()]
        state = [
            (t.data_ptr(), t._version, int(t.detach().reshape(-1).view(torch.uint8).sum(dtype=torch.int64)))
            for t in tensors
        ]
        if self._engine is None or self._engine[0] != state:
            builder = _C.Builder(self.policy)
            inputs = [
                builder.input(f"input{i}", list(c.shape), q.grid())
                for i, (c, q) in enumerate(zip(codes, self._inputs, strict=True))
            ]
            builder.output(self.lower(builder, self.path, inputs, codes[0].shape))
            self._engine = (state, _C.IntegerNetwork(builder.finish()))
        return self._engine[1]


class Quantize(Layer):
    """Where a float tensor enters the network."""

    def __init__(self, output_quantizer: ActivationQuantizer) -> None:
        super().__init__((), output_quantizer)

    def simulate(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def integer_forward(self, *inputs: Tensor) -> Tensor:
        return self.output_quantizer.decode(self.integer_codes(*inputs))  # type: ignore[union-attr]

    def integer_codes(self, *inputs: Tensor) -> Tensor:
        if torch.isnan(inputs[0]).any():
            raise ValueError(f"{self.path}: the input of the network must not contain NaN")
        return self.output_quantizer.encode(inputs[0])  # type: ignore[union-attr]

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        return builder.quantize(name, inputs[0], self.output_quantizer.grid())  # type: ignore[union-attr]
