#!/usr/bin/env python3
"""Fails where a product's micro-kernel keeps its accumulators on the stack: in an inner loop, or where all is unrolled.

python tests/check_spills.py LIBRARY      disassembles with objdump (binutils), prints each such kernel, exit status 1 if there is one

An inner loop contains no other loop; it is a micro-kernel's where it multiplies at least four vectors. A compiler that
gives up on a tile stores each accumulator in each step, two stores for two or three multiplications. One store for
five multiplications is let pass: short windows hold more vectors than there are registers, and a few of them on the
stack were measured to be faster than loading the weights again. The 3x3 depthwise kernel is unrolled to the end and has no
inner loop, so all of it is looked at: it keeps half of what makes up the codes on the stack, within the same limit.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MULTIPLICATION = re.compile(r"vpmaddubsw|vpmaddwd|vpdpbusd|vpdpwssd|vpshufb")  # by table
KERNEL = re.compile(r"\bmultiply|\baccumulate")
UNROLLED_KERNEL = re.compile(r"\bmake_(codes|sums)\b")
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
            f"{self.function}: the code at {self.first:x}-{self.last:x} stores {self.stores} vectors to the stack "
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


class Kernel(NamedTuple):
    """What is looked at of a function: an inner loop or, where it has none, all of it."""

    function: str
    instructions: list[Instruction]
    stack: str  #: of its operands in memory

    def multiplications(self) -> int:
        return sum(bool(MULTIPLICATION.match(i.name)) for i in self.instructions)

    def stores(self) -> int:
        store = re.compile(rf"^%[xyz]mm\d+,[^%]*(?:{self.stack})")
        return sum(i.name.startswith("vmov") and bool(store.match(i.operands)) for i in self.instructions)


def kernels(disassembly: Iterable[str]) -> Iterator[Kernel]:
    for name, body in functions(disassembly):
        has_frame = any(i.name == "mov" and i.operands == FRAME_POINTER for i in body)
        stack = r"\(%rsp|\(%rbp" if has_frame else r"\(%rsp"
        found: list[Kernel] = []
        if KERNEL.search(name):
            loops = ([i for i in body if first <= i.address <= last] for first, last in inner_loops(body))
            found = [Kernel(name, loop, stack) for loop in loops]
        elif UNROLLED_KERNEL.search(name):
            found = [Kernel(name, body, stack)]
        yield from (kernel for kernel in found if kernel.multiplications() >= SMALLEST_KERNEL)


def spills(found: Iterable[Kernel]) -> Iterator[Spill]:
    for kernel in found:
        stores, multiplications = kernel.stores(), kernel.multiplications()
        if stores > STORES_LET_PASS * multiplications:
            first, last = kernel.instructions[0].address, kernel.instructions[-1].address
            yield Spill(kernel.function, first, last, stores, multiplications)


def disassemble(library: str) -> list[str]:
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", library]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def main() -> int:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    looked_at = list(kernels(disassemble(sys.argv[1])))
    found = list(spills(looked_at))
    for spill in found:
        print(spill)
    functions_looked_at = len({kernel.function for kernel in looked_at})
    print(f"{sys.argv[1]}: {functions_looked_at} micro-kernels, {len(found)} with spills")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
