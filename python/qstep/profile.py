"""Where the time of an integer network goes: what IntegerNetwork.profile returns."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from ._text import table


@dataclass(frozen=True)
class LayerProfile:
    """One node. A product is one code times one weight, as the layer is defined: padded taps count, a kernel's savings do not."""

    name: str
    kind: str
    kernel: str
    shape: tuple[int, ...]  #: of the output
    milliseconds: float  #: median of the runs; 0 where it is done in the step of another node, or is no work at all
    share: float  #: of the time of all layers
    products: int
    gops: float  #: 2 * products in nanoseconds; 0 where there are none
    peak_fraction: (
        float  #: of what the instruction set's best product instruction reaches; sums in int16 and Winograd exceed 1
    )


@dataclass(frozen=True)
class Profile:
    """A table that prints; ``layers`` for programs, ``to_json()`` for files."""

    layers: list[LayerProfile]
    milliseconds: float  #: of a whole run, median
    fastest: float  #: of the fastest run: far from the median where the machine had other work
    repeats: int
    isa: str
    num_threads: int
    peak_gops: float  #: of all threads: one thread's, measured, times their number

    @property
    def gops(self) -> float:
        """Of the whole network."""
        return 2e-6 * sum(layer.products for layer in self.layers) / self.milliseconds

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self) | {"gops": self.gops}, indent=2)

    def __str__(self) -> str:
        head = ["layer", "kind", "shape", "kernel", "ms", "share %", "GOPS", "of peak %"]
        rows = [
            [
                layer.name,
                layer.kind,
                "x".join(map(str, layer.shape)),
                layer.kernel,
                f"{layer.milliseconds:.3f}",
                f"{100 * layer.share:.1f}",
                f"{layer.gops:.1f}" if layer.products else None,
                f"{100 * layer.peak_fraction:.0f}" if layer.products else None,
            ]
            for layer in self.layers
        ]
        footer = (
            f"{self.milliseconds:.3f} ms (median of {self.repeats} runs, fastest {self.fastest:.3f}), {self.gops:.1f} GOPS: {100 * self.gops / self.peak_gops:.0f} % of the"
            f" {self.peak_gops:.0f} that {self.isa} reaches on {self.num_threads} thread{'s' * (self.num_threads > 1)}"
        )
        return table(head, rows) + "\n" + footer

    __repr__ = __str__
