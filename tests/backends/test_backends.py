"""Every backend returns the bits of the reference."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoft.backends import Move, Rounding, Target, Term, available, backend
from zoft.directions import Direction, Distribution, Window, gaussian, rademacher
from zoft.directions.draw import ROUNDING_LANES
from zoft.errors import UsageError

FAST = [name for name in available() if name not in ("reference", "triton")]
NARROW = (torch.bfloat16, torch.float16)


def moves(distribution: Distribution) -> list[Move]:
    z = [Direction(3, step, index, distribution) for step, index in ((0, 0), (0, 1), (9, 0))]
    return [
        Move((Term(z[0], 2.0**-10),)),
        Move((Term(z[0], -3e-4), Term(z[1], 0.07)), decay=0.999, rounding_key=(3, 1)),
        Move((Term(z[2], 1e-6),), rounding_key=(3, 2)),
        Move((Term(z[2], 3e-4),), rounding_key=(3, 3), to_nearest=True),
    ]


def apply(
    name: str, weight: torch.Tensor, distribution: Distribution, rounding: Rounding, decays: bool
) -> list[torch.Tensor]:
    """Weight and residual after the moves."""
    weight = weight.clone(memory_format=torch.preserve_format)
    residual = None
    if rounding.residual_dtype is not None and weight.dtype is torch.bfloat16:
        residual = torch.arange(weight.numel()).reshape(weight.shape).remainder(100).to(rounding.residual_dtype)
    target = Target(weight, Window.whole(77, weight.shape), decays, residual)
    backend(name).sweep_([target], moves(distribution), rounding)
    return [weight] if residual is None else [weight, residual]


def roundings(dtype: torch.dtype) -> list[Rounding]:
    return list(Rounding) if dtype is torch.bfloat16 else [Rounding.NEAREST, Rounding.STOCHASTIC]


CASES = [(dtype, rounding) for dtype in (torch.float32, torch.float64, *NARROW) for rounding in roundings(dtype)]


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("distribution", Distribution)
@pytest.mark.parametrize(("dtype", "rounding"), CASES, ids=str)
def test_equal_to_the_reference(name, distribution, dtype, rounding) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((), (1,), (257,), (130, 3), (5, 129), (300, 64), (2, 3, 70)):
        weight = (torch.randn(shape, generator=generator, dtype=torch.float64) * 0.05).to(dtype)
        expected = apply("reference", weight, distribution, rounding, decays=True)
        for mine, theirs in zip(apply(name, weight, distribution, rounding, decays=True), expected, strict=True):
            assert torch.equal(mine, theirs), shape


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 300), columns=st.integers(1, 40), row=st.integers(0, 1 << 34), column=st.integers(0, 50),
    gaussian=st.booleans(), dtype=st.sampled_from([torch.float32, *NARROW]),
)  # fmt: skip
def test_windows_into_displaced_copies(name, rows, columns, row, column, gaussian, dtype) -> None:
    """Any window of a larger parameter, written into a buffer of NaNs; the weight itself stays."""
    distribution = Distribution.GAUSSIAN if gaussian else Distribution.RADEMACHER
    window = Window(5, row, rows, column, columns, total_columns=columns + 57)
    weight = torch.linspace(-1, 1, rows * columns).reshape(rows, columns).to(dtype)
    before = weight.clone()
    results = []
    for which in ("reference", name):
        out = torch.full_like(weight, float("nan"))
        backend(which).axpby_(Target(weight, window, out=out), [Move((Term(Direction(1, 2, 3, distribution), 0.01),))])
        results.append(out)
    assert torch.equal(*results) and torch.equal(weight, before)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("distribution", Distribution)
@pytest.mark.parametrize("dtype", [torch.float32, *NARROW])
@pytest.mark.parametrize("steps", [1, 2])
def test_blocks_on_both_sides_of_a_carry(name, distribution, dtype, steps) -> None:
    """Within these rows the lower half of the block's number begins anew at column 496."""
    lanes = rademacher.LANES if distribution is Distribution.RADEMACHER else gaussian.LANES
    window = Window(5, lanes * (2**32 // 600), 3, 0, 515, 600)
    start = torch.linspace(-1, 1, 3 * 515).reshape(3, 515).to(dtype)
    results = [start.clone(), start.clone()]
    moves = [Move((Term(Direction(1, step, 3, distribution), 0.01),)) for step in range(steps)]
    for which, weight in zip(("reference", name), results, strict=True):
        backend(which).axpby_(Target(weight, window), moves)
    assert torch.equal(*results)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("rounding", [Rounding.STOCHASTIC, Rounding.RESIDUAL8])
@pytest.mark.parametrize(("column", "columns"), [(0, 515), (490, 20)])
def test_rounding_blocks_on_both_sides_of_a_carry(name, rounding, column, columns) -> None:
    """As above; the rows begin inside a block of sixteen."""
    window = Window(5, ROUNDING_LANES * (2**32 // 600) + 5, 30, column, columns, 600)
    start = torch.linspace(-1, 1, 30 * columns).reshape(30, columns).to(torch.bfloat16)
    results = []
    for which in ("reference", name):
        weight = start.clone()
        low = None if rounding is Rounding.STOCHASTIC else torch.zeros(start.shape, dtype=torch.int8)
        move = Move((Term(Direction(1, 2), 1e-4),), rounding_key=(1, 2))
        backend(which).axpby_(Target(weight, window, residual=low), [move], rounding)
        results.append((weight, torch.empty(0) if low is None else low))
    assert all(map(torch.equal, *results)) and not torch.equal(results[0][0], start)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("dtype", NARROW)
def test_numbers_that_are_none_and_infinite_ones(name, dtype) -> None:
    """Infinities stay or cancel. Which NaN comes out, torch itself does not define: that it is one, is compared."""
    start = torch.linspace(-1, 1, 5 * 515).reshape(5, 515).to(dtype)
    start[0], start[1], start[2], start[3] = torch.nan, -torch.nan, torch.inf, -torch.inf
    start.view(torch.int16)[0, ::3] |= 5
    for distribution in Distribution:
        for scale in (0.01, torch.inf, torch.finfo(torch.float32).max):
            results = [start.clone(), start.clone()]
            for which, weight in zip(("reference", name), results, strict=True):
                term = Term(Direction(1, 2, 3, distribution), scale)
                backend(which).axpby_(Target(weight, Window.whole(7, start.shape)), [Move((term,))])
            theirs, mine = results
            assert torch.equal(theirs.isnan(), mine.isnan()), (distribution, scale)
            assert torch.equal(*(weight.masked_fill(weight.isnan(), 0.5).view(torch.int16) for weight in results)), (
                distribution,
                scale,
            )


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(("dtype", "rounding"), CASES, ids=str)
@pytest.mark.parametrize("kind", ["update", "in place", "copy"])
def test_the_moves_of_a_step_on_rows_of_any_width(name, dtype, rounding, kind) -> None:
    """One Rademacher term a move, as almost every step makes them: backends have short cuts for these."""
    z = [Direction(3, step) for step in range(3)]
    update = Move((Term(z[0], -3e-4),), decay=1.0, rounding_key=(3, 1))
    around = [Move((Term(z[i], 2.0**-10),), to_nearest=True) for i in range(2)]
    given = {"update": [update], "in place": [around[0], update, around[1]], "copy": around[:1]}[kind]
    for shape in ((130, 33), (9, 515), (260, 1100), (3, 9001)):
        weight = (torch.linspace(-1, 1, shape[0] * shape[1]).reshape(shape) * 0.05).to(dtype)
        results = []
        for which in ("reference", name):
            mine, low = weight.clone(), None
            if rounding.residual_dtype is not None and dtype is torch.bfloat16:
                low = torch.arange(mine.numel()).reshape(shape).remainder(100).to(rounding.residual_dtype)
            out = torch.full_like(mine, torch.nan) if kind == "copy" else None
            backend(which).sweep_([Target(mine, Window.whole(7, shape), residual=low, out=out)], given, rounding)
            results.append([mine, *(t for t in (low, out) if t is not None)])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True)), shape


@pytest.mark.parametrize("name", available())
def test_non_contiguous_weights(name) -> None:
    if name == "triton":
        pytest.skip("tested with the kernels")
    weight = torch.randn(70, 130, generator=torch.Generator().manual_seed(0))
    expected = apply("reference", weight.t().contiguous(), Distribution.RADEMACHER, Rounding.NEAREST, decays=False)[0]
    assert torch.equal(apply(name, weight.t(), Distribution.RADEMACHER, Rounding.NEAREST, decays=False)[0], expected)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(name, threads) -> None:
    weight = torch.randn(2000, 300, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    count = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        mine = apply(name, weight, Distribution.RADEMACHER, Rounding.RESIDUAL8, decays=True)
    finally:
        torch.set_num_threads(count)
    expected = apply("reference", weight, Distribution.RADEMACHER, Rounding.RESIDUAL8, decays=True)
    assert all(torch.equal(a, b) for a, b in zip(mine, expected, strict=True))


def test_residual16_is_float32_arithmetic() -> None:
    weight = torch.randn(200, 30, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    residual = torch.zeros(weight.shape, dtype=torch.int16)
    single = weight.float()
    window = Window.whole(1, weight.shape)
    reference = backend("reference")
    reference.axpby_(Target(weight, window, True, residual), moves(Distribution.GAUSSIAN), Rounding.RESIDUAL16)
    reference.axpby_(Target(single, window, True), moves(Distribution.GAUSSIAN))
    bits = (weight.view(torch.int16).int() << 16) + residual.int()
    assert torch.equal(bits.view(torch.float32), single)


@pytest.mark.parametrize("dtype", NARROW)
def test_stochastic_rounding_is_unbiased(dtype) -> None:
    value = torch.tensor([0.0123456, -3.21e-6, 0.9999, -1e-7]).repeat_interleave(40_000).reshape(4, -1)
    weight = torch.zeros(value.shape, dtype=dtype)
    from zoft.backends.reference import stochastic
    from zoft.directions import rounding_bits

    rounded = stochastic(value, dtype, rounding_bits(0, 0, Window.whole(1, weight.shape))).double()
    spread = rounded.std(dim=1) / rounded.shape[1] ** 0.5
    assert bool(((rounded.mean(dim=1) - value[:, 0].double()).abs() <= 5 * spread + 1e-12).all())


def test_a_backend_that_is_not_there_is_an_error_that_names_the_others() -> None:
    with pytest.raises(UsageError, match="backend 'cuda' does not exist; available: auto, reference"):
        backend("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_triton_without_a_gpu_is_an_error_that_names_the_others(monkeypatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UsageError, match=r"backend 'triton' needs a CUDA device .*; available: auto, reference"):
        backend("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "triton" in available()
