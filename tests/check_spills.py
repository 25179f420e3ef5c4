#!/usr/bin/env python3
"""Fails where the inner loop of a product's micro-kernel keeps its accumulators on the stack.

python tests/check_spills.py LIBRARY      disassembles with objdump (binutils), prints each such loop, exit status 1 if there is one

An inner loop contains no other loop; it is a micro-kernel's where it multiplies at least four vectors. A compiler that
gives up on a tile stores each accumulator in each step, two stores for two or three multiplications. One store for
five multiplications is let pass: short windows hold more vectors than there are registers, and a few of them on the
stack were measured to be faster than loading the weights again. The 3x3 depthwise kernel is unrolled to the end and has no
inner loop; at full range it keeps codes that it has unpacked on the stack, as many as it would have to unpack again.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MULTIPLICATION = re.compile(r"vpmaddubsw|vpmaddwd|vpdpbusd|vpdpwssd|vpshufb")  # by table
KERNEL = re.compile(r"\bmultiply|\baccumulate")
SMALLEST_KERNEL = 4
STORES_LET_PASS = 0.2  # for each multiplication
FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)$")
JUMP = re.compile(r"^j\w+$")
FRAME_POINTER = "%rsp,%rbp"


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str


class Spill(NamedTuple):
    function: str
    first: int
    last: int
    stores: int
    multiplications: int

    def __str__(self) -> str:
        return (
            f"{self.function}: the loop at {self.first:x}-{self.last:x} stores {self.stores} vectors to the stack "
            f"for {self.multiplications} multiplications"
        )


def functions(disassembly: Iterable[str]) -> Iterator[tuple[str, list[Instruction]]]:
    name, body = "", []
    for line in disassembly:
        if match := FUNCTION.match(line):
            if body:
                yield name, body
            name, body = match[1], []
        elif match := INSTRUCTION.match(line):
            body.append(Instruction(int(match[1], 16), match[2], match[3]))
    if body:
        yield name, body


def inner_loops(body: list[Instruction]) -> list[tuple[int, int]]:
    """First and last address of each run that a jump goes back over, where no shorter one is inside."""
    start = body[0].address
    loops = []
    for i in body:
        if JUMP.match(i.name) and (match := re.match(r"([0-9a-f]+)", i.operands)):
            target = int(match[1], 16)
            if start <= target < i.address:
                loops.append((target, i.address))
    return [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]


def spills(disassembly: Iterable[str]) -> Iterator[Spill]:
    for name, body in functions(disassembly):
        if not KERNEL.search(name):
            continue
        has_frame = any(i.name == "mov" and i.operands == FRAME_POINTER for i in body)
        stack = r"\(%rsp|\(%rbp" if has_frame else r"\(%rsp"
        store = re.compile(rf"^%[xyz]mm\d+,[^%]*(?:{stack})")
        for first, last in inner_loops(body):
            loop = [i for i in body if first <= i.address <= last]
            multiplications = sum(bool(MULTIPLICATION.match(i.name)) for i in loop)
            stores = sum(i.name.startswith("vmov") and bool(store.match(i.operands)) for i in loop)
            if multiplications >= SMALLEST_KERNEL and stores > STORES_LET_PASS * multiplications:
                yield Spill(name, first, last, stores, multiplications)


def micro_kernels(disassembly: Iterable[str]) -> int:
    """How many functions have a loop that the check looks at."""

    def has_kernel(body: list[Instruction]) -> bool:
        return any(
            sum(bool(MULTIPLICATION.match(i.name)) for i in body if first <= i.address <= last) >= SMALLEST_KERNEL
            for first, last in inner_loops(body)
        )

    return sum(bool(KERNEL.search(name)) and has_kernel(body) for name, body in functions(disassembly))


def disassemble(library: str) -> list[str]:
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", library]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def main() -> int:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    disassembly = disassemble(sys.argv[1])
    found = list(spills(disassembly))
    for spill in found:
        print(spill)
    print(f"{sys.argv[1]}: {micro_kernels(disassembly)} micro-kernels, {len(found)} inner loops with spills")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
