"""One layer of random tensors: Gaussian weights over their full range, activations over the whole unsigned range."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .layers import Layer
from .network import INPUT, Conv, Grid, Linear, Network, quantize_weight


def random_layer(layer: Layer, act_bits: int, weight_bits: int, seed: int = 0) -> tuple[Network, np.ndarray]:
    """The layer as a network of one operation, and an input for it."""
    generator = np.random.default_rng(seed)
    weight = quantize_weight(generator.standard_normal(layer.weight_shape).astype(np.float32), weight_bits)
    grid = Grid(1.0 / (2**act_bits - 1), 0, act_bits)
    x = generator.integers(0, grid.quant_max + 1, layer.stored_input_shape, dtype=np.uint8)
    deviation = float(np.sqrt(np.prod(layer.weight_shape[1:]) / 3))  # of sums of uniform in [0, 1] times Gaussian
    output_grid = Grid(deviation * 6 / (2**act_bits - 1), 2 ** (act_bits - 1), act_bits)
    bias = (generator.standard_normal(layer.weight_shape[0]) * deviation / 4).astype(np.float32)
    name = "layer"
    if layer.is_conv:
        op = Conv(name, INPUT, weight, bias, output_grid, None, layer.stride, layer.padding, layer.groups)
    else:
        op = Linear(name, INPUT, weight, bias, output_grid)
    return Network(layer.name, layer.input_shape, grid, (op,)), x


def without_requantization(network: Network) -> Network:
    """The same layer up to its int32 accumulators."""
    (op,) = network.operations
    return replace(network, operations=(replace(op, grid=None),))
