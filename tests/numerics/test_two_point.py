"""What the mean of the two-point estimate is, by enumeration of every sign vector; and which numbers a step can have."""

import itertools

import pytest
import torch
from torch import nn

from zoft.directions import DirectionSource, LowRank
from zoft.directions.direction import MAX_INDEX
from zoft.errors import UsageError
from zoft.estimators import estimator
from zoft.limits import MOST_DIRECTIONS, SEEDS
from zoft.optimizer import BEFORE, ZOOptimizer
from zoft.trainer.refused import check_training_settings
from zoft.trainer.settings import ZOSettings

D, EPS = 4, 0.7


def test_with_signs_the_mean_is_off_the_smoothed_gradient_by_third_derivatives() -> None:
    generator = torch.Generator().manual_seed(0)
    g, H, T = (torch.randn((D,) * n, generator=generator, dtype=torch.float64) for n in (1, 2, 3))
    w = torch.randn(D, generator=generator, dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return g @ x + x @ H @ x + torch.einsum("ijk,i,j,k", T, x, x, x)

    signs = [torch.tensor(s, dtype=torch.float64) for s in itertools.product((1.0, -1.0), repeat=D)]
    two_point, directions = estimator("two_point", eps=EPS), DirectionSource(0).at(0)
    losses = [[float(loss(w + EPS * z)), float(loss(w - EPS * z))] for z in signs]
    mean = sum(two_point.estimate(directions, pair).coefficients[0] * z for z, pair in zip(signs, losses, strict=True))
    smoothed = sum(torch.autograd.functional.jacobian(loss, w + EPS * z) for z in signs)
    third = 6.0 * torch.stack([T[i, i, i] for i in range(D)])
    off = (mean - smoothed) / len(signs)
    torch.testing.assert_close(off, -(EPS**2) / 3.0 * third, rtol=1e-10, atol=1e-12)


BAD = [
    ("directions", (0, -1, 2.0, MAX_INDEX, True, "2", None)),
    ("lr", ("auto", -1.0, float("nan"), float("inf"), None)),
    ("eps", ("1e-3", 0.0, -1.0, float("nan"))),
    ("weight_decay", (-1.0, float("nan"), "0.1")),
    ("seed", (-1, SEEDS, 1.0)),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD for value in values])
def test_numbers_that_no_step_can_have(name, value) -> None:
    word = {"lr": "learning_rate"}.get(name, name)
    with pytest.raises(UsageError, match=f"{word} must be .*{value}"):
        ZOOptimizer(nn.Linear(2, 1), **{"lr": 0.1, name: value})
    with pytest.raises(UsageError, match=f"{word} must be"):
        if name in ("directions", "eps"):
            ZOSettings(**{f"zo_{name}": value})
        elif value is None:  # in Trainer's arguments: not given
            raise UsageError(f"{word} must be given")
        else:
            check_training_settings({word: "Auto" if value == "auto" else value})


@pytest.mark.parametrize("name", ["zo_momentum", "zo_beta2", "stability_ema"])
@pytest.mark.parametrize("value", [1.0, -0.1, float("nan"), "0.5", None])
def test_shares_that_no_average_can_have(name, value) -> None:
    with pytest.raises(UsageError, match=f"{name} is the share of the past"):
        ZOSettings(**{name: value})


@pytest.mark.parametrize("value", [0, 2.5, "3", True])
@pytest.mark.parametrize("name", ["zo_momentum_window", "stability_every", "guard_patience"])
def test_counts_that_no_run_can_have(name, value) -> None:
    with pytest.raises(UsageError, match=f"{name} must be at least 1, a whole number, but .*{value}"):
        ZOSettings(**{name: value})


@pytest.mark.parametrize("value", ["1", float("inf"), float("nan"), 0])
@pytest.mark.parametrize(
    "name", ["stability_radius", "stability_margin", "stability_drift", "guard_threshold", "guard_rise"]
)
def test_bounds_of_the_monitor(name, value) -> None:
    with pytest.raises(UsageError, match=f"{name} must be a positive number"):
        ZOSettings(**{name: value})


@pytest.mark.parametrize(
    "given",
    [
        {"zo_momentum": 0.5},
        {"zo_rule": "momentum", "zo_beta2": 0.5},
        {"zo_momentum_buffer": "full"},
        {"guard_rise": 2.0},
        {"guard": "off", "guard_patience": 2},
        {"stability": "off", "stability_probes": 2},
    ],
)
def test_a_setting_that_nothing_reads(given) -> None:
    with pytest.raises(UsageError, match=f"{list(given)[-1]}=.* does not read it: leave it out"):
        ZOSettings(**given)


def test_the_most_directions_fit_the_address() -> None:
    assert MOST_DIRECTIONS < MAX_INDEX
    assert len(DirectionSource(SEEDS - 1).at(0, MOST_DIRECTIONS)) == MOST_DIRECTIONS
    check_training_settings({"learning_rate": "auto", "seed": 0, "weight_decay": 0})


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"eps": 0.5}, "estimator"), ({"directions": 2}, "directions"), ({"perturbation": "in_place"}, "perturbation")],
)
def test_a_state_of_other_settings_is_refused(changed, word) -> None:
    model = nn.Linear(2, 1)
    state = ZOOptimizer(model, 0.1).state_dict()
    ZOOptimizer(model, 0.1).load_state_dict(state)
    with pytest.raises(UsageError, match=f"trained with {word}"):
        ZOOptimizer(model, 0.1, **changed).load_state_dict(state)


def test_a_state_from_before_a_setting_existed_goes_on() -> None:
    """What such a checkpoint does not name was as it is by default; a run with another setting is still refused."""
    model = nn.Linear(2, 1)
    optimizer = ZOOptimizer(model, 0.1)
    optimizer.step(lambda: model(torch.ones(3, 2)).sum())
    state = optimizer.state_dict()
    assert BEFORE.keys() >= {"merge_every", "panels", "blocks", "form"}
    for key in (*BEFORE, "thresholds"):
        del state["zoft"][key]
    resumed = ZOOptimizer(model, 0.1)
    resumed.load_state_dict(state)
    assert resumed.steps == 1
    with pytest.raises(UsageError, match="trained with panels 'jit', this run has 'lockstep'"):
        ZOOptimizer(model, 0.1, panels="lockstep").load_state_dict(state)
    with pytest.raises(UsageError, match=r"trained with form \[\], this run has"):
        ZOOptimizer(model, 0.1, form=LowRank("low_rank", 2, 1)).load_state_dict(state)


def test_a_second_parameter_group_is_refused() -> None:
    optimizer = ZOOptimizer(nn.Linear(2, 1), 0.1)
    with pytest.raises(UsageError, match="second parameter group would not be trained"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 1.0})
    assert len(optimizer.param_groups) == 1
