"""Rules over lists of directions against the tensor recurrences that they stand for, in float64."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch

from zoft.directions import DirectionSource, Window, draw
from zoft.errors import UsageError
from zoft.estimate import Estimate, Flag, Step
from zoft.rules import RULES, in_single, rule, spend
from zoft.space import ParameterSpace

WINDOW = Window.whole(7, (6, 5))
SOURCE = DirectionSource(2)


def steps(count: int, q: int = 2, lr: float = 0.125, seed: int = 0) -> list[Step]:
    coefficients = torch.randn(
        count, q, generator=torch.Generator().manual_seed(seed)
    ).tolist()  # float32, as rules spend
    return [Step(t, Estimate(SOURCE.at(t, q), tuple(c), 0.0), lr) for t, c in enumerate(coefficients)]


def gradient(step: Step) -> torch.Tensor:
    pairs = zip(step.estimate.directions, step.estimate.coefficients, strict=True)
    return sum((c * draw(d, WINDOW).double() for d, c in pairs), torch.zeros(6, 5, dtype=torch.float64))


def displacements(name: str, taken: list[Step], **settings: Any) -> list[torch.Tensor]:
    """What each step adds to the weights."""
    made = rule(name, **settings)
    state, found = made.init(), []
    for step in taken:
        move, state = spend(made, state, step)
        zero = torch.zeros(6, 5, dtype=torch.float64)
        found.append(sum((t.scale * draw(t.direction, WINDOW).double() for t in move.terms), zero) if move else zero)
    return found


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal up to the rounding of sums of some hundred float64 terms."""
    return bool((a - b).abs().max() <= 1e-12 * (1.0 + b.abs().max()))


def test_momentum_is_heavy_ball_while_the_window_lasts() -> None:
    taken = steps(8)
    m = torch.zeros(6, 5, dtype=torch.float64)
    for step, found in zip(taken, displacements("momentum", taken, beta=0.7, window=9), strict=True):
        m = 0.7 * m + gradient(step)
        assert close(found, -0.125 * m)


def test_momentum_loses_nothing_when_the_window_is_full() -> None:
    """Every gradient moves the weights by lr / (1 - beta) of itself in all, however short the window is."""
    active = steps(6)
    quiet = [Step(6 + t, Estimate(SOURCE.at(6 + t), (0.0,), 0.0), 0.125) for t in range(5)]
    whole = sum(map(gradient, active), torch.zeros(6, 5, dtype=torch.float64)) * (-0.125 / (1.0 - 0.7))
    for window in (1, 2, 5):
        assert close(sum(displacements("momentum", [*active, *quiet], beta=0.7, window=window)), whole)  # type: ignore[arg-type]


def test_window_bounds_the_terms_and_the_early_share() -> None:
    made = rule("momentum", beta=0.9)
    state = made.init()
    for step in steps(60, q=1):
        move, state = spend(made, state, step)
    assert move is not None and len(move.terms) == made.settings()["window"] == 44
    assert 0.9**44 <= 0.01 < 0.9**43


def test_momentum_zero_is_sgd() -> None:
    taken = steps(5)
    for a, b in zip(displacements("momentum", taken, beta=0.0), displacements("sgd", taken), strict=True):
        assert torch.equal(a, b)


def test_adam_is_adam_with_one_second_moment() -> None:
    taken = steps(8)
    m, v = torch.zeros(6, 5, dtype=torch.float64), 0.0
    settings = {"beta": 0.8, "beta2": 0.95, "delta": 1e-3, "window": 9}
    for t, (step, found) in enumerate(zip(taken, displacements("adam", taken, **settings), strict=True), start=1):
        m = 0.8 * m + 0.2 * gradient(step)
        v = 0.95 * v + 0.05 * sum(c * c for c in step.estimate.coefficients)
        assert close(found, -0.125 * (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)) ** 0.5 + 1e-3))


