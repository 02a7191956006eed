"""The guard alone: which losses it lets pass, and a climb too slow for its short memory."""

import json
import random

import pytest

from zoft.governor import Evidence
from zoft.stability import Guard


def judged(guard: Guard, losses: list[float]) -> list[str]:
    return [guard.judge(Evidence(step, 0.1, loss, (1.0,))) for step, loss in enumerate(losses)]


FALL = [0.2 + 0.8 * 0.98**step for step in range(400)]
CLIMB = [0.2 * 1.003**step for step in range(1000)]  # as at the edge of stability: threefold in 370 steps


def test_a_slow_climb_is_no_jump_but_is_rewound() -> None:
    short = Guard(may_rewind=True, rise=None)
    assert set(judged(short, FALL + CLIMB)) == {"pass"} and not short.climbed
    guard = Guard(may_rewind=True)
    assert set(judged(guard, FALL)) == {"pass"} and guard.good
    verdicts = judged(guard, CLIMB)
    assert verdicts.index("rewind") in range(366, 566)  # the average of 100 steps lags behind the loss by about 100
    assert guard.climbed and not guard.good and guard.refused == verdicts.count("rewind")
    guard.rewound()
    assert not guard.good  # not known yet
    assert set(judged(guard, FALL[-100:])) == {"pass"} and guard.good


def test_the_place_is_no_longer_good_long_before_it_is_bad() -> None:
    guard = Guard(may_rewind=True)
    judged(guard, FALL)
    climb = iter(CLIMB)
    while guard.good:
        judged(guard, [next(climb)])
    assert not guard.climbed and next(climb) < 2.0 * 0.2


def test_without_rewinding_a_slow_climb_passes() -> None:
    assert set(judged(Guard(), FALL + CLIMB)) == {"pass"}


def test_noise_around_a_small_loss_is_no_climb() -> None:
    rng = random.Random(0)
    losses = [max(0.01, 0.99**step) * rng.expovariate(1.0) for step in range(3000)]
    guard = Guard(threshold=100.0, may_rewind=True)
    assert set(judged(guard, losses)) == {"pass"}


@pytest.mark.parametrize("shift", [0.0, -0.3, -40.0])
def test_a_loss_below_zero_has_no_multiples(shift: float) -> None:
    """Minus a score: it is a climb when what was gained is lost again, and not before, wherever zero is."""
    rng = random.Random(1)
    gained = [shift - min(0.8, step / 500) + rng.gauss(0.0, 0.1) for step in range(1500)]
    lost = [shift - 0.8 + step / 500 + rng.gauss(0.0, 0.1) for step in range(700)]
    guard = Guard(may_rewind=True)
    assert set(judged(guard, gained)) == {"pass"} and guard.good
    verdicts = judged(guard, lost)
    assert verdicts.index("rewind") in range(400, 600) and guard.climbed and not guard.good
    guard.rewound()
    assert set(judged(guard, gained[-200:])) == {"pass"} and guard.good


def test_state_goes_into_a_checkpoint_and_back() -> None:
    one, two = Guard(may_rewind=True), Guard(may_rewind=True)
    judged(one, FALL[:30])
    for losses in (FALL[30:], CLIMB):
        two.load(json.loads(json.dumps(one.state())))
        assert judged(one, losses) == judged(two, losses)


def of_block(guard: Guard, step: int, slope: float, blocks: int) -> str:
    return guard.judge(Evidence(step, 0.1, 1.0, (slope,), block=step % blocks))


def test_a_block_with_a_short_history_is_held_against_the_steepest() -> None:
    guard = Guard()
    for step in range(400):  # ten steps of each of 40 blocks
        assert of_block(guard, step, 30.0 if step % 40 == 7 else 1.0, 40) == "pass"
    assert of_block(guard, 400, 200.0, 40) == "pass"  # 7 times the steepest
    assert of_block(guard, 401, 1e4, 40) == "refuse"


def test_a_new_level_of_one_block_is_its_own() -> None:
    """The others are still held against their history, and so is the loss."""
    guard = Guard(patience=3)
    for step in range(400):
        assert of_block(guard, step, 1.0, 4) == "pass"
    verdicts = [of_block(guard, step, 50.0 if step % 4 == 3 else 1.0, 4) for step in range(400, 440)]
    assert [i for i, verdict in enumerate(verdicts) if verdict == "refuse"] == [3, 7, 11]
    assert of_block(guard, 440, 100.0, 4) == "refuse"
    assert guard.judge(Evidence(441, 0.1, 50.0, (1.0,), block=1)) == "refuse"


def test_a_block_that_jumps_is_rewound_to_before_its_first_refusal() -> None:
    guard = Guard(patience=3, may_rewind=True)
    for step in range(400):
        of_block(guard, step, 1.0, 4)
    verdicts = {step: of_block(guard, step, 50.0 if step % 4 == 3 else 1.0, 4) for step in range(400, 412)}
    assert verdicts[411] == "rewind" and verdicts[403] == "refuse" and not guard.good
    assert guard.waited == 8
    again = Guard(patience=3, may_rewind=True)
    again.load(json.loads(json.dumps(guard.state())))
    assert again.state() == guard.state()
