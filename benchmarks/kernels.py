"""Single layers: qstep at several bit widths and its peers, interleaved in one process on the same tensors.

    python benchmarks/kernels.py all --isa avx2       # then: python benchmarks/report.py benchmark-results
    python benchmarks/kernels.py conv --only "3x3 64-64"

Every row checks that qstep's int32 sums and codes are those of the reference instruction set, and counts the peers' outputs that are wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from harness.exact import accumulators, wrong_outputs
from harness.layers import BIT_WIDTHS, LAYERS, SMOKE_LAYERS, Layer
from harness.qstep_engine import QstepProgram, build_network
from harness.random_layer import random_layer
from harness.session import Session, options
from peers import PEERS

PARTS = ("conv", "gemm", "depthwise")
PEER_BITS = (8, 8)


@cache
def peer_calls(session: Session, is_conv: bool) -> dict[str, float]:
    """Microseconds that a peer needs at least for a layer of next to no work."""
    network, x = random_layer(Layer("conv", 16, 16, 1, 1) if is_conv else Layer("gemm", 16, 16), *PEER_BITS)
    programs, _ = session.build_peers(network, x)
    times = session.time({name: program.run for name, program in programs.items()})
    return {name: min(t) for name, t in times.items()}


def measure_layer(session: Session, layer: Layer) -> dict[str, Any]:
    engines: dict[str, dict[str, Any]] = {}
    programs = {}
    for bits in BIT_WIDTHS:
        network, x = random_layer(layer, *bits)
        program = QstepProgram(network, x, session.threads)
        sums = accumulators(network, x, "reference", session.threads)
        codes = build_network(network, isa="reference", threads=session.threads).run([x])[0]
        differing = (accumulators(network, x, None, session.threads) != sums).sum() + (program.output() != codes).sum()
        name = f"qstep A{bits[0]}W{bits[1]}"
        programs[name] = program.run
        programs[f"{name}, call"] = program.call
        engines[name] = {"kernel": program.kernel, "differing": int(differing), "integer": True}
        if bits == PEER_BITS:
            peers, skipped = session.build_peers(network, x)
            for peer in session.peers:
                if peer.name in peers:
                    engines[peer.name] = {"integer": peer.is_integer}
                    if peer.is_integer:
                        engines[peer.name]["wrong"] = wrong_outputs(network, sums, peers[peer.name].output())
            programs |= {peer: program.run for peer, program in peers.items()}
    times = session.time(programs)
    calls = peer_calls(session, layer.is_conv)
    for name, engine in engines.items():
        engine["times"] = [round(t, 3) for t in times[name]]
        engine["call"] = round(calls[name] if name in calls else min(times[f"{name}, call"]), 3)
    return {"group": layer.group, "products": layer.products, "engines": engines, "skipped": skipped}


def rows(session: Session, layers: list[Layer]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for layer in layers:
        yield layer.name, lambda layer=layer: measure_layer(session, layer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*PARTS, "all"))
    arguments = options(parser)
    session = Session(arguments, PEERS)
    layers = SMOKE_LAYERS if arguments.smoke else LAYERS
    for part in PARTS if arguments.part == "all" else (arguments.part,):
        session.measure(part, rows(session, [layer for layer in layers if layer.kind == part]))
    session.finish()


if __name__ == "__main__":
    main()
