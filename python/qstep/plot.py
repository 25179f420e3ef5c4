"""Pictures of learned grids. Needs matplotlib (``pip install qstep[plot]``)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, fx

from . import nn as qnn


@torch.no_grad()
def plot_grids(
    model: fx.GraphModule, x: Tensor, path: str | os.PathLike[str], layers: Sequence[str] | None = None
) -> None:
    """Saves a picture of the codes' real values over histograms of what they stand for, one row per layer: weights, output.

    Args:
        model: a calibrated model of :func:`qstep.prepare`; run once on ``x`` in ``eval()``.
        x: a batch of inputs.
        path: picture file; its ending names the format.
        layers: names of convolution or linear layers; default: the first four that have an output quantizer.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    known = {m.path: m for m in model.modules() if isinstance(m, qnn.AffineLayer) and m.output_quantizer is not None}
    chosen = list(known)[:4] if layers is None else list(layers)
    for name in chosen:
        if name not in known:
            raise ValueError(f"plot_grids: no quantized layer '{name}'; there are {', '.join(known)}")
    reals = _real_outputs(model, [known[name] for name in chosen], x)
    figure, axes = plt.subplots(len(chosen), 2, figsize=(11, 2.3 * len(chosen)), squeeze=False, layout="constrained")
    for row, name in zip(axes, chosen, strict=True):
        layer = known[name]
        quantized = layer._quantized_weight(layer._frozen_affine()[0])
        codes = torch.arange(layer.weight_quantizer.quant_min, layer.weight_quantizer.quant_max + 1)
        weight_grid = (codes - quantized.zero_point.reshape(-1)[0]) * quantized.scale.reshape(-1)[0]
        weight = layer.weight if not layer.fold else quantized.values
        _draw(
            row[0],
            weight.flatten().numpy(),
            weight_grid.numpy(),
            f"{name}: weights, {layer.weight_quantizer.bit_width} bits",
        )
        output = layer.output_quantizer
        assert output is not None
        levels = torch.arange(output.quant_max - output.quant_min + 1, dtype=torch.uint8)
        _draw(row[1], reals[name].numpy(), output.decode(levels).numpy(), f"{name}: output, {output.bit_width} bits")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _real_outputs(model: fx.GraphModule, layers: Sequence[qnn.AffineLayer], x: Tensor) -> dict[str, Tensor]:
    """Values that reach the output quantizers in the training forward pass with frozen statistics."""
    seen: dict[str, Tensor] = {}
    handles = [
        layer.output_quantizer.register_forward_pre_hook(  # type: ignore[union-attr]
            lambda _, args, name=layer.path: seen.__setitem__(name, args[0].detach().flatten().cpu())
        )
        for layer in layers
    ]
    training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            model(x)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return seen


def _draw(axis, values: np.ndarray, grid: np.ndarray, title: str) -> None:  # type: ignore[no-untyped-def]
    axis.hist(values, bins=120, color="#9db8d9", log=True)
    for level in grid:
        axis.axvline(
            level, color="#c0392b", linewidth=0.9 if len(grid) <= 32 else 0.25, alpha=0.9 if len(grid) <= 32 else 0.35
        )
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=7)
