"""Triton kernels compiled for a GPU that need not be there, and their machine code: instructions, accesses, spills."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Instruction = tuple[int, str]  # address, text


@contextmanager
def compiling(arch: int = 90) -> Iterator[list[Any]]:
    """Inside, whatever launches a Triton kernel compiles it for sm_`arch` instead, specialised to its arguments.

    The compiled kernels are appended to the list in the order of their launches. No tensor is read, so they may be on a CPU.
    """
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Absent:
        """What Triton asks a driver before it compiles."""

        def get_current_device(self) -> str:
            return f"sm_{arch}"  # a name of its own: a GPU at hand keeps its kernels apart

        def get_current_stream(self, device: str) -> int:
            return 0

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", arch, 32)

    kernels: list[Any] = []
    run, active = JITFunction.run, driver._active

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        kernels.append(run(self, *arguments, grid=grid, warmup=True, **named))
        return kernels[-1]

    driver.set_active(Absent())  # type: ignore[arg-type]
    JITFunction.run = compile_only  # type: ignore[method-assign]
    try:
        yield kernels
    finally:
        JITFunction.run = run  # type: ignore[method-assign]
        driver.set_active(active)  # type: ignore[arg-type]


def tool() -> str | None:
    """The disassembler: the one that Triton brings along, or one on the path."""
    found = importlib.util.find_spec("triton")
    if found and found.origin:
        bundled = Path(found.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        if bundled.exists():
            return str(bundled)
    return shutil.which("cuobjdump")


def _disassembled(kernel: Any, option: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [tool() or "cuobjdump", option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resources(kernel: Any) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack and local memory: what is spilled lies there."""
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", _disassembled(kernel, "-res-usage")))
    return int(usage["REG"]), int(usage["STACK"]) + int(usage["LOCAL"])


def instructions(kernel: Any) -> list[Instruction]:
    """Every machine instruction that does something."""
    found = re.findall(r"/\*([0-9a-f]{4,5})\*/\s+([^;]+);", _disassembled(kernel, "-sass"))
    return [(int(address, 16), body.strip()) for address, body in found if not re.search(r"\bNOP\b", body)]


def bits(body: str, operation: str) -> int:
    """Width of a global access `operation` (LDG or STG); 0 for other instructions.

    >>> bits("@P0 LDG.E.128 R4, desc[UR4][R2.64]", "LDG"), bits("STG.E.U16 desc[UR4][R2.64], R0", "STG"), bits("NOP", "LDG")
    (128, 16, 0)
    """
    match = re.search(rf"\b{operation}\.E(\.\S+)?", body)
    if not match:
        return 0
    width = re.search(r"\.[US]?(8|16|64|128)\b", match[0])
    return int(width[1]) if width else 32


@dataclass(frozen=True)
class Loop:
    """Addresses of a loop's first and last instruction, and in how many others it lies."""

    first: int
    last: int
    depth: int = 0

    def __contains__(self, address: int) -> bool:
        return self.first <= address <= self.last


def loops(code: Sequence[Instruction]) -> list[Loop]:
    """Every loop, outer ones first; several ways back to one head are one loop."""
    ends: dict[int, int] = {}
    for address, body in code:
        target = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", body)
        if target and int(target[1], 16) < address:
            ends[int(target[1], 16)] = address  # addresses grow: the last one wins
    spans = sorted(ends.items(), key=lambda span: span[0] - span[1])
    return [Loop(*span, sum(o[0] <= span[0] and span[1] <= o[1] for o in spans) - 1) for span in spans]


@dataclass(frozen=True)
class Code:
    """What a kernel does for one element, and with what."""

    instructions_per_element: float
    registers: int  # of a thread
    spilled_bytes: int  # stack and local memory of a thread
    local_accesses: int  # LDL and STL
    narrowest_load: int  # bits; of those that stream weights
    narrowest_store: int


def read(kernel: Any, elements: int, bits_an_element: int, trips: Callable[[int, bool], int | None]) -> Code:
    """What the machine code does for an element: every instruction as often as the loops around it run.

    Args:
        kernel: compiled.
        elements: that a thread handles.
        bits_an_element: that it stores for each, or loads if it stores nothing while it streams.
        trips: how often a loop runs, given its depth and whether it stores; None for the loop over the tile, which runs until
            all elements are handled. Of several such loops the shortest is taken: the others serve the tiles at the edges.
    """
    code = instructions(kernel)
    found = loops(code)

    def moved(loop: Loop, operation: str, own: bool = False) -> list[tuple[int, int]]:
        """(address, bits) of the accesses in a loop; own: not in a loop inside it."""
        inner = [other for other in found if other != loop and other.first in loop and other.last in loop and own]
        here = [(a, text) for a, text in code if a in loop and not any(a in other for other in inner)]
        return [(a, bits(text, operation)) for a, text in here if bits(text, operation)]

    whole = Loop(0, code[-1][0], -1)
    operation = "LDG" if not any(moved(loop, "STG") for loop in found) else "STG"
    outer = [loop for loop in found if loop.depth == 0 and trips(0, True) is None and moved(loop, operation)]
    tile, edges = (outer[-1], outer[:-1]) if outer else (whole, [])
    often = {loop: trips(loop.depth, bool(moved(loop, "STG"))) or 0 for loop in found if loop not in outer}

    def runs(address: int) -> int:
        """How often, in one run of the loop over the tile; 0 at the edges."""
        count = 0 if any(address in loop for loop in edges) else 1
        for loop, times in often.items():
            count *= times if address in loop else 1
        return count

    a_round = sum(width * runs(address) for address, width in moved(tile, operation)) / bits_an_element
    rounds = elements / a_round if outer else 1
    executed = sum(runs(address) * (rounds if outer and address in tile else 1) for address, _ in code)
    return Code(
        round(executed / elements, 2),
        *resources(kernel),
        sum(bool(re.search(r"\b(LDL|STL)\b", text)) for _, text in code),
        min((width for _, width in moved(tile, "LDG", own=True)), default=0),
        min((width for _, width in moved(tile, "STG")), default=0),
    )
