"""What the Triton kernels compile to for a GPU that need not be there: instructions an element, widths of accesses, spills.

    python benchmarks/codegen.py

Compiles for sm_90 and reads the machine code with the disassembler that Triton brings along. The count is dynamic: what lies in
the loop over the tile is counted as often as the loop runs (its stores tell how often), what lies outside is counted once.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from zoft_kernels.launch import GROUPS, QUADS, SIGNS, WARPS, tile_columns
from zoft_kernels.walk import walk_kernel

TARGET = GPUTarget("cuda", 90, 32)
POINTERS = {"float32": ("*fp32", 0, 4), "bfloat16": ("*i16", 1, 2), "float16": ("*i16", 2, 2)}
ROUNDINGS = ("nearest", "stochastic", "residual8", "residual16")
ROWS = 128  # of a tile


@dataclass(frozen=True)
class Case:
    op: str
    dtype: str
    rounding: str = "nearest"
    law: str = "rademacher"
    terms: int = 1
    points: int = 0

    def constants(self) -> dict[str, object]:
        """The compile-time arguments that a launch on a wide, aligned matrix passes."""
        kind = POINTERS[self.dtype][1]
        signs = self.law == "rademacher"
        return {
            "KIND": kind, "ROUNDING": ROUNDINGS.index(self.rounding), "DECAYS": False, "STORE_LOW": True,
            "MOVING": self.terms > 0, "MODE": SIGNS if signs else QUADS, "TERMS": self.terms if signs else 0,
            "POINTS": self.points if signs else 0, "FORMS": 1 if signs else 2, "COLUMNS": tile_columns(kind, 1 << 20),
            "GROUP": GROUPS[SIGNS if signs else QUADS], "ALIGNED": True,
        }  # fmt: skip


CASES = [
    *(Case("axpby_", dtype) for dtype in POINTERS),
    *(Case("axpby_", dtype, terms=2) for dtype in POINTERS),
    *(Case("axpby_", "bfloat16", rounding) for rounding in ROUNDINGS[1:]),
    Case("axpby_", "float16", "stochastic"),
    *(Case("axpby_", dtype, law="gaussian") for dtype in POINTERS),
    Case("axpby_", "bfloat16", "stochastic", law="gaussian"),
    *(Case("panel_pair", dtype, terms=0, points=2) for dtype in POINTERS),
    Case("panel_pair", "bfloat16", "stochastic", points=2),
]


@dataclass(frozen=True)
class Code:
    """What a kernel compiled to."""

    instructions_per_element: float
    registers: int
    spilled_bytes: int  # stack and local memory of a thread
    local_accesses: int  # LDL and STL
    widest_load: int  # bits
    widest_store: int
    narrow_accesses: int  # narrower than 128 bits inside the loop; the table of terms is read like that


def compiled(case: Case):
    """The kernel compiled for TARGET."""
    pointer, _, _ = POINTERS[case.dtype]
    low = {"residual8": "*i8", "residual16": "*i16"}.get(case.rounding, pointer)
    constants = case.constants()
    signature = dict.fromkeys(walk_kernel.arg_names, "i32")
    signature |= dict.fromkeys(("source", "sink", "copies"), pointer) | dict.fromkeys(("low_source", "low_sink"), low)
    signature |= {"table": "*i64", "values": "*fp64", "stream": "i64"} | dict.fromkeys(constants, "constexpr")
    divisible = [["tt.divisibility", 16]]
    attributes = {(walk_kernel.arg_names.index(name),): divisible for name, type in signature.items() if type[0] == "*"}
    source = ASTSource(walk_kernel, signature, constants, attributes)
    return triton.compile(source, target=TARGET, options={"num_warps": WARPS, "enable_fp_fusion": False})


def tool() -> str | None:
    """The disassembler: Triton's own, or one on the path."""
    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(bundled) if bundled.exists() else shutil.which("cuobjdump")


def _disassembled(kernel, option: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [tool() or "cuobjdump", option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def instructions(kernel) -> list[tuple[int, str]]:
    """(address, text) of every machine instruction."""
    found = re.findall(r"/\*([0-9a-f]{4,5})\*/\s+([^;]+);", _disassembled(kernel, "-sass"))
    return [(int(address, 16), body.strip()) for address, body in found]


def resources(kernel) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack and local memory: what is spilled lies there."""
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", _disassembled(kernel, "-res-usage")))
    return int(usage["REG"]), int(usage["STACK"]) + int(usage["LOCAL"])


def _loops(code: list[tuple[int, str]]) -> list[tuple[int, int]]:
    """(first, last) address of every outermost loop that writes memory, shortest first."""
    spans = [
        (int(match[1], 16), address)
        for address, body in code
        if (match := re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", body)) and int(match[1], 16) < address
    ]
    outer = [span for span in spans if not any(o[0] <= span[0] and span[1] <= o[1] and o != span for o in spans)]
    writing = [s for s in outer if any("STG" in body for address, body in code if s[0] <= address <= s[1])]
    return sorted(writing, key=lambda span: span[1] - span[0])


def _bits(body: str, operation: str) -> int | None:
    """Width of a global access; None for other instructions."""
    match = re.search(rf"\b{operation}\.E(\.\S+)?", body)
    if not match:
        return None
    width = re.search(r"\.(U8|S8|U16|S16|64|128)\b", match[0])
    return {"U8": 8, "S8": 8, "U16": 16, "S16": 16}.get(width[1]) or int(width[1]) if width else 32


def measure(case: Case) -> Code:
    """Compile and read one case."""
    kernel = compiled(case)
    code = [(address, body) for address, body in instructions(kernel) if not re.search(r"\bNOP\b", body)]
    spans = _loops(code) or [(0, code[-1][0])]
    first, last = spans[0]  # of a whole tile; a longer one serves the tiles at the edges
    code = [(a, text) for a, text in code if not any(s[0] <= a <= s[1] for s in spans[1:])]
    body = [text for address, text in code if first <= address <= last]
    loads = [width for text in body if (width := _bits(text, "LDG")) is not None]
    stores = [width for text in body if (width := _bits(text, "STG")) is not None]
    size = 8 * POINTERS[case.dtype][2]
    elements = ROWS * case.constants()["COLUMNS"] // (32 * WARPS)  # a thread  # type: ignore[operator]
    written = (1 if case.terms else 0) + case.points
    low = {"residual8": 8, "residual16": 16}.get(case.rounding, 0)
    a_pass = sum(stores) / (written * size + low)  # elements a thread handles in one round of the loop
    rounds = elements / a_pass
    return Code(
        round((len(code) - len(body) + rounds * len(body)) / elements, 2),
        *resources(kernel),
        sum(bool(re.search(r"\b(LDL|STL)\b", text)) for _, text in code),
        max(loads, default=0),
        max(stores, default=0),
        sum(width < 128 for width in loads + stores),
    )


def main() -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow([field.name for field in (*fields(Case), *fields(Code))])
    for case in CASES:
        writer.writerow([*asdict(case).values(), *asdict(measure(case)).values()])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
