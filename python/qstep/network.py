"""The integer network in Python: runs, saves and loads without torch doing any arithmetic."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import _C
from .profile import LayerProfile, Profile


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that a network and a run of it take. Runs at the same time (in several threads) have an arena each."""

    arena: int  #: of one run: for activations and scratch together
    activations: int  #: the most that are alive at once
    scratch: int  #: the most that one step needs, of all its threads
    weights: int  #: as the kernels want them
    codes: int  #: of the weights as a checkpoint stores them, for saving; of no use to a run


@dataclass(frozen=True)
class NodeInfo:
    """One node of the integer graph, for reports."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    weight_bits: int | None
    weight_encoding: str | None  #: "uniform", "power_of_two", "code_book" or "piecewise"
    act_bits: int | None
    scale: float | None
    weight_bytes: int  #: in the checkpoint, with the tables that codes refer to
    kernel: str


class IntegerNetwork:
    """Integers between a float input and a float output.

    Call it with float tensors (on any device; the kernels run on the CPU). Made by :func:`qstep.convert` or :func:`qstep.load`.
    """

    def __init__(self, engine: _C.IntegerNetwork) -> None:
        self._engine = engine

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Runs the network.

        Args:
            inputs: float tensors of the shapes of the float network's inputs; any batch size. NaN is an error, infinities saturate.

        Returns:
            Float32 tensors on the device of the first input: one, or a tuple where the network has several outputs.
        """
        outputs = [torch.from_numpy(o).to(inputs[0].device) for o in self._engine.run([_array(x) for x in inputs])]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def capture(self, *inputs: Tensor) -> dict[str, np.ndarray]:
        """Runs the network and returns every value by the name of the layer that made it: uint8 codes, or int32 accumulators."""
        return self._engine.capture([_array(x) for x in inputs])

    def run_layer(self, name: str, *inputs: np.ndarray) -> np.ndarray:
        """Runs one layer on codes of its inputs (on float32 values, where that is what it takes)."""
        return self._engine.run_node(name, [np.ascontiguousarray(x) for x in inputs])

    def profile(self, *inputs: Tensor, repeats: int = 20) -> Profile:
        """Times every layer.

        Args:
            inputs: as for a call.
            repeats: runs, of which medians are taken; one more before them is not counted.
        """
        measured = self._engine.profile([_array(x) for x in inputs], repeats)
        total = sum(node["seconds"] for node in measured["nodes"])
        layers = [
            LayerProfile(
                name=node["name"],
                kind=node["kind"],
                kernel=node["kernel"],
                shape=node["shape"],
                milliseconds=1e3 * node["seconds"],
                share=node["seconds"] / total if total else 0.0,
                products=node["products"],
                gops=(gops := 2e-9 * node["products"] / node["seconds"] if node["seconds"] else 0.0),
                peak_fraction=0.5e9 * gops / measured["peak"],
            )
            for node in measured["nodes"]
        ]
        return Profile(
            layers=layers,
            milliseconds=1e3 * measured["seconds"],
            fastest=1e3 * measured["fastest"],
            repeats=repeats,
            isa=self.isa,
            num_threads=self.num_threads,
            peak_gops=2e-9 * measured["peak"],
        )

    def memory(self, *input_shapes: Sequence[int]) -> MemoryUse:
        """What a run with inputs of these shapes takes; default: those seen when the network was converted."""
        return MemoryUse(**self._engine.memory(input_shapes or self.input_shapes))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the checkpoint (``docs/format.md``): all of it or, on an error, nothing; an older file stays whole."""
        self._engine.save(os.fspath(path))

    @property
    def nodes(self) -> list[NodeInfo]:
        return [NodeInfo(**node) for node in self._engine.nodes()]

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """Shapes seen when the network was converted; dimension 0 is the batch."""
        return [tuple(s) for s in self._engine.input_shapes()]

    @property
    def isa(self) -> str:
        """Name of the instruction set that its kernels use."""
        return self._engine.isa()

    @property
    def num_threads(self) -> int:
        return self._engine.num_threads()

    def with_options(self, *, isa: str | None = None, num_threads: int | None = None) -> IntegerNetwork:
        """The same network on another instruction set (see :func:`qstep.available_isas`) or number of threads."""
        return IntegerNetwork(
            _C.IntegerNetwork(
                self._engine.graph(),
                isa=isa or self.isa,
                num_threads=self.num_threads if num_threads is None else num_threads,
            )
        )

    def __repr__(self) -> str:
        return f"IntegerNetwork({len(self.nodes)} nodes, {self.isa}, {self.num_threads} threads)"

    def __reduce__(self) -> tuple[object, tuple[bytes, str, int]]:
        return _from_bytes, (self._engine.graph().to_bytes(), self.isa, self.num_threads)


def _from_bytes(data: bytes, isa: str, num_threads: int) -> IntegerNetwork:
    return IntegerNetwork(_C.IntegerNetwork(_C.Graph.from_bytes(data), isa=isa, num_threads=num_threads))


def _array(x: Tensor) -> np.ndarray:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(
            f"IntegerNetwork: inputs must be float tensors, got {x.dtype if isinstance(x, Tensor) else type(x).__name__}"
        )
    return x.detach().to("cpu", torch.float32).contiguous().numpy()


def load(path: str | os.PathLike[str], *, isa: str | None = None, num_threads: int | None = None) -> IntegerNetwork:
    """Reads a checkpoint.

    Args:
        path: a file that :meth:`IntegerNetwork.save` wrote.
        isa: instruction set by name; default: the best the CPU has.
        num_threads: default: the number of cores.

    Raises:
        qstep.Error: the file cannot be opened, is damaged, or is of a newer format; the message names the field.
    """
    return IntegerNetwork(_C.IntegerNetwork(_C.Graph.load(os.fspath(path)), isa=isa, num_threads=num_threads))


def available_isas() -> Sequence[str]:
    """Instruction sets that this build has and this CPU runs."""
    return _C.available_isas()
