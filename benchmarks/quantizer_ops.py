"""Time of the fake quantizers, forward plus backward, against the same formula elsewhere.

    python benchmarks/quantizer_ops.py [--sizes 1 16] [--threads 1 2] [--seconds 4]

Prints Markdown tables. Everything in a table is timed in one interleaved run: one call of each contender after the other, again and
again, so that a slow moment of the machine hits all of them. The figure is the least time, which other programs disturb least.
Contenders:

* ``qstep``: torch.ops.qstep.lsq_plus, gradients of x, scale and offset;
* ``compiled function``: the formula and its gradients written out in torch, as a torch.autograd.Function under torch.compile;
* ``compiled autograd``: the usual straight-through idiom under torch.compile, gradients by autograd;
* ``torch learnable``: torch._fake_quantize_learnable_per_tensor_affine, whose formula is near (an integer zero point);
* ``clone``: x.clone(), one read and one write of x; forward and backward of a fake quantizer move 2.5 times that.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

import qstep  # noqa: F401  (registers torch.ops.qstep)

QUANT_MIN, QUANT_MAX = 0, 15
GRAD_SCALE = 0.01


class LsqPlusFormula(torch.autograd.Function):
    """LSQ+ with its gradients written out in torch operations."""

    @staticmethod
    def forward(ctx, x, scale, offset):
        ctx.save_for_backward(x, scale, offset)
        return torch.round(torch.clamp((x - offset) / scale, QUANT_MIN, QUANT_MAX)) * scale + offset

    @staticmethod
    def backward(ctx, grad):
        x, scale, offset = ctx.saved_tensors
        v = (x - offset) / scale
        below, above = v <= QUANT_MIN, v >= QUANT_MAX
        clipped = below | above
        derivative = torch.where(below, QUANT_MIN, torch.where(above, QUANT_MAX, torch.round(v) - v))
        grad_scale = (grad * derivative).sum() * GRAD_SCALE
        grad_offset = torch.where(clipped, grad, 0.0).sum() * GRAD_SCALE
        return torch.where(clipped, 0.0, grad), grad_scale, grad_offset


def straight_through(x, scale, offset):
    """LSQ+ as most training scripts write it: round and gradient scaling by detached differences."""
    scale = (scale - scale * GRAD_SCALE).detach() + scale * GRAD_SCALE
    offset = (offset - offset * GRAD_SCALE).detach() + offset * GRAD_SCALE
    v = torch.clamp((x - offset) / scale, QUANT_MIN, QUANT_MAX)
    return ((torch.round(v) - v).detach() + v) * scale + offset


def contenders(x: torch.Tensor) -> dict[str, Callable[[], object]]:
    scale = torch.tensor(0.2, requires_grad=True)
    offset = torch.tensor(-0.3, requires_grad=True)
    scale_1d = torch.tensor([0.2], requires_grad=True)
    zero_point = torch.tensor([1.0], requires_grad=True)
    grad = torch.randn_like(x)

    def lsq_plus():
        return torch.ops.qstep.lsq_plus(
            x, scale, offset, quant_min=QUANT_MIN, quant_max=QUANT_MAX, grad_scale=GRAD_SCALE
        )

    def learnable():
        return torch._fake_quantize_learnable_per_tensor_affine(
            x, scale_1d, zero_point, QUANT_MIN, QUANT_MAX, GRAD_SCALE
        )

    compiled_function = torch.compile(lambda: LsqPlusFormula.apply(x, scale, offset))
    compiled_autograd = torch.compile(lambda: straight_through(x, scale, offset))

    def with_gradients(forward, *parameters):
        return lambda: torch.autograd.grad(forward(), (x, *parameters), grad)

    return {
        "qstep": with_gradients(lsq_plus, scale, offset),
        "compiled function": with_gradients(compiled_function, scale, offset),
        "compiled autograd": with_gradients(compiled_autograd, scale, offset),
        "torch learnable": with_gradients(learnable, scale_1d, zero_point),
        "clone": lambda: x.detach().clone(),
    }


def least_times(functions: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    for function in functions.values():  # compile, warm up
        function()
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["qstep"]) < 5:
        for name, function in functions.items():
            start = time.perf_counter()
            result = function()
            times[name].append(time.perf_counter() - start)
            del result
    return {name: min(values) for name, values in times.items()}


def cpu_name() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16], help="millions of float32 elements")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=4.0, help="measuring time per table row")
    arguments = parser.parse_args()

    print(f"LSQ+ per tensor, float32, forward plus backward. {cpu_name()}, torch {torch.__version__}.")
    print("Threads set with torch.set_num_threads. Least milliseconds; in brackets the time relative to qstep.\n")
    header = None
    for threads in arguments.threads:
        for millions in arguments.sizes:
            torch.set_num_threads(threads)
            torch._dynamo.reset()  # compiled code fixes its number of threads
            torch.manual_seed(0)
            x = torch.randn(millions << 20, requires_grad=True)
            least = least_times(contenders(x), arguments.seconds)
            if header is None:
                header = ["elements", "threads", *least]
                print("| " + " | ".join(header) + " |")
                print("|" + "---|" * len(header))
            cells = [f"{1e3 * value:.2f} ({value / least['qstep']:.2f}x)" for value in least.values()]
            print(f"| {millions}M | {threads} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
