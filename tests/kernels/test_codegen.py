"""What the kernels compile to for sm_90: a check of the machine code that needs no GPU."""

import importlib
import os

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)
codegen = importlib.import_module("benchmarks.codegen")
if codegen.tool() is None:
    pytest.skip("no cuobjdump beside Triton or on the path", allow_module_level=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rademacher_axpby(dtype) -> None:
    """One term, to nearest: 16 bytes an access, nothing spilled, at most 8 instructions an element, all counted."""
    code = codegen.measure(codegen.Case("axpby_", dtype))
    assert code.widest_load == code.widest_store == 128 and code.narrow_accesses == 0
    assert code.spilled_bytes == 0 and code.local_accesses == 0
    assert 1 < code.instructions_per_element <= 8


@pytest.mark.parametrize(
    "case",
    [
        codegen.Case("axpby_", "bfloat16", "stochastic"),
        codegen.Case("axpby_", "bfloat16", law="gaussian"),
        codegen.Case("panel_pair", "bfloat16", terms=0, points=2),
    ],
    ids=lambda case: f"{case.op} {case.rounding} {case.law}",
)
def test_nothing_is_spilled(case) -> None:
    code = codegen.measure(case)
    assert code.widest_load == code.widest_store == 128
    assert code.spilled_bytes == 0 and code.local_accesses == 0
