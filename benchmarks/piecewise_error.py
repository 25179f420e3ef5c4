"""Squared error of uniform, piecewise (PWLQ) and code-book weights, per output channel.

    python benchmarks/piecewise_error.py [--bits 3 4 6] [--network resnet18] [--elements 2304] [--channels 64]

Prints a Markdown table. Every figure is the mean squared error over the mean square of the weights, in decibels (-6 dB: a quarter of the
error). Columns: uniform with b bits and with b + 1 (as many bits as PWLQ stores: b and one for the piece), then PWLQ with one, two and
three breakpoints as pieces and as a code book, whose steps are multiples of one unit. Rows: samples of densities, and the convolutions of
a torchvision network with its trained weights (which torchvision loads, from its cache or from the net).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable

import torch
from torch import Tensor

import qstep

ops = torch.ops.qstep


def samples(channels: int, elements: int) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    gaussian = torch.randn(channels, elements, generator=generator)
    exponential = torch.empty(channels, elements).exponential_(generator=generator)
    student = torch.randn(channels, elements, generator=generator) / (
        torch.randn(5, channels, elements, generator=generator).square().mean(0).sqrt()
    )
    return {
        "Gaussian": [gaussian],
        "Laplace": [exponential * torch.randn(channels, elements, generator=generator).sign()],
        "Student's t, 5 degrees of freedom": [student],
    }


def trained_weights(name: str) -> dict[str, list[Tensor]]:
    """The network's convolutions and linear layers, batch norm folded; nothing where the weights cannot be had."""
    try:
        import torchvision

        model = torchvision.models.get_model(name, weights="DEFAULT").eval()
    except (ImportError, OSError, ValueError) as error:
        print(f"{name} left out: {error}\n")
        return {}
    config = qstep.QConfig.pwlq(8, 8)
    prepared = qstep.prepare(model, config, example_inputs=(torch.zeros(1, 3, 224, 224),))
    folded = []
    for layer in prepared.modules():
        if isinstance(layer, qstep.nn.AffineLayer):
            factor = 1.0
            if layer.batch_norm is not None:
                norm = layer.batch_norm
                factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                factor = factor.reshape(-1, *[1] * (layer.weight.dim() - 1))
            folded.append((layer.weight * factor).detach())
    return {name: folded}


def uniform(w: Tensor, bits: int) -> Tensor:
    limit = 2 ** (bits - 1) - 1
    rows = w.flatten(1)
    scale, zero_point = qstep.functional.affine_params(
        rows.amin(1), rows.amax(1), quant_min=-limit, quant_max=limit, symmetric=True
    )
    return qstep.functional.fake_quantize_affine(w, scale, zero_point, quant_min=-limit, quant_max=limit, axis=0)


def decibels(weights: Iterable[tuple[Tensor, Tensor]]) -> str:
    error, power = 0.0, 0.0
    for w, quantized in weights:
        error += (quantized - w).double().square().sum().item()
        power += w.double().square().sum().item()
    return f"{10 * math.log10(error / power):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=[3, 4, 6])
    parser.add_argument("--network", default="none", help="a name that torchvision.models.get_model knows")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--elements", type=int, default=2304)
    parser.add_argument("--estimate", default="gaussian")
    arguments = parser.parse_args()

    rows = samples(arguments.channels, arguments.elements)
    if arguments.network != "none":
        rows |= trained_weights(arguments.network)
    print(
        "| weights | bits | uniform b | uniform b + 1 | PWLQ 1 | code book 1 | PWLQ 2 | code book 2 | PWLQ 3 | code book 3 |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, tensors in rows.items():
        for bits in arguments.bits:
            cells = [decibels((w, uniform(w, bits + extra)) for w in tensors) for extra in (0, 1)]
            for breakpoints in (1, 2, 3):
                options = {"bit_width": bits, "axis": 0, "breakpoints": breakpoints, "estimate": arguments.estimate}
                cells.append(decibels((w, ops.pwlq(w, **options)) for w in tensors))
                cells.append(decibels((w, ops.pwlq_code_book(w, **options)[0]) for w in tensors))
            print(f"| {name} | {bits} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
