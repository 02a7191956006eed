"""What the kernels compile to for sm_90: a check of the machine code that needs no GPU."""

import importlib
import os
import re

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)
codegen = importlib.import_module("benchmarks.codegen")
machine_code = importlib.import_module("zoft.bench.machine_code")
launch = importlib.import_module("zoft_kernels.launch")
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
    if case.shape not in ("wide", "small"):
        return
    accesses = re.findall(r"\b(ld|st)\.global(?:\.\w+)*?\.(?:v(\d)\.)?b(\d+)\b", kernel.asm["ptx"])
    widths = [(kind, int(vector or 1) * int(size)) for kind, vector, size in accesses]
    stored = {width for kind, width in widths if kind == "st"}
    assert stored == ({128, 64} if case.rounding == "residual8" and case.op != "dot" else {128})
    assert ("ld", 128) in widths and min(width for _, width in widths) >= 32  # 32 and 64 are read of tables


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("op", "shape"),
    [("axpby_", "wide"), ("sweep_", "wide"), ("panel_pair", "wide"), ("axpby_", "small"), ("panel_pair", "small")],
)
def test_signs_to_nearest(op, dtype, shape) -> None:
    """At most 8 instructions for each element written, 10 where matrices are small; nothing is read in smaller pieces."""
    pair = op == "panel_pair"
    code = codegen.Case(op, dtype, moves=0 if pair else 1, points=2 if pair else 0, shape=shape).measure()
    assert code.narrowest_load == code.narrowest_store == 128 and code.local_accesses == 0
    assert 1 < code.instructions_per_element / (2 if pair else 1) <= (10 if shape == "small" else 8)


def test_a_small_matrix_gives_a_gpu_more_and_shorter_programs(monkeypatch) -> None:
    """A program goes down its 128 rows step by step, each of which waits for memory; it has the same to do in each."""
    monkeypatch.setattr(launch, "INTERPRETED", False)
    signs, kind = [0, 1, 1, 0], launch.KINDS[torch.bfloat16]
    small, large = (0, 768, 0, 768, 768, 5), (0, 1 << 16, 0, 768, 768, 5)
    short, long = launch.Arrangement.of(signs, kind, small, True), launch.Arrangement.of(signs, kind, small)
    assert (short.row_tiles * short.column_tiles, 128 // short.group) == (36, 4)
    assert (long.row_tiles * long.column_tiles, 128 // long.group) == (12, 16)
    assert short.group * short.columns == long.group * long.columns
    assert launch.Arrangement.of(signs, kind, large, True) == launch.Arrangement.of(signs, kind, large)
    normals = [0, 1, 2, -1]
    assert launch.Arrangement.of(normals, kind, small, True) == launch.Arrangement.of(normals, kind, small)


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
