"""Command line: ``python -m qstep inspect|run|bench|compare FILE``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from . import Error, IntegerNetwork, __version__, available_isas, load, summary

_EXAMPLES = """\
examples:
  python -m qstep inspect net.safetensors               layers, bit widths, scales, sizes, kernels
  python -m qstep run net.safetensors --input x.npy     run on a float32 array, print or save the result
  python -m qstep bench net.safetensors --threads 1     time, kernel and fraction of the CPU's peak, layer by layer
  python -m qstep compare net.safetensors --isa avx2    codes of one instruction set against the reference, layer by layer
  python -m qstep compare a.safetensors b.safetensors   codes of two networks on one input
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m qstep",
        description="Looks at, runs and compares integer networks.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"qstep {__version__}, kernels: {', '.join(available_isas())}"
    )
    commands = parser.add_subparsers(dest="command", metavar="inspect|run|bench|compare")

    inspect = commands.add_parser("inspect", help="print what each layer is")
    inspect.add_argument("file", metavar="FILE", help="checkpoint")

    run = commands.add_parser("run", help="run on an array or on random numbers")
    run.add_argument("file", metavar="FILE", help="checkpoint")
    run.add_argument("--output", metavar="NPY", help="where to write the result; default: print its shape and start")
    run.add_argument("--repeat", type=int, default=1, metavar="N", help="runs to time (default 1)")

    bench = commands.add_parser("bench", help="time every layer")
    bench.add_argument("file", metavar="FILE", help="checkpoint")
    bench.add_argument("--repeat", type=int, default=20, metavar="N", help="runs to take medians of (default 20)")
    bench.add_argument(
        "--batch", type=int, metavar="N", help="batch size of the random numbers (default: as converted)"
    )
    bench.add_argument("--json", action="store_true", help="print JSON instead of a table")

    compare = commands.add_parser("compare", help="count differing codes, layer by layer")
    compare.add_argument("file", metavar="FILE", help="checkpoint")
    compare.add_argument(
        "other", metavar="OTHER", nargs="?", help="second checkpoint; default: FILE on the reference kernels"
    )

    for command in (run, bench, compare):
        command.add_argument(
            "--input", metavar="NPY", help="float32 array in numpy's format; default: random numbers (seed 0)"
        )
    for command in (inspect, run, bench, compare):
        command.add_argument(
            "--isa", choices=list(available_isas()), help="instruction set (default: the best this CPU has)"
        )
        command.add_argument("--threads", type=int, metavar="N", help="number of threads (default: all cores)")
    return parser


def _inputs(net: IntegerNetwork, path: str | None, batch: int | None = None) -> list[torch.Tensor]:
    if path is not None:
        return [torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32, copy=False))]
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape if batch is None else (batch, *shape[1:]), generator=generator) for shape in net.input_shapes
    ]


def _inspect(net: IntegerNetwork, arguments: argparse.Namespace) -> int:
    print(summary(net))
    return 0


def _run(net: IntegerNetwork, arguments: argparse.Namespace) -> int:
    inputs = _inputs(net, arguments.input)
    times = []
    for _ in range(max(1, arguments.repeat)):
        start = time.perf_counter()
        y = net(*inputs)
        times.append(time.perf_counter() - start)
    outputs = y if isinstance(y, tuple) else (y,)
    for output in outputs:
        print(
            f"output {tuple(output.shape)}, first values {np.array2string(output.flatten()[:8].numpy(), precision=5)}"
        )
    print(
        f"{sorted(times)[len(times) // 2] * 1e3:.3f} ms (median of {len(times)}), {net.isa}, {net.num_threads} threads"
    )
    if arguments.output:
        np.save(arguments.output, outputs[0].numpy())
    return 0


def _bench(net: IntegerNetwork, arguments: argparse.Namespace) -> int:
    profile = net.profile(*_inputs(net, arguments.input, arguments.batch), repeats=arguments.repeat)
    print(profile.to_json() if arguments.json else profile)
    return 0


def _compare(net: IntegerNetwork, arguments: argparse.Namespace) -> int:
    from .compare import Comparison, compare_codes

    other = load(arguments.other) if arguments.other else net.with_options(isa="reference")
    inputs = _inputs(net, arguments.input)
    ours, theirs = net.capture(*inputs), other.capture(*inputs)
    missing = sorted(set(ours) ^ set(theirs))
    if missing:
        raise Error(f"compare: only one of the networks has the layer '{missing[0]}'")
    result = Comparison([compare_codes(name, codes, theirs[name]) for name, codes in ours.items()])
    print(result)
    return 1 if result.differing_codes else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        net = load(arguments.file, isa=arguments.isa, num_threads=arguments.threads)
        return {"inspect": _inspect, "run": _run, "bench": _bench, "compare": _compare}[arguments.command](
            net, arguments
        )
    except (Error, OSError, ValueError) as error:
        print(f"qstep: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
