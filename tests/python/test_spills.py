"""Inner loops of micro-kernels keep their accumulators in registers, and the check that says so can fail."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import qstep
from check_spills import disassemble, kernels

CHECK = Path(__file__).resolve().parents[1] / "check_spills.py"

pytestmark = [
    pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump (binutils)"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="no vector kernels on this machine"),
]

MULTIPLICATIONS = "".join(f"vpmaddubsw %ymm{i}, %ymm8, %ymm{i}\n" for i in range(6))


def check_spills(library: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHECK), str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assemble(folder: Path, body: str, function: str = "multiply") -> Path:
    source = folder / "kernel.s"
    source.write_text(f".globl {function}\n.type {function}, @function\n{function}:\n{body}ret\n", encoding="utf-8")
    subprocess.run(["as", "-o", folder / "kernel.o", source], check=True)
    return folder / "kernel.o"


def assemble_loop(folder: Path, loop: str, after: str = "") -> Path:
    return assemble(folder, f"again:\n{loop}dec %rdi\njne again\n{after}")


def test_the_library_keeps_accumulators_in_registers():
    library = Path(qstep.__file__).parent / "lib" / "libqstep_engine.so"
    result = check_spills(library)
    assert result.returncode == 0, result.stdout
    assert " 0 micro-kernels" not in result.stdout
    looked_at = {kernel.function for kernel in kernels(disassemble(str(library)))}
    for name in ("multiply_madd16", "multiply_windows", "multiply_tile", "make_codes", "make_sums"):
        assert any(f"{name}<" in function for function in looked_at), name


@pytest.mark.parametrize("address", ["0x20(%rsp)", "(%rsp)", "-0x40(%rsp,%rax,8)"])
def test_a_planted_spill_is_reported(tmp_path: Path, address: str):
    result = check_spills(
        assemble_loop(tmp_path, f"{MULTIPLICATIONS}vmovdqa %ymm1, {address}\nvmovdqu %ymm2, {address}\n")
    )
    assert result.returncode == 1
    assert "multiply: the code at 0-" in result.stdout
    assert "stores 2 vectors" in result.stdout


def test_stores_elsewhere_are_none(tmp_path: Path):
    store = "vmovdqa %ymm1, (%rsp)\nvmovdqa %ymm2, (%rsp)\n"
    assert check_spills(assemble_loop(tmp_path, MULTIPLICATIONS, after=store)).returncode == 0
    assert check_spills(assemble_loop(tmp_path, MULTIPLICATIONS + store.replace("%rsp", "%rsi"))).returncode == 0


@pytest.mark.parametrize(("stores", "status"), [(1, 0), (2, 1)])
def test_all_of_an_unrolled_kernel_counts(tmp_path: Path, stores: int, status: int):
    body = MULTIPLICATIONS + "vmovdqa %ymm1, (%rsp)\n" * stores
    assert check_spills(assemble(tmp_path, body, "make_codes")).returncode == status
