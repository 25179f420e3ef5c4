"""How time and memory grow: batches, images, channels and groups, of single layers of qstep.

    python benchmarks/scale.py --isa avx2             # then: python benchmarks/report.py benchmark-results

Time should grow as the work does; memory should stay within the activations that are alive, the weights as kernels want them, and scratch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from harness.exact import accumulators
from harness.layers import Layer
from harness.memory import resident_growth
from harness.qstep_engine import QstepProgram
from harness.random_layer import random_layer
from harness.session import Session, options

BIT_WIDTHS = [(8, 8), (4, 4)]  #: of activations and weights
MOST_CHECKED = 300_000_000  #: products of a layer that is compared with the reference


def _powers(last: int) -> list[int]:
    return [2**i for i in range(last.bit_length())]


SERIES: dict[str, dict[int, Layer]] = {
    "batch, 3x3 64-64 @28": {n: Layer("conv", 64, 64, 3, 28, rows=n) for n in _powers(64)},
    "batch, depthwise 3x3 96 @56": {n: Layer("conv", 96, 96, 3, 56, groups=96, rows=n) for n in _powers(64)},
    "image, 3x3 16-16": {s: Layer("conv", 16, 16, 3, s) for s in _powers(1024)},
    "image, 7x7/2 3-32": {s: Layer("conv", 3, 32, 7, s, 2) for s in _powers(1024)},
    "channels, 1x1 @14": {c: Layer("conv", c, c, 1, 14) for c in _powers(4096)},
    "channels, 3x3 @7": {c: Layer("conv", c, c, 3, 7) for c in _powers(1024)},
    "channels, depthwise 3x3 @14": {c: Layer("conv", c, c, 3, 14, groups=c) for c in _powers(4096)},
    "channels, one vector": {c: Layer("gemm", c, c) for c in _powers(4096)},
    "groups, 3x3 256-256 @14": {g: Layer("conv", 256, 256, 3, 14, groups=g) for g in _powers(256)},
}
SMOKE_SERIES = {"image, 3x3 16-16": {s: Layer("conv", 16, 16, 3, s) for s in (1, 2, 4)}}


def measure_point(session: Session, layer: Layer, largest: bool) -> dict[str, Any]:
    engines: dict[str, dict[str, Any]] = {}
    programs = {}
    for bits in BIT_WIDTHS:
        network, x = random_layer(layer, *bits)
        name = f"qstep A{bits[0]}W{bits[1]}"
        programs[name] = program = QstepProgram(network, x, session.threads)
        engines[name] = {"kernel": program.kernel, "memory": program.memory(), "integer": True}
        if layer.products <= MOST_CHECKED:
            ours, reference = (accumulators(network, x, isa, session.threads) for isa in (None, "reference"))
            engines[name]["differing"] = int((ours != reference).sum())
        if largest:
            engines[name]["resident"] = resident_growth(program.graph(), x.shape, session.threads)
    for name, times in session.time({name: program.run for name, program in programs.items()}).items():
        engines[name]["times"] = [round(t, 3) for t in times]
    return {"products": layer.products, "engines": engines}


def rows(session: Session) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for group, layers in (SMOKE_SERIES if session.arguments.smoke else SERIES).items():
        for value, layer in layers.items():
            largest = layer.products == max(other.products for other in layers.values())
            row = {"group": group, "value": value}
            yield f"{group}, {value}", lambda r=row, a=(layer, largest): r | measure_point(session, *a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    session = Session(options(parser), peers=[])
    session.measure("scale", rows(session))
    session.finish()


if __name__ == "__main__":
    main()
