"""quantize_post_training: from a trained float network to one that converts, without training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from .calibration import calibrate, freeze_batch_norm, freeze_ranges, inputs_of
from .config import QConfig
from .prepare import prepare


def quantize_post_training(
    model: nn.Module, config: QConfig, loader: Iterable[Any], *, batches: int = 8, progress: bool = True
) -> fx.GraphModule:
    """Prepares and calibrates a trained network and fixes everything that calibration found.

    Batch norm uses its moving statistics. Works with the configuration of any method: :meth:`QConfig.pwlq` is made for it,
    :meth:`QConfig.iao` is the usual uniform quantization to compare with.

    Args:
        model: trained float network; left as it was.
        config: methods and bit widths.
        loader: yields tensors, or tuples whose first entry is the network's input; its first batch is also what the network is traced
            with. Inputs as in use: same size, same normalisation.
        batches: number of batches to calibrate with. PWLQ's paper takes 512 images.
        progress: show a progress bar.

    Returns:
        The prepared network in ``eval()`` mode, for :func:`qstep.convert`, or for training on top.

    Raises:
        ValueError: the loader gave no batch.

    >>> model = qstep.quantize_post_training(network, qstep.QConfig.pwlq(4, 8), loader)  # doctest: +SKIP
    >>> qstep.convert(model).save("network.safetensors")  # doctest: +SKIP
    """
    iterator = iter(loader)
    first = next(iterator, None)
    if first is None:
        raise ValueError("quantize_post_training: the loader gave no batch")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    prepared = prepare(model, config, example_inputs=inputs_of(first, device, "quantize_post_training"))
    calibrate(prepared, itertools.chain([first], iterator), batches, progress=progress)
    freeze_batch_norm(prepared)
    freeze_ranges(prepared)
    return prepared.eval()
