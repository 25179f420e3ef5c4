"""C++ projects build against the installed package: one trains with torch, the other runs the result without."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import qstep

CONSUMERS = Path(__file__).resolve().parents[1] / "consumer"
# CMake must find its way by the prefix alone.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("CMAKE_PREFIX_PATH", "Torch_DIR", "LD_LIBRARY_PATH")
}
ENVIRONMENT.setdefault("CMAKE_GENERATOR", "Ninja" if shutil.which("ninja") else "Unix Makefiles")


def run(*command: str | Path) -> str:
    result = subprocess.run(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}"
    return result.stdout


def build(project: str, folder: Path, *options: str) -> Path:
    """Configures and builds ``tests/consumer/<project>`` and returns the program."""
    prefix = f"-DCMAKE_PREFIX_PATH={qstep.cmake_prefix_path}"
    run("cmake", "-S", CONSUMERS / project, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", prefix, *options)
    run("cmake", "--build", folder)
    return folder / "consumer"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Written by the project that trains, and what that project printed."""
    folder = tmp_path_factory.mktemp("torch")
    path = folder / "net.safetensors"
    return path, run(build("torch", folder), path)


def test_torch_consumer_trains_and_converts(checkpoint: tuple[Path, str]):
    path, output = checkpoint
    assert path.stat().st_size > 0
    assert "0 differing codes" in output


def test_engine_consumer_runs_the_checkpoint_without_torch(checkpoint: tuple[Path, str], tmp_path: Path):
    # With every torch library out of CMake's sight.
    program = build("engine", tmp_path, "-DCMAKE_DISABLE_FIND_PACKAGE_LibTorch=ON")
    assert "checksum" in run(program, checkpoint[0])

    libraries = run("ldd", program)
    assert "libqstep_engine" in libraries
    assert "libtorch" not in libraries
    assert "libc10" not in libraries


def test_unknown_component_is_named(tmp_path: Path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\nproject(x LANGUAGES CXX)\nfind_package(qstep REQUIRED COMPONENTS fpga)\n"
    )
    result = subprocess.run(
        ["cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={qstep.cmake_prefix_path}"],
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode != 0
    assert "fpga" in result.stderr
