"""From rows of results to the tables of the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .goals import BEST_PEER, GOALS, SMALLEST_PRODUCTS, Goal
from .timing import speed

Row = dict[str, Any]


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def best_peer(row: Row) -> str | None:
    """The int8 engine, not qstep, with the smallest median."""
    peers = {n: e for n, e in row["engines"].items() if e["integer"] and not n.startswith("qstep")}
    return min(peers, key=lambda name: np.median(working_times(peers[name])), default=None)


def working_times(engine: dict[str, Any]) -> np.ndarray:
    """Without what a call from Python takes, where that was measured; a tenth at least is work."""
    times = np.array(engine["times"])
    return np.maximum(times - engine.get("call", 0.0), times / 10)


def row_speed(row: Row, engine: str, against: str) -> tuple[float, float, float] | None:
    """Times as fast, with its interval; None where one of the two was not measured."""
    other = best_peer(row) if against == BEST_PEER else against
    engines = row["engines"]
    if engine not in engines or other not in engines:
        return None
    return speed(working_times(engines[engine]), working_times(engines[other]))


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def of_goal(goal: Goal, rows: Iterable[Row]) -> list[tuple[str, tuple[float, float, float]]]:
    """Rows that count for a goal, and the speed reached in each, with its interval."""
    reached = []
    for row in rows:
        counts = (
            row["group"] == goal.group
            and goal.rows in row["name"]
            and row.get("products", math.inf) >= SMALLEST_PRODUCTS
        )
        if counts and (ratio := row_speed(row, goal.engine, goal.against)):
            reached.append((row["name"], ratio))
    return reached


def goal_results(mode: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    results = []
    for goal in GOALS[mode]:
        reached = of_goal(goal, rows)
        if reached:
            name = f"{goal.group}, {goal.rows}" if goal.rows else goal.group
            slowest, fastest = (pick(reached, key=lambda r: r[1][0]) for pick in (min, max))
            results.append({"what": name, "engine": goal.engine, "against": goal.against, "goal": goal.ratio,
                            "reached": geometric_mean([ratio[0] for _, ratio in reached]), "rows": len(reached),
                            "slowest": slowest, "fastest": fastest})  # fmt: skip
    return results


def goal_table(results: Iterable[dict[str, Any]]) -> str:
    """Geometric means of several rows with the slowest and the fastest of them, single rows with their interval."""
    head = ["layers or network", "qstep", "against", "goal", "reached", "rows", "slowest row", "fastest row"]
    lines = []
    for r in results:
        met = "**" if r["reached"] >= r["goal"] else ""
        reached = f"{met}{r['reached']:.2f}{met}"
        ends = [f"{r[end][1][0]:.2f} ({r[end][0]})" for end in ("slowest", "fastest")]
        if r["rows"] == 1:
            _, low, high = r["slowest"][1]
            reached, ends = f"{reached} [{low:.2f}, {high:.2f}]", ["", ""]
        bits = r["engine"].removeprefix("qstep ")
        against = r["against"].replace("qstep ", "own ")
        lines.append([r["what"], bits, against, f"{r['goal']:g}", reached, str(r["rows"]), *ends])
    return markdown(head, lines)


def engine_names(rows: Iterable[Row]) -> list[str]:
    """In the order of the rows; qstep first."""
    names = dict.fromkeys(name for row in rows for name in row["engines"])
    return sorted(names, key=lambda name: not name.startswith("qstep"))


def time_table(rows: Sequence[Row]) -> str:
    """Median / best of each engine."""
    unit, factor, digits = ("ms", 1e-3, 2) if rows[0]["part"] == "networks" else ("us", 1, 0)
    names = engine_names(rows)
    lines = []
    for row in rows:
        cells = []
        for name in names:
            times = np.array(row["engines"].get(name, {}).get("times", [])) * factor
            cells.append(f"{np.median(times):.{digits}f} / {times.min():.{digits}f}" if len(times) else "")
        lines.append([row["name"], *cells])
    return markdown([f"{unit}, median / best", *names], lines)


def speed_table(rows: Sequence[Row]) -> str:
    """qstep's speed relative to the best int8 peer of the row and to onnxruntime, by round: median [interval of 95 %]."""
    from .goals import ONNXRUNTIME

    ours = [name for name in engine_names(rows) if name.startswith("qstep") and "thread" not in name]
    lines = []
    for row in rows:
        peer = best_peer(row)
        cells = [row["engines"]["qstep A8W8"].get("kernel", ""), peer or ""]
        for name in ours:
            for against in (ONNXRUNTIME, BEST_PEER) if name == "qstep A8W8" else (ONNXRUNTIME,):
                ratio = row_speed(row, name, against)
                cells.append("" if ratio is None else f"{ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}]")
        lines.append([row["name"], *cells])
    head = ["times as fast", "kernel of A8W8", BEST_PEER]
    for name in ours:
        head += [f"{name.removeprefix('qstep ')} : onnxruntime"] + (
            [f"A8W8 : {BEST_PEER}"] if name == "qstep A8W8" else []
        )
    return markdown(head, lines)


def wrong_table(rows: Sequence[Row]) -> str:
    """Outputs that are not what exact arithmetic gives, by part and engine: all rows together, and the row with most."""
    lines = []
    for name in engine_names(rows):
        shares = [
            (row["engines"][name]["wrong"], row["name"]) for row in rows if "wrong" in row["engines"].get(name, {})
        ]
        if shares:
            worst = max(shares)
            mean = sum(share for share, _ in shares) / len(shares)
            lines.append([name, f"{100 * mean:.2f} %", f"{100 * worst[0]:.2f} % ({worst[1]})" if worst[0] else "0"])
    return markdown(["engine", "mean share", "most"], lines)


def differing(rows: Iterable[Row]) -> int:
    return sum(engine.get("differing", 0) for row in rows for engine in row["engines"].values())


def scale_table(rows: Sequence[Row]) -> str:
    """By series: how far the time per product at the most work is from the best in the series, and memory there."""
    lines = []
    for group in dict.fromkeys(row["group"] for row in rows):
        series = [row for row in rows if row["group"] == group]
        for name in engine_names(series):
            rates = [row["products"] / np.median(row["engines"][name]["times"]) / 1000 for row in series]
            most = max(series, key=lambda row: row["products"])
            engine = most["engines"][name]
            memory, mebi = engine["memory"], 2**-20
            cells = [f"{min(rates):.1f}", f"{max(rates):.1f}", f"{rates[series.index(most)]:.1f}", str(most["value"])]
            cells += [f"{memory[key] * mebi:.2f}" for key in ("activations", "scratch", "arena", "weights")]
            cells.append(" + ".join(f"{value * mebi:.2f}" for value in engine.get("resident") or ()))
            lines.append([f"{group}, {name.removeprefix('qstep ')}", *cells])
    head = [
        "GMAC/s",
        "least",
        "most",
        "at most work",
        "which is",
        "MiB: activations",
        "scratch",
        "arena",
        "weights",
        "resident: built + run",
    ]
    return markdown(head, lines)
