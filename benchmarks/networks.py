"""Whole networks at 224x224: qstep at several bit widths and its peers at 8 bits, interleaved in one process on the same images.

    python benchmarks/networks.py all --isa avx2                        # then: python benchmarks/report.py benchmark-results
    python benchmarks/networks.py resnet18 --threads 2 --batch 8

Every row checks that all codes of qstep are those of the reference instruction set. With several threads, qstep on one is measured too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from harness.network import Network
from harness.qstep_engine import QstepProgram, build_network
from harness.session import Session, options
from harness.torchvision_networks import NETWORKS, FloatNetwork
from peers import PEERS

BIT_WIDTHS = [(8, 8), (4, 4), (2, 2)]  #: of activations and weights; first and last layer have 8
PEER_BITS = (8, 8)
BATCHES = (1, 8)
SMOKE_SIZE = 32


def differing_codes(network: Network, x: np.ndarray, threads: int) -> int:
    """Between the instruction set in use and the reference, over all tensors of the network. The images of ``x`` are alike."""
    ours = build_network(network, isa=None, threads=threads).capture([x])
    reference = build_network(network, isa="reference", threads=threads).capture([x[:1]])
    return int(sum((ours[name] != reference[name]).sum() for name in reference))


def measure_network(session: Session, float_network: FloatNetwork, batch: int) -> dict[str, Any]:
    engines: dict[str, dict[str, Any]] = {}
    programs = {}
    x = float_network.images(batch)
    for bits in BIT_WIDTHS:
        network = float_network.quantized(*bits, batch)
        name = f"qstep A{bits[0]}W{bits[1]}"
        differing = differing_codes(network, x, session.threads)
        for threads in {1, session.threads}:
            key = name if threads == session.threads else f"{name}, 1 thread"
            programs[key] = QstepProgram(network, x, threads)
            engines[key] = {"differing": differing, "integer": True}
        if bits == PEER_BITS:
            peers, skipped = session.build_peers(network, x)
            steps = programs[name].output() / network.output.grid.scale
            for peer in session.peers:
                if peer.name in peers:
                    engines[peer.name] = {"integer": peer.is_integer}
                    if peer.is_integer:
                        apart = np.abs(peers[peer.name].output() / network.output.grid.scale - steps)
                        engines[peer.name]["wrong"] = float((apart > 1.5).mean())
            programs |= peers
    times = session.time({name: program.run for name, program in programs.items()})
    for name, engine in engines.items():
        engine["times"] = [round(t, 1) for t in times[name]]
    return {
        "group": float_network.name,
        "batch": batch,
        "threads": session.threads,
        "engines": engines,
        "skipped": skipped,
    }


def rows(
    session: Session, names: tuple[str, ...], batches: tuple[int, ...]
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    networks: dict[str, FloatNetwork] = {}

    def measure(name: str, batch: int) -> dict[str, Any]:
        if name not in networks:
            networks[name] = FloatNetwork(name, SMOKE_SIZE if session.arguments.smoke else 224)
        return measure_network(session, networks[name], batch)

    for batch in batches:
        for name in names:
            yield f"{name}, batch {batch}, threads {session.threads}", lambda n=name, b=batch: measure(n, b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=(*NETWORKS, "all"))
    parser.add_argument("--batch", type=int, choices=BATCHES, help="default: 1 and 8")
    arguments = options(parser)
    session = Session(arguments, PEERS)
    names = NETWORKS if arguments.network == "all" else (arguments.network,)
    batches = (1,) if arguments.smoke else (arguments.batch,) if arguments.batch else BATCHES
    session.measure("networks", rows(session, names, batches))
    session.finish()


if __name__ == "__main__":
    main()
