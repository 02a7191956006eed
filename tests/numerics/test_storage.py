"""What reaches half-precision weights: 2,000 steps at g = 10 on weights of scale 0.02, against float64."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from zoft.backends import Move, Rounding, Term
from zoft.directions import Direction, Distribution
from zoft.errors import UsageError
from zoft.space import ParameterSpace
from zoft.storage import choose_rounding, free_bytes

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "numerics.py"
_spec = importlib.util.spec_from_file_location("numerics_benchmark", PATH)
assert _spec is not None and _spec.loader is not None
numerics = importlib.util.module_from_spec(_spec)
__import__("sys").modules["numerics_benchmark"] = numerics
_spec.loader.exec_module(numerics)

ROWS, STEPS = 64, 2000


@pytest.mark.parametrize(
    ("law", "lr", "cosine"),
    [("rademacher", 1e-7, 0.99), ("gaussian", 1e-7, 0.98), ("rademacher", 1e-6, 0.999), ("gaussian", 1e-6, 0.999)],
)
def test_residual8_follows_the_intended_path(law: str, lr: float, cosine: float) -> None:
    given = numerics.coefficients(STEPS, normal=False)
    result = numerics.measure_space(ROWS, torch.bfloat16, Rounding.RESIDUAL8, Distribution(law), lr, given)
    assert abs(result.slope - 1.0) < 0.01 and result.cosine >= cosine


@pytest.mark.parametrize("law", list(Distribution))
@pytest.mark.parametrize("decay", [1.0, 1.0 - 1e-4])
def test_residual16_is_float32_arithmetic(law: Distribution, decay: float) -> None:
    """Bitwise: bfloat16 with 16 residual bits, and float32 weights fed the same coefficients."""
    given = numerics.coefficients(200, normal=True)
    moves = [Move((Term(Direction(0, t, 0, law), -1e-5 * c),), decay, (0, t)) for t, c in enumerate(given)]
    stored = []
    for dtype, rounding in ((torch.bfloat16, Rounding.RESIDUAL16), (torch.float32, Rounding.NEAREST)):
        space = ParameterSpace(numerics.Matrix(ROWS, dtype, torch.bfloat16), rounding=rounding)
        space.move_(moves)
        stored.append(numerics.stored(space))
    assert torch.equal(*stored)


def test_nearest_loses_most_of_small_updates_and_stochastic_is_unbiased() -> None:
    given = numerics.coefficients(500, normal=False)
    law = Distribution.RADEMACHER
    nearest = numerics.measure_space(ROWS, torch.bfloat16, Rounding.NEAREST, law, 1e-7, given)
    stochastic = numerics.measure_space(ROWS, torch.bfloat16, Rounding.STOCHASTIC, law, 1e-7, given)
    assert nearest.slope < 0.1
    assert abs(stochastic.slope - 1.0) < 0.5 and stochastic.slope > 5 * nearest.slope


@pytest.mark.parametrize(
    ("dtype", "perturbation", "free", "chosen"),
    [
        (torch.float32, "read_only", 0, "nearest"),
        (torch.float64, "in_place", 10**9, "nearest"),
        (torch.bfloat16, "read_only", 10**9, "residual16"),
        (torch.bfloat16, "read_only", 500, "residual8"),
        (torch.bfloat16, "read_only", 0, "stochastic"),
        (torch.bfloat16, "in_place", 10**9, "stochastic"),
        (torch.float16, "read_only", 10**9, "stochastic"),
    ],
)
def test_auto_takes_residual_bits_where_they_fit(dtype: torch.dtype, perturbation: str, free: int, chosen: str) -> None:
    weights = [torch.zeros(100, dtype=dtype), torch.zeros(3)]
    assert choose_rounding(weights, perturbation=perturbation, free=free) == chosen


def test_rounding_by_name() -> None:
    assert choose_rounding([torch.zeros(1)], "stochastic") is Rounding.STOCHASTIC
    with pytest.raises(UsageError, match="there are: auto, nearest"):
        choose_rounding([torch.zeros(1)], "truncate")


def test_what_torch_keeps_of_a_gpu_is_free(monkeypatch) -> None:
    """After a large tensor was let go the driver calls its memory used."""
    for name, value in (("mem_get_info", (10, 100)), ("memory_reserved", 70), ("memory_allocated", 30)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_bytes(torch.device("cuda", 0)) == 10 + (70 - 30)
