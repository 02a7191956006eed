"""axpby_: the bits of the reference and of float64."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.kernels.kernel_cases import (
    NARROW,
    SHAPES,
    STORAGE,
    equal,
    many_moves,
    mixed_moves,
    one_move,
    random,
    state,
    target_of,
)
from zoft.backends import Move, Rounding, Target, Term, backend
from zoft.directions import Direction, Distribution, Window, draw
from zoft_kernels import INTERPRETED

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("law", Distribution)
@pytest.mark.parametrize(("dtype", "rounding"), STORAGE, ids=str)
@pytest.mark.parametrize("moves", [one_move, many_moves])
def test_equal_to_the_reference(device, law, dtype, rounding, moves) -> None:
    for shape in SHAPES if moves is one_move else ((257,), (140, 33)):
        mine, theirs = (target_of(shape, dtype, rounding, device) for _ in range(2))
        backend("triton").axpby_(mine, moves(law), rounding)
        backend("reference").axpby_(theirs, moves(law), rounding)
        assert equal(mine, theirs), shape


def test_signs_and_normals_in_one_move(device) -> None:
    mine, theirs = (target_of((140, 33), torch.float16, Rounding.NEAREST, device) for _ in range(2))
    backend("triton").axpby_(mine, mixed_moves())
    backend("reference").axpby_(theirs, mixed_moves())
    assert equal(mine, theirs)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 300), columns=st.integers(1, 60), row=st.integers(0, 1 << 34), column=st.integers(0, 50),
    gaussian=st.booleans(), dtype=st.sampled_from([torch.float32, *NARROW]), seed=st.integers(0, 1 << 30),
)  # fmt: skip
def test_windows_into_poisoned_copies(device, rows, columns, row, column, gaussian, dtype, seed) -> None:
    """Any window of a larger parameter, far beyond 2^31 elements, written into NaNs between guards that stay."""
    assume(not INTERPRETED or not 1 << 31 <= row < 1 << 32)  # there the interpreter counts in 32 bits, as no GPU does
    law = Distribution.GAUSSIAN if gaussian else Distribution.RADEMACHER
    window = Window((1 << 63) + 5, row, rows, column, columns, total_columns=columns + 57)
    weight = random((rows, columns), dtype, seed).to(device)
    before, results = weight.clone(), []
    for name in ("reference", "triton"):
        buffer = torch.full((rows * columns + 32,), float("nan"), dtype=dtype, device=device)
        out = buffer[16:-16].view(rows, columns)
        backend(name).axpby_(Target(weight, window, out=out), [Move((Term(Direction(1, 2, 3, law), 0.01),))])
        assert bool(buffer[:16].isnan().all()) and bool(buffer[-16:].isnan().all())
        results.append(out)
    assert torch.equal(*results) and torch.equal(weight, before)


@pytest.mark.parametrize("dtype", [torch.float32, *NARROW], ids=str)
def test_signs_equal_float64_rounded_once_to_float32(device, dtype) -> None:
    weight, z = random((259, 131), dtype, seed=8).to(device), Direction(7, 11)
    window, scale = Window.whole(3, weight.shape), torch.tensor(1.7e-3, dtype=torch.float32)
    exact = weight.double() + draw(z, window, device).double() * scale.double().to(device)
    backend("triton").axpby_(Target(weight, window), [Move((Term(z, float(scale)),))])
    assert torch.equal(weight, exact.float().to(dtype))


def test_normals_are_no_worse_than_torch_in_float32(device) -> None:
    """Box-Muller of the same words in float64 is the truth; torch's own float32 logarithm and cosine are the measure."""
    shape, z = (512, 257), Direction(7, 11, 0, Distribution.GAUSSIAN)
    window = Window.whole(3, shape)
    mine = torch.zeros(shape, device=device)
    backend("triton").axpby_(Target(mine, window), [Move((Term(z, 1.0),))])
    mine, exact, single = (
        mine.cpu().double(),
        _box_muller(z, window, torch.float64),
        _box_muller(z, window, torch.float32),
    )
    torchs = single.double() - exact
    error = mine - exact
    assert error.abs().max() <= 2 * torchs.abs().max()
    assert error.square().mean() <= torchs.square().mean()


def _box_muller(z: Direction, window: Window, dtype: torch.dtype) -> torch.Tensor:
    """z by the formula of zoft/directions/gaussian.py with torch's functions in `dtype`."""
    from zoft.directions.address import counters
    from zoft.directions.philox import philox4x32

    words, _ = counters(window, z.counter_tag, 8, torch.device("cpu"))
    words, lanes = philox4x32(words, z.key), []
    for word in words:
        radius = torch.sqrt(-2 * torch.log(((word >> 8) + 1).to(dtype) * 2.0**-24))
        n = 256 * (word // 4 % 64) + word // 256 % 256
        t = (2 * n + 1).to(dtype) * 2.0**-15 - 0.5
        mirrored = torch.where(word % 2 == 1, 1 - t, t)  # bit 0: the first lane is the sine
        quarters = torch.where(word // 2 % 2 == 1, torch.where(word % 2 == 1, -mirrored, 2 - mirrored), mirrored)
        lanes += [radius * torch.cos(quarters * (torch.pi / 2)), radius * torch.sin(quarters * (torch.pi / 2))]
    return torch.stack(lanes, dim=1).reshape(-1, window.columns)[: window.rows]


def test_non_contiguous_weights(device) -> None:
    mine, theirs = (random((70, 130)).to(device).t() for _ in range(2))
    window, moves = Window.whole(77, (130, 70)), many_moves(Distribution.RADEMACHER)
    backend("triton").axpby_(Target(mine, window), moves)
    backend("reference").axpby_(Target(theirs, window), moves)
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("dtype", "rounding"), STORAGE, ids=str)
def test_extreme_weights(device, dtype, rounding) -> None:
    """Largest, smallest, signed zeros; infinities and NaN too where no residual bits are kept, which need finite weights."""
    limits = torch.finfo(dtype)
    values = [0.0, -0.0, limits.max / 2, limits.smallest_normal, -limits.smallest_normal / 4, 1.0]
    if rounding.residual_dtype is None:
        values += [limits.max, -limits.max, float("inf"), -float("inf"), float("nan")]
    targets = [target_of((130, len(values) * 3), dtype, rounding, device) for _ in range(2)]
    for name, target in zip(("triton", "reference"), targets, strict=True):
        target.weight.copy_(torch.tensor(values * 3, dtype=dtype).to(device).expand_as(target.weight))
        backend(name).axpby_(target, one_move(Distribution.RADEMACHER), rounding)
    for mine, theirs in zip(*map(state, targets), strict=True):
        assert torch.equal(mine.isnan(), theirs.isnan())
        assert torch.equal(mine.nan_to_num(), theirs.nan_to_num())
