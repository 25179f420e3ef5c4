"""Figures of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from .goals import GOALS, ONNXRUNTIME
from .tables import Row, engine_names, geometric_mean, row_speed

COLOURS = {"A8W8": "tab:blue", "A8W7": "tab:cyan", "A8W4": "tab:green", "A4W4": "tab:orange", "A2W2": "tab:red"}
GROUPS = ("3x3 stride 1", "direct", "stem", "depthwise", "vector-matrix", "matrix-matrix")
SETTINGS = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "qstep",
    "svg.fonttype": "none",
}


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def plot_layers(rows_by_mode: dict[str, Sequence[Row]], path: Path) -> None:
    """Each layer's speed relative to onnxruntime, by class and bit width; a bar for the geometric mean, a black triangle for the goal."""
    with plt.rc_context(SETTINGS):
        figure, panels = plt.subplots(len(rows_by_mode), 1, figsize=(9, 3.2 * len(rows_by_mode)), squeeze=False)
        for panel, (mode, rows) in zip(panels[:, 0], rows_by_mode.items(), strict=True):
            groups = [group for group in GROUPS if any(row["group"] == group for row in rows)]
            goals = {(g.group, g.engine): g.ratio for g in GOALS[mode] if g.against == ONNXRUNTIME}
            for at, group in enumerate(groups):
                for shift, (bits, colour) in enumerate(COLOURS.items()):
                    ratios = [
                        r[0]
                        for row in rows
                        if row["group"] == group and (r := row_speed(row, f"qstep {bits}", ONNXRUNTIME))
                    ]
                    if not ratios:
                        continue
                    x = at + (shift - 2) * 0.15
                    panel.plot([x] * len(ratios), ratios, "o", color=colour, markersize=3, alpha=0.5)
                    panel.plot(
                        [x - 0.06, x + 0.06],
                        [geometric_mean(ratios)] * 2,
                        color=colour,
                        linewidth=2,
                        label=bits if at == 0 else None,
                    )
                    if goal := goals.get((group, f"qstep {bits}")):
                        panel.plot(x, goal, marker=9, color="black", markersize=5, linestyle="none", zorder=3)
            panel.set_xticks(range(len(groups)), groups)
            panel.set_yscale("log", base=2)
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            panel.axhline(1, color="gray", linewidth=0.8)
            panel.set_ylabel("times as fast as\nonnxruntime int8")
            panel.set_title(f"{mode}, 1 thread", loc="left")
        panels[0, 0].legend(ncols=len(COLOURS), frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
        figure.tight_layout()
        _save(figure, path)


def plot_networks(rows_by_mode: dict[str, Sequence[Row]], path: Path) -> None:
    """Median time of every engine for an image, batch 1, 1 thread."""
    with plt.rc_context(SETTINGS):
        figure, panels = plt.subplots(len(rows_by_mode), 3, figsize=(9, 2.6 * len(rows_by_mode)), squeeze=False)
        for line, (mode, rows) in zip(panels, rows_by_mode.items(), strict=True):
            shown = [row for row in rows if row["batch"] == 1 and row["threads"] == 1]
            names = engine_names(shown)[::-1]
            colours = [COLOURS.get(name.removeprefix("qstep "), "lightgray") for name in names]
            for panel in line:
                panel.set_visible(False)
            for panel, row in zip(line, shown, strict=False):
                times = [row["engines"].get(name, {}).get("times", [0]) for name in names]
                panel.set_visible(True)
                panel.barh(names, [np.median(t) / 1000 for t in times], color=colours)
                panel.set_title(f"{row['group']}, {mode}, ms", loc="left")
                if panel is not line[0]:
                    panel.set_yticks([])
        figure.tight_layout()
        _save(figure, path)


def plot_scale(rows_by_mode: dict[str, Sequence[Row]], path: Path) -> None:
    """Time against work, one line per series; gray: time in proportion to work."""
    with plt.rc_context(SETTINGS):
        figure, panels = plt.subplots(len(rows_by_mode), 2, figsize=(9, 4 * len(rows_by_mode)), squeeze=False)
        for line, (mode, rows) in zip(panels, rows_by_mode.items(), strict=True):
            for panel, name in zip(line, engine_names(rows), strict=False):
                for group in dict.fromkeys(row["group"] for row in rows):
                    points = sorted(
                        (row["products"], np.median(row["engines"][name]["times"]))
                        for row in rows
                        if row["group"] == group
                    )
                    panel.loglog(*zip(*points, strict=True), "o-", markersize=3, linewidth=1, label=group)
                low, high = panel.get_xlim()
                for rate in (10, 100):
                    panel.plot([low, high], [low / rate / 1000, high / rate / 1000], color="gray", linewidth=0.6)
                    panel.annotate(f"{rate} GMAC/s", (high, high / rate / 1000), fontsize=7, color="gray")
                panel.set_xlabel("products")
                panel.set_ylabel("us")
                panel.set_title(f"{name}, {mode}, 1 thread", loc="left")
            line[0].legend(fontsize=7, frameon=False)
        figure.tight_layout()
        _save(figure, path)
