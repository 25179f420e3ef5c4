"""One table of all runs of cifar10.py, as Markdown and CSV, and a picture of accuracy against bits.

The difference to the float run is paired: it counts on which test pictures exactly one of the two networks is right, so its 95 % interval is
narrower than that of either accuracy. It covers the choice of test pictures, not that of the training's seed.

    python examples/cifar10_table.py runs --out results
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from cifar10_data import MARGIN

NORMAL_95 = 1.96
COLUMNS = (
    "run", "method", "weight bits", "act bits", "epochs", "seed", "trained %", "integer %", "differing logits",
    "drop", "paired difference", "95 % interval", "bytes",
)  # fmt: skip


def read(folder: Path) -> list[dict[str, Any]]:
    runs = []
    for path in sorted(folder.glob("*/result.json")):
        run = json.loads(path.read_text())
        run["correct"] = np.load(path.with_name("correct.npz"))["correct"]
        runs.append(run)
    return runs


def label(run: dict[str, Any]) -> str:
    """Name of the method with what sets this run apart."""
    parts = [run["method"]]
    if run["activation"] != "relu":
        parts.append(run["activation"])
    if run["epochs"] == 0:
        parts.append("not trained")
    if run["method"] == "inq":
        parts.append(run["strategy"])
    if run["learning_rate"] is not None:
        parts.append(f"learning rate {run['learning_rate']}")
    if run.get("margin", MARGIN) != MARGIN:
        parts.append(f"moved by {run['margin']} pixels")
    if run.get("edges"):
        parts.append("first and last layer by IAO")
    if run.get("teacher"):
        parts.append(f"teacher, features {run.get('features', 0):g}")
    return ", ".join([*parts, *(f"{k}={v}" for k, v in run["option"].items())])


def reference_of(run: dict[str, Any], runs: list[dict[str, Any]], name: str | None) -> dict[str, Any] | None:
    """The float run to compare with: the one named, or one of the same network, of the same seed and with the default rate if there is one.

    None for that run itself.
    """
    if name is not None:
        same = [r for r in runs if r["name"] == name]
    else:
        same = [r for r in runs if r["method"] == "float" and r["activation"] == run["activation"]]
    best = min(same, key=lambda r: (r["seed"] != run["seed"], r["learning_rate"] is not None, r["seed"]), default=None)
    return None if best is run else best


def paired_difference(run: dict[str, Any], reference: dict[str, Any]) -> tuple[float, float]:
    """Mean over the test pictures of right (1) or wrong (0) less the reference's, and half its 95 % interval, in points."""
    difference = run["correct"].astype(float) - reference["correct"].astype(float)
    return 100 * difference.mean(), 100 * NORMAL_95 * difference.std(ddof=1) / len(difference) ** 0.5


def row(run: dict[str, Any], reference: dict[str, Any] | None) -> list[str]:
    integer = run.get("integer_accuracy")
    cells = [
        run["name"],
        label(run),
        "32" if run["weight_bits"] is None else str(run["weight_bits"]),
        "32" if run["act_bits"] is None else str(run["act_bits"]),
        str(run["epochs"]),
        str(run["seed"]),
        f"{run['accuracy']:.2f}",
        "" if integer is None else f"{integer:.2f}",
        "" if integer is None else str(run["differing_logits"]),
    ]
    if reference is None:
        return [*cells, "", "", "", str(run.get("bytes", ""))]
    mean, half = paired_difference(run, reference)
    drop = reference["accuracy"] - run["accuracy"]
    return [
        *cells,
        f"{drop:.2f}",
        f"{mean:+.2f}",
        f"[{mean - half:+.2f}, {mean + half:+.2f}]",
        str(run.get("bytes", "")),
    ]


def seeds(runs: list[dict[str, Any]], name: str | None) -> list[str]:
    """A line for each setting that was run with several seeds."""
    drops: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        reference = reference_of(run, runs, name)
        if reference is not None and run["weight_bits"] is not None:
            setting = f"{label(run)}, W{run['weight_bits']}A{run['act_bits']}, {run['epochs']} epochs"
            drops[setting].append(reference["accuracy"] - run["accuracy"])
    return [
        f"- {setting}, {len(d)} seeds: drop {np.mean(d):.2f}, standard deviation {np.std(d, ddof=1):.2f}"
        for setting, d in drops.items()
        if len(d) > 1
    ]


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """A point for each run of the ReLU network; lines through the best settings of a method at each width of its weights."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "cifar10"  # the same runs give the same file
    from matplotlib import pyplot as plt

    styles = {"trained": "--", "taught": "-", "not trained": ":"}
    relu = [run for run in runs if run["activation"] == "relu"]
    colors = {method: f"C{i}" for i, method in enumerate(sorted({r["method"] for r in relu} - {"float"}))}
    series: dict[tuple[str, str], dict[int, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for run in relu:
        if run["method"] != "float":
            how = "not trained" if run["epochs"] == 0 else "taught" if run.get("teacher") else "trained"
            series[run["method"], how][run["weight_bits"]][label(run)].append(run["accuracy"])

    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    accuracies = [run["accuracy"] for run in relu if run["method"] == "float" and run["learning_rate"] is None]
    if accuracies:
        axis.axhline(float(np.mean(accuracies)), color="black", linewidth=1, label=f"float, {len(accuracies)} seeds")
    for (method, how), by_bits in sorted(series.items()):
        bits = sorted(by_bits)
        best = [max(float(np.mean(a)) for a in by_bits[b].values()) for b in bits]
        axis.plot(bits, best, styles[how], color=colors[method], label=f"{method}, {how}")
        points = [(b, a) for b in bits for setting in by_bits[b].values() for a in setting]
        axis.plot(*zip(*points, strict=True), "o", markersize=4, alpha=0.6, color=colors[method])
    axis.set_xlabel("bits of the weights")
    axis.set_ylabel("test accuracy, %")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="--out of cifar10.py")
    parser.add_argument("--out", type=Path, help="folder of results.md, results.csv and results.svg; default: runs")
    parser.add_argument("--reference", help="name of the float run; default: that of the same seed, or seed 0")
    arguments = parser.parse_args()
    out = arguments.out or arguments.runs
    out.mkdir(parents=True, exist_ok=True)
    runs = read(arguments.runs)
    if not runs:
        raise SystemExit(f"{arguments.runs}: no run has a result.json")
    runs.sort(
        key=lambda r: (r["activation"], r["method"] != "float", r["method"], -(r["weight_bits"] or 32), r["name"])
    )
    names = [run["name"] for run in runs]
    if arguments.reference is not None and arguments.reference not in names:
        raise SystemExit(f"--reference {arguments.reference}: no such run; there are {', '.join(names)}")
    rows = [row(run, reference_of(run, runs, arguments.reference)) for run in runs]
    lines = ["# Runs of cifar10.py", "", "Written by `cifar10_table.py`.", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows]
    markdown = "\n".join([*lines, "", *seeds(runs, arguments.reference)]).rstrip() + "\n"
    (out / "results.md").write_text(markdown)
    with (out / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    plot(runs, out / "results.svg")
    print(markdown)


if __name__ == "__main__":
    main()
