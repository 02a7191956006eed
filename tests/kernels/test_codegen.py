"""What the kernels compile to for sm_90: a check of the machine code that needs no GPU."""

import importlib
import os
import re

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)
codegen = importlib.import_module("benchmarks.codegen")
machine_code = importlib.import_module("zoft.bench.machine_code")
if machine_code.tool() is None:
    pytest.skip("no cuobjdump beside Triton or on the path", allow_module_level=True)


def name(case) -> str:
    counts = f"{case.moves}x{case.terms}+{case.points}"
    return f"{case.op} {case.dtype} {case.rounding} {case.law} {counts} {case.shape}"


@pytest.mark.parametrize("case", list(codegen.cases()), ids=name)
def test_every_kernel_compiles_and_spills_nothing(case) -> None:
    """As the op launches it; on wide matrices 16 bytes of weights an access (8 of low bits that are a byte each)."""
    kernel = case.compiled()
    assert machine_code.resources(kernel)[1] == 0
    if case.shape != "wide":
        return
    accesses = re.findall(r"\b(ld|st)\.global(?:\.\w+)*?\.(?:v(\d)\.)?b(\d+)\b", kernel.asm["ptx"])
    widths = [(kind, int(vector or 1) * int(size)) for kind, vector, size in accesses]
    stored = {width for kind, width in widths if kind == "st"}
    assert stored == ({128, 64} if case.rounding == "residual8" and case.op != "dot" else {128})
    assert ("ld", 128) in widths and min(width for _, width in widths) >= 32  # 32 and 64 are read of tables


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("op", ["axpby_", "sweep_", "panel_pair"])
def test_signs_to_nearest(op, dtype) -> None:
    """At most 8 instructions for each element written, all counted; nothing of the weights is read in smaller pieces."""
    pair = op == "panel_pair"
    code = codegen.Case(op, dtype, moves=0 if pair else 1, points=2 if pair else 0).measure()
    assert code.narrowest_load == code.narrowest_store == 128 and code.local_accesses == 0
    assert 1 < code.instructions_per_element / (2 if pair else 1) <= 8


def test_loops_and_widths_are_read_from_machine_code() -> None:
    code = [
        (0, "MOV R1, R2"),
        (16, "LDG.E.64 R4, [R2]"),
        (32, "STG.E.128 [R2], R4"),
        (48, "@P0 BRA 0x10"),
        (64, "BRA 0x0"),
    ]
    assert machine_code.loops(code) == [machine_code.Loop(0, 64, 0), machine_code.Loop(16, 48, 1)]
    assert machine_code.bits(code[1][1], "LDG") == 64 and machine_code.bits(code[2][1], "LDG") == 0
