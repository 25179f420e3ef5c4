"""benchmarks/: seconds over tiny layers and a tiny network, with whichever peers are installed, up to the report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / script), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_a_smoke_run_ends_in_a_report(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("matplotlib")
    run("kernels.py", "all", "--smoke", "--results", str(tmp_path))
    run("networks.py", "mobilenet_v2", "--smoke", "--results", str(tmp_path))
    run("scale.py", "--smoke", "--results", str(tmp_path))
    run("report.py", str(tmp_path))
    report = json.loads((tmp_path / "report.json").read_text())
    assert {row["part"] for row in report["rows"]} == {"conv", "depthwise", "gemm", "networks", "scale"}
    assert report["differing"] == 0
    assert all(len(engine["times"]) == 2 for row in report["rows"] for engine in row["engines"].values())
    assert "| CPU |" in (tmp_path / "report.md").read_text()
    assert all((tmp_path / f"{figure}.svg").exists() for figure in ("layers", "networks", "scale"))