def test_adam_does_not_depend_on_the_scale_of_the_loss() -> None:
    taken = steps(20, q=1)
    scaled = [
        Step(s.index, Estimate(s.estimate.directions, (s.estimate.coefficients[0] * 1024,), 0.0), s.lr) for s in taken
    ]
    for a, b in zip(displacements("adam", taken, delta=1e-30), displacements("adam", scaled, delta=1e-30), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule(name: str) -> None:
    made = rule(name)
    assert rule(**made.settings()).settings() == made.settings() == json.loads(json.dumps(made.settings()))
    state = made.init()
    for step in steps(5, q=1 if name == "sign" else 2):
        before = json.dumps(state)
        _, after = spend(made, state, step)
        assert json.dumps(state) == before, "update must not change the state it was given"
        state = after
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == json.loads(json.dumps(state)) == state
    skipped = Step(5, Estimate(SOURCE.at(5), (float("nan"),), float("nan")), 0.1, flags=Flag.NONFINITE)
    assert spend(made, state, skipped) == (None, state)


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("nesterov", {}, "there are: sgd"),
        ("sgd", {"beta": 0.9}, "cannot take"),
        ("momentum", {"beta": 1.0}, "zo_momentum"),
        ("momentum", {"beta": -0.1}, "zo_momentum"),
        ("momentum", {"window": 0}, "window"),
        ("adam", {"beta2": 1.5}, "zo_beta2"),
        ("adam", {"delta": 0.0}, "delta"),
        ("adam", {"window": 2.5}, "window"),
        ("adam", {"buffer": "half"}, "window or full"),
        ("momentum", {"buffer": "full", "window": 3}, "has no window"),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        rule(name, **settings)


@pytest.mark.parametrize("share", [1e-9, 1e-7, 2.5e-6, 1e-3], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_decay_shrinks_the_weights_however_small_lr_times_weight_decay_is(share: float, dtype: torch.dtype) -> None:
    """In all by prod(1 - lr * weight_decay), up to the unpaid rest and the rounding of payments; 1 - 1e-9 is 1 in float32."""
    count = 40_000 if share == 1e-9 else 2_000
    module = torch.nn.Linear(50, 40, bias=False, dtype=dtype)
    torch.nn.init.uniform_(module.weight, 0.5, 1.0)
    space = ParameterSpace(module, rounding="residual16" if dtype is torch.bfloat16 else "nearest")
    before = stored(space).double().sum()
    made, state = rule("sgd"), {}
    for index in range(count):
        quiet = Step(index, Estimate(SOURCE.at(index), (0.0,), 0.0), lr=share * 10, weight_decay=0.1)
        move, state = spend(made, state, quiet)
        assert move is not None
        if move.decay != 1.0:
            assert 1.0 - move.decay >= 2.0**-16
            space.move_([move])
    left = float(stored(space).double().sum() / before)
    intended = (1.0 - share) ** count
    # A weight is rounded by half a spacing (2^-25 of a weight in [0.5, 1)) a payment, independently: 2,000 weights and n
    # payments leave a mean error of 2^-25 sqrt(n / 2000), and a bias of at most that of ties; 10 % of the smallest payment is
    # ample. Late payment changes each by at most 2^-16 of itself.
    assert abs(left - intended) <= 2.0**-16 * (1.0 - intended) + state.get("decay_debt", 0.0) + 0.1 * 2.0**-16
    if share == 1e-9:
        assert 1.0 - left > 2.0**-16 * 1.9 and float(torch.tensor(1.0 - share)) == 1.0


def stored(space: ParameterSpace) -> torch.Tensor:
    """The weight that is stored, residual bits included."""
    slot = space.slots[0]
    if slot.residual is None:
        return slot.weight.detach()
    return ((slot.weight.detach().view(torch.int16).int() << 16) + slot.residual.int()).view(torch.float32)


@pytest.mark.parametrize("name", sorted(RULES))
def test_rules_with_a_state_spend_float32_scalars(name: str) -> None:
    """So that a published step can hold them in 4 bytes each; plain descent spends what it is given."""
    fine = Step(0, Estimate(SOURCE.at(0), (1.0 / 3.0,), 0.0), 0.1, weight_decay=0.1)
    made = rule(name)
    coarse = in_single(fine)
    assert in_single(coarse) == coarse != fine
    spent, rounded = spend(made, made.init(), fine), spend(made, made.init(), coarse)
    assert (spent == rounded) == (name != "sgd")
