"""The includes follow the arrows of docs/architecture.md, and the check that says so can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def check_layers(csrc: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests" / "check_layers.py"), str(csrc)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_include_follows_the_arrows():
    result = check_layers(ROOT / "csrc")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("core/grid.h", '#include "qstep/kernels/isa.h"'),
        ("kernels/isa.cpp", "#include <ATen/ATen.h>"),
        ("ir/graph.h", '#  include "qstep/engine/network.h"'),
        ("engine/network.h", "#include <c10/core/Device.h>"),
        ("engine/network.h", "#include <nlohmann/json.hpp>"),
        ("methods/quantizer.h", '#include "qstep/nn/modules.h"'),
        ("methods/lsq_plus/cuda.cu", "#include <torch/library.h>"),
        ("graph/compare.h", "#include <pybind11/pybind11.h>"),
        ("nn/modules.h", '#include "qstep/qstep.h"'),
    ],
)
def test_a_planted_include_is_reported(tmp_path: Path, path: str, line: str):
    csrc = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", csrc)
    source = csrc / "qstep" / path
    text = source.read_text(encoding="utf-8") if source.exists() else "#pragma once\n"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(f"{text}{line}\n", encoding="utf-8")

    result = check_layers(csrc)

    number = text.count("\n") + 1
    assert result.returncode == 1
    assert f"{source}:{number}: " in result.stdout
