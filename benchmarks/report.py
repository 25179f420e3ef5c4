"""Puts the results of kernels.py, networks.py and scale.py together: Markdown, JSON and figures.

python benchmarks/report.py benchmark-results                     # writes report.md, report.json and figures there
python benchmarks/report.py benchmark-results --into docs/benchmarks.md   # the same into a document, below its marker
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness.plots import plot_layers, plot_networks, plot_scale
from harness.results import read
from harness.tables import (
    Row,
    differing,
    goal_results,
    goal_table,
    markdown,
    scale_table,
    speed_table,
    time_table,
    wrong_table,
)

MARKER = "<!-- What follows is written by benchmarks/report.py. -->"
LAYER_PARTS = ("conv", "depthwise", "gemm")
PARTS = (*LAYER_PARTS, "networks", "scale")
MODES = ("avx2", "native")
MODE_TITLES = {"avx2": "Everybody held to AVX2", "native": "All that the CPU has"}


def machine_table(rows: list[Row]) -> str:
    machine = rows[0]["machine"]
    commits = ", ".join(dict.fromkeys(row["machine"]["commit"] for row in rows))
    counts = {part: sorted({row["machine"]["threads"] for row in rows if row["part"] == part}) for part in PARTS}
    threads = "; ".join(f"{part}: {', '.join(map(str, of_part))}" for part, of_part in counts.items() if of_part)
    versions: dict[str, None] = {}
    skipped: dict[str, str] = {}
    for row in rows:
        versions |= dict.fromkeys(row["machine"]["versions"].values())
        skipped |= row.get("skipped", {})
    lines = [
        ["CPU", f"{machine['cpu']}, {machine['cores']} logical processors"],
        ["qstep", f"{machine['qstep']}, commit {commits}"],
        ["instruction sets of both qstep and the CPU", ", ".join(machine["isas"])],
        ["threads", threads],
        ["peers", ", ".join(versions)],
        ["system", f"{machine['system']}, Python {machine['python']}"],
        ["skipped", "; ".join(f"{name}: {reason}" for name, reason in skipped.items()) or "no peer"],
    ]
    return markdown(["machine", ""], lines)


def of_mode(rows: list[Row], mode: str) -> list[str]:
    parts = [f"## {MODE_TITLES[mode]}", "", f"qstep's instruction set: `{rows[0]['machine']['isa']}`."]
    if goals := goal_results(mode, rows):
        parts += ["### Goals", "", "Bold: reached. Brackets enclose the true median with 95 %.", "", goal_table(goals)]
    for part in (*LAYER_PARTS, "networks"):
        chosen = [row for row in rows if row["part"] == part]
        if chosen:
            parts += [f"### {part}", "", time_table(chosen), "", speed_table(chosen)]
    layers = [row for row in rows if row["part"] in LAYER_PARTS]
    if layers:
        parts += ["### Wrong outputs, single layers", "", wrong_table(layers)]
    networks = [row for row in rows if row["part"] == "networks"]
    if networks:
        parts += ["### Logits more than one step away from qstep's", "", wrong_table(networks)]
    scale = [row for row in rows if row["part"] == "scale"]
    if scale:
        parts += ["### Scale", "", scale_table(scale)]
    return parts


def report(rows: list[Row], figures: list[str]) -> str:
    parts = [machine_table(rows), f"Codes and int32 sums of qstep that differ from the reference: {differing(rows)}."]
    parts += [f"![{figure}]({figure})" for figure in figures]
    for mode in MODES:
        chosen = [row for row in rows if row["machine"]["mode"] == mode]
        if chosen:
            parts += of_mode(chosen, mode)
    return "\n\n".join(part for part in parts if part) + "\n"


def draw(rows: list[Row], folder: Path, prefix: str) -> list[str]:
    figures = []
    plots = {
        "layers": (LAYER_PARTS, plot_layers),
        "networks": (("networks",), plot_networks),
        "scale": (("scale",), plot_scale),
    }
    for name, (parts, plot) in plots.items():
        by_mode: dict[str, list[Row]] = {}
        for row in rows:
            if row["part"] in parts:
                by_mode.setdefault(row["machine"]["mode"], []).append(row)
        if by_mode:
            figures.append(f"{prefix}{name}.svg")
            plot(by_mode, folder / figures[-1])
    return figures


def summary(rows: list[Row]) -> dict[str, Any]:
    modes = {mode: [row for row in rows if row["machine"]["mode"] == mode] for mode in MODES}
    return {
        "differing": differing(rows),
        "goals": {mode: goal_results(mode, chosen) for mode, chosen in modes.items() if chosen},
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, metavar="DIR")
    parser.add_argument("--into", type=Path, metavar="FILE", help="a document with the marker")
    arguments = parser.parse_args()
    rows = read(arguments.results)
    if not rows:
        parser.error(f"{arguments.results} holds no results")
    (arguments.results / "report.json").write_text(json.dumps(summary(rows), indent=1))
    if arguments.into is None:
        target, before, prefix = arguments.results / "report.md", "", ""
    else:
        target, prefix = arguments.into, f"{arguments.into.stem}-"
        before, marker, _ = target.read_text().partition(MARKER)
        if not marker:
            parser.error(f"{target} has no line {MARKER}")
        before += f"{MARKER}\n\n"
    target.write_text(before + report(rows, draw(rows, target.parent, prefix)))
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
