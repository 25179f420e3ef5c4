"""calibrate: first values of every scale, offset and range; and the switches of training's later phases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .nn import AffineLayer, Layer
from .quantizers import ActivationQuantizer, F8NetActivation, IaoActivation


def inputs_of(batch: Any, device: torch.device, caller: str) -> tuple[Any, ...]:
    """The network's arguments in a batch of a loader: the batch itself, or all but the label of a (inputs..., label) tuple."""
    if isinstance(batch, Tensor):
        return (batch.to(device),)
    if isinstance(batch, list | tuple) and batch and isinstance(batch[0], Tensor):
        return (batch[0].to(device),)
    raise TypeError(f"{caller}: a batch must be a tensor or a tuple that starts with one, got {type(batch).__name__}")


@torch.no_grad()
def calibrate(model: nn.Module, loader: Iterable[Any], batches: int = 8, *, progress: bool = True) -> None:
    """Initialises the quantizers from the weights and from a few batches run through the float network.

    Batch norm uses its moving statistics and does not update them.

    Args:
        model: what :func:`qstep.prepare` returned; changed in place.
        loader: yields tensors, or tuples whose first entry is the network's input.
        batches: number of batches to look at.
        progress: show a progress bar.
    """
    layers = [m for m in model.modules() if isinstance(m, Layer)]
    if not layers:
        raise TypeError("calibrate: the model has no quantized layer; it must come from qstep.prepare")
    if batches < 1:
        raise ValueError(f"calibrate: batches must be at least 1, got {batches}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    quantizers = [m for m in model.modules() if isinstance(m, ActivationQuantizer)]
    training = {m: m.training for m in model.modules()}
    seen = 0
    for layer in layers:
        if isinstance(layer, AffineLayer):
            layer.initialize_weight()
    try:
        model.eval()
        for layer in layers:
            layer.calibrating = True
        for quantizer in quantizers:
            quantizer.start_calibration()
        for batch, _ in zip(
            loader, tqdm(range(batches), desc="calibrate", unit="batch", disable=not progress), strict=False
        ):
            model(*inputs_of(batch, device, "calibrate"))
            seen += 1
        if seen == 0:
            raise ValueError("calibrate: the loader gave no batch")
        for quantizer in quantizers:
            if quantizer.calibrating:  # one that follows another finishes that first
                quantizer.finish_calibration()
    finally:
        for layer in layers:
            layer.calibrating = False
        for quantizer in quantizers:
            quantizer.cancel_calibration()
        for module, mode in training.items():
            module.training = mode


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, loader: Iterable[Any], batches: int = 50, *, progress: bool = True) -> None:
    """Replaces the moving statistics of every batch norm by averages over a few batches, with everything else at rest.

    At low bit widths the moving averages of training lag behind weights that jump between codes. Here each batch goes through the network as
    in training, with the weights, grids and ranges as they are; means and variances of the batches are averaged with equal weight.

    Args:
        model: what :func:`qstep.prepare` returned, calibrated; or any float network. Changed in place, its mode is kept.
        loader: yields tensors, or tuples whose first entry is the network's input; augmented as in training, or not.
        batches: number of batches to average over.
        progress: show a progress bar.
    """
    if batches < 1:
        raise ValueError(f"reestimate_batch_norm: batches must be at least 1, got {batches}")
    moving = {
        m: (m.running_mean, m.running_var)
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None and m.running_var is not None
    }
    before = {m: ([s.clone() for s in state], m.momentum, m.num_batches_tracked) for m, state in moving.items()}
    sums = {m: [torch.zeros_like(s) for s in state] for m, state in moving.items()}
    training = {m: m.training for m in model.modules()}
    frozen = {m: m.batch_norm_frozen for m in model.modules() if isinstance(m, AffineLayer)}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    seen = 0
    try:
        for module in model.modules():  # quantizers observe nothing, dropouts drop nothing
            module.training = module in moving or isinstance(module, Layer)
        for layer in frozen:
            layer.batch_norm_frozen = False
        for norm in moving:
            norm.momentum = 1.0  # moving statistics become those of the batch
            norm.num_batches_tracked = torch.tensor(0)  # these batches do not count
        for batch, _ in zip(
            loader, tqdm(range(batches), desc="batch norm", unit="batch", disable=not progress), strict=False
        ):
            model(*inputs_of(batch, device, "reestimate_batch_norm"))
            seen += 1
            for norm, state in moving.items():
                for total, statistic, old in zip(sums[norm], state, before[norm][0], strict=True):
                    total += statistic
                    statistic.copy_(old)  # folded weights depend on it
        if seen == 0:
            raise ValueError("reestimate_batch_norm: the loader gave no batch")
        for norm, state in moving.items():
            for total, statistic in zip(sums[norm], state, strict=True):
                statistic.copy_(total / seen)
    finally:
        for norm, (_, momentum, count) in before.items():
            norm.momentum, norm.num_batches_tracked = momentum, count
        for layer, was_frozen in frozen.items():
            layer.batch_norm_frozen = was_frozen
        for module, mode in training.items():
            module.training = mode


def freeze_batch_norm(model: nn.Module, frozen: bool = True) -> None:
    """Uses (and stops updating) the moving statistics of every batch norm in training too: IAO's last phase."""
    for module in model.modules():
        if isinstance(module, AffineLayer):
            module.batch_norm_frozen = frozen


def freeze_ranges(model: nn.Module, frozen: bool = True) -> None:
    """Stops the moving averages of activation ranges (IAO) and formats (F8Net)."""
    for module in model.modules():
        if isinstance(module, IaoActivation | F8NetActivation):
            module.freeze(frozen)
