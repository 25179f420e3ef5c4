"""benchmarks/: seconds over tiny layers and a tiny network, with whichever peers are installed, up to the report."""

from __future__ import annotations

import json
import os
import platform
import shutil
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


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.usefixtures("harness")
def test_a_wrong_output_is_counted_and_another_rounding_is_not() -> None:
    from harness.exact import accumulators, wrong_outputs
    from harness.layers import Layer
    from harness.qstep_engine import QstepProgram
    from harness.random_layer import random_layer

    network, x = random_layer(Layer("conv", 8, 8, 3, 6), 8, 8)
    sums = accumulators(network, x, "reference", 1)
    codes = QstepProgram(network, x, 1).output()
    assert wrong_outputs(network, sums, codes) == 0
    exact = codes.copy()
    codes.flat[5] ^= 1
    assert wrong_outputs(network, sums, codes) == 1 / codes.size
    sums.flat[0] += 10 * abs(sums).max()  # a sum that the codes do not show
    assert wrong_outputs(network, sums, exact) == 1 / codes.size


@pytest.mark.usefixtures("harness")
def test_speed_is_the_median_of_ratios_within_a_round() -> None:
    from harness.timing import interleaved, speed

    assert speed([1.0, 2.0, 4.0], [2.0, 4.0, 8.0]) == (2.0, 2.0, 2.0)
    median, low, high = speed([1.0] * 101, [float(i) for i in range(1, 102)])
    assert median == 51.0
    assert (low, high) == (41.0, 61.0)
    calls: list[str] = []
    programs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = interleaved(programs, rounds=4, seconds=1, slice_seconds=0, patience_seconds=0)
    assert [len(t) for t in times.values()] == [4, 4]
    assert calls.count("a") == calls.count("b")


@pytest.mark.skipif(shutil.which("objdump") is None or shutil.which("cc") is None, reason="needs objdump and cc")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="CPUID is an instruction of x86-64")
def test_a_held_package_sees_a_cpu_without_avx512(tmp_path: Path) -> None:
    package = tmp_path / "packages" / "probe"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    source = """
    #include <cpuid.h>
    int leaf7(int subleaf, int reg) { unsigned r[4]; __cpuid_count(7, subleaf, r[0], r[1], r[2], r[3]); return r[reg]; }
    """
    library = str(package / "probe.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-xc", "-", "-o", library], input=source, text=True, check=True)
    script = f"""
import ctypes, sys
sys.path[:0] = [{str(BENCHMARKS)!r}, {str(package.parent)!r}]
from harness.held_cpuid import hold
hold("probe")
import probe
before, held = ctypes.CDLL({library!r}), ctypes.CDLL(probe.__path__[0] + "/probe.so")
assert probe.__path__[0] + "/probe.so" != {library!r}
avx512, vnni, avx_vnni = 0xDC230000, 0x5842, 0x30
hidden = {{(0, 1): avx512, (0, 2): vnni, (1, 0): avx_vnni}}
for (subleaf, register), bits in hidden.items():
    assert held.leaf7(subleaf, register) & bits == 0, (subleaf, register)
avx2 = 1 << 5
assert held.leaf7(0, 1) & avx2 == before.leaf7(0, 1) & avx2
"""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    finished = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
