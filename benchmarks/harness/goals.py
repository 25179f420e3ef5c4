"""What we want: how many times as fast as whom."""

from __future__ import annotations

from dataclasses import dataclass

ONNXRUNTIME = "onnxruntime int8"
ONNXRUNTIME_FLOAT = "onnxruntime float32"
BEST_PEER = "best int8 peer"
SMALLEST_PRODUCTS = 1_000_000  #: layers with fewer are measured and do not count


@dataclass(frozen=True)
class Goal:
    """``engine`` at least ``ratio`` times as fast as ``against``: an engine, or BEST_PEER. Over several rows: their geometric mean."""

    group: str  #: class of layers, or network
    engine: str
    against: str
    ratio: float
    rows: str = ""  #: only rows with this in their name


def _layers(group: str, against: str, **ratios: float) -> list[Goal]:
    return [Goal(group, f"qstep {bits}", against, ratio) for bits, ratio in ratios.items()]


def _networks() -> list[Goal]:
    goals = []
    for threads in (1, 2):
        for batch in (1, 8):
            rows = f"batch {batch}, threads {threads}"
            goals += [
                Goal("resnet18", "qstep A8W8", BEST_PEER, 1.2, rows),
                Goal("resnet18", "qstep A4W4", BEST_PEER, 1.9, rows),
                Goal("resnet18", "qstep A4W4", ONNXRUNTIME_FLOAT, 3.7, rows),
                Goal("resnet50", "qstep A4W4", BEST_PEER, 1.5, rows),
                Goal("mobilenet_v2", "qstep A8W8", BEST_PEER, 1.2, rows),
            ]
    for network in ("resnet18", "resnet50", "mobilenet_v2"):
        for bits in ("A8W8", "A4W4"):
            for batch in (1, 8):
                rows = f"batch {batch}, threads 2"
                goals.append(Goal(network, f"qstep {bits}", f"qstep {bits}, 1 thread", 1.8, rows))
    return goals


GOALS = {
    "avx2": [
        *_layers("3x3 stride 1", ONNXRUNTIME, A8W8=1.5, A8W4=1.5, A4W4=2.7, A2W2=3.0),
        *_layers("direct", ONNXRUNTIME, A8W8=0.85, A8W7=1.05, A8W4=1.5, A4W4=1.5, A2W2=2.0),
        *_layers("depthwise", ONNXRUNTIME, A8W8=3.0),
        *_layers("stem", BEST_PEER, A8W8=1.3),
        *_layers("vector-matrix", ONNXRUNTIME, A8W8=1.0),
        *_layers("vector-matrix", "qstep A8W8", A8W4=1.6),
        *_networks(),
    ],
    "native": [
        *(
            Goal(group, "qstep A8W8", BEST_PEER, 1.0)
            for group in ("3x3 stride 1", "direct", "depthwise", "stem", "vector-matrix", "matrix-matrix")
        ),
        *_networks(),
    ],
}
