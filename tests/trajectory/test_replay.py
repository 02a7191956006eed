"""replay(log) equals the weights, bit for bit, whatever the run was; and nothing else passes for its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.trajectory.runs import Moody, Tiny, adapted, detach, make, recorded, train
from zoft.directions import LowRank
from zoft.directions.low_rank import SHAPES
from zoft.errors import UsageError
from zoft.estimators import ESTIMATORS
from zoft.rules import spend
from zoft.trajectory import Snapshot, TrajectoryError, TrajectoryLog, attach, merge, replay, rewind
from zoft.trajectory.compact import encode_compact
from zoft.trajectory.record import record_bytes

ONE_IS_ENOUGH = ("two_point", "three_point", "one_sided", "conservative")  # directions; the others compare several
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@st.composite
def runs(draw: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], Any, bool]:
    """(model, optimizer, loop) settings of any run that is allowed; who makes the model; are steps capped and refused."""
    dtype = draw(st.sampled_from(DTYPES))
    sixteen = dtype in (torch.bfloat16, torch.float16)
    perturbation = draw(st.sampled_from(["read_only", "in_place"]))
    roundings = ["auto", "nearest", "stochastic"]
    if perturbation == "read_only" and dtype is not torch.float16:
        roundings += ["residual8", "residual16"]
    law = "rademacher" if sixteen and perturbation == "in_place" else draw(st.sampled_from(["rademacher", "gaussian"]))
    estimator = draw(st.sampled_from([name for name in ESTIMATORS if name != "three_point"]))
    form = draw(st.one_of(st.none(), st.builds(LowRank, st.sampled_from(SHAPES), st.integers(1, 3), st.integers(1, 3))))
    rules = ["sgd", "momentum", "adam"]
    if law == "rademacher" and form is None and estimator == "two_point":
        rules.append("sign")
    if law == "gaussian" and form is None and estimator == "two_point" and perturbation == "read_only":
        rules.append("hizoo")
    rule = draw(st.sampled_from(rules))
    estimator = "three_point" if rule == "hizoo" else estimator
    window: dict[str, Any] = {}
    if rule in ("momentum", "adam"):
        how = draw(st.one_of(st.builds(dict, window=st.integers(1, 4)), st.just({"buffer": "full"})))
        window = {"beta": draw(st.sampled_from([0.0, 0.5, 0.9])), **how}
    model = {
        "dtype": dtype,
        "width": draw(st.integers(1, 9)),
        "tied": draw(st.booleans()),
        "frozen": draw(st.booleans()),
    }
    optimizer = {
        "perturbation": perturbation,
        "weight_rounding": draw(st.sampled_from(roundings)),
        "distribution": law,
        "directions": 1
        if rule == "sign"
        else draw(st.integers(1, 3) if estimator in ONE_IS_ENOUGH else st.integers(3, 4)),
        "estimator": estimator,
        "form": form,
        "weight_decay": draw(st.sampled_from([0.0, 0.1, 5e-4])),  # the last: less than float32 can pay in one step
        "rule": rule,
        "rule_settings": window,
        "seed": draw(st.integers(0, 2**32 - 1)),
    }
    return (
        model,
        optimizer,
        {"accumulate": draw(st.integers(1, 2)), "nonfinite": draw(st.sampled_from([(), (0,), (2, 3)]))},
        draw(st.sampled_from([Tiny, adapted])),
        draw(st.booleans()),
    )


@pytest.mark.filterwarnings("ignore:perturbation=in_place")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=runs(), steps=st.integers(1, 6), until=st.integers(0, 6))
def test_replay_equals_the_run(run: Any, steps: int, until: int, tmp_path: Path) -> None:
    of_model, of_optimizer, of_loop, kind, moody = run
    optimizer = make(kind(**of_model), **of_optimizer)
    optimizer.governor = Moody() if moody else None
    path = tmp_path / "trajectory.zoft"
    path.unlink(missing_ok=True)
    recorder = attach(optimizer, path)
    until = min(until, steps)
    train(optimizer, until, **of_loop)
    earlier = optimizer.space.fingerprint()
    train(optimizer, steps, **of_loop)
    detach(optimizer, recorder)

    log = TrajectoryLog.read(path)
    assert not moody or [int(s.flags) & 6 for s in log.steps] == [(0, 4, 2, 0, 4, 0)[n] for n in range(steps)]
    arrived = replay(kind(**of_model), log)
    assert arrived.space.fingerprint() == optimizer.space.fingerprint()
    assert arrived.rule_state == optimizer.rule_state
    assert replay(kind(**of_model), log, until).space.fingerprint() == earlier

    small = path.with_suffix(".compact")
    small.write_bytes(encode_compact(log))
    published = TrajectoryLog.read(small, until)
    assert replay(kind(**of_model), published).space.fingerprint() == earlier


def test_replay_leaves_requires_grad_and_the_rest_alone(tmp_path: Path) -> None:
    recorded(tmp_path / "log", 4, Tiny(frozen=True))
    base = Tiny()
    inner = base.inner.weight.clone()
    replay(base, TrajectoryLog.read(tmp_path / "log"))
    assert all(weight.requires_grad for weight in base.parameters())
    assert torch.equal(base.inner.weight, inner)


def test_adapter_on_a_frozen_base(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    def model() -> nn.Module:
        torch.manual_seed(5)
        return get_peft_model(Tiny(tied=False), LoraConfig(r=2, target_modules=["inner", "head"]))  # type: ignore[arg-type]

    optimizer = recorded(tmp_path / "log", 5, model(), directions=2)
    log = TrajectoryLog.read(tmp_path / "log")
    assert replay(model(), log).space.fingerprint() == optimizer.space.fingerprint()
    other = model()
    with torch.no_grad():
        other.get_submodule("base_model.model.embed").get_parameter("weight")[3, 1] += 1e-3
    with pytest.raises(TrajectoryError, match="frozen weights"):
        replay(other, log)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: Tiny().requires_grad_(False), None),
        (lambda: _nudged(), "wrong base model"),
        (lambda: Tiny(width=6), "in its dtype"),
        (lambda: Tiny(torch.bfloat16), "in its dtype"),
        (lambda: nn.Linear(3, 3), "has no"),
    ],
)
def test_only_the_base_of_the_run_is_accepted(spoil: Any, message: str | None, tmp_path: Path) -> None:
    optimizer = recorded(tmp_path / "log", 3)
    log = TrajectoryLog.read(tmp_path / "log")
    model = spoil()
    if message is None:
        assert replay(model, log).space.fingerprint() == optimizer.space.fingerprint()
        return
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(TrajectoryError, match=message):
        replay(model, log)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def _nudged() -> nn.Module:
    model = Tiny()
    with torch.no_grad():
        model.norm.bias[2] = torch.nextafter(model.norm.bias[2], torch.tensor(1.0))
    return model


def test_replay_goes_through_spend(tmp_path: Path) -> None:
    """The record is the step that the optimizer consumed, to the last field."""
    taken = []
    optimizer = make(Tiny(), directions=2, weight_decay=0.1)
    optimizer.observers.append(taken.append)
    recorder = attach(optimizer, tmp_path / "log")
    train(optimizer, 12)
    detach(optimizer, recorder)
    log = TrajectoryLog.read(tmp_path / "log")
    assert list(log.steps) == taken
    (tmp_path / "small").write_bytes(encode_compact(log))
    owed, paid = {}, {}
    for step, small in zip(taken, TrajectoryLog.read(tmp_path / "small").steps, strict=True):
        (move, owed), (other, paid) = spend(optimizer.rule, owed, step), spend(optimizer.rule, paid, small)
        assert move is not None and other is not None
        as32 = [torch.tensor([term.scale for term in m.terms] + [m.decay]) for m in (move, other)]
        assert (
            torch.equal(*as32)
            and move.decay == other.decay
            and [t.direction for t in move.terms] == [t.direction for t in other.terms]
        )


def test_a_log_that_begins_with_a_debt_is_published_without_one(tmp_path: Path) -> None:
    first = make(Tiny(), weight_decay=5e-4)
    train(first, 4)
    assert 0.0 < first.rule_state["decay_debt"] < 2.0**-16  # lr 0.02: a payment every second step
    base, start = Tiny(), Tiny()
    for model in (base, start):
        model.load_state_dict(first.model.state_dict())
    second = make(base, weight_decay=5e-4)
    second.load_state_dict(first.state_dict())
    recorder = attach(second, tmp_path / "log")
    train(second, 9)
    detach(second, recorder)
    log = TrajectoryLog.read(tmp_path / "log")
    (tmp_path / "small").write_bytes(encode_compact(log))
    assert replay(start, TrajectoryLog.read(tmp_path / "small")).space.fingerprint() == second.space.fingerprint()


@pytest.mark.parametrize("schedule", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sizes(schedule: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    """At most 64 bytes a step in a run, at most 12 published, at q = 1; also with a learning rate that always changes."""
    for rule in ("sgd", "momentum", "adam"):
        optimizer = make(nn.Linear(2, 1).to(dtype), rule=rule, weight_decay=0.1)
        recorder = attach(optimizer, tmp_path / rule)
        for step in range(20):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step) if schedule else 0.1
            optimizer.step(lambda step=step: float(step))
        detach(optimizer, recorder)
        log = TrajectoryLog.read(tmp_path / rule)
        assert record_bytes(log.header) == 56
        whole, part = encode_compact(log), encode_compact(log.until(10))
        assert (len(whole) - len(part)) / 10 <= 12


def test_merge_of_one_log_is_replay_and_scales_add_up(tmp_path: Path) -> None:
    optimizer = recorded(tmp_path / "a", 12)
    recorded(tmp_path / "b", 12, seed=4)
    a, b = TrajectoryLog.read(tmp_path / "a"), TrajectoryLog.read(tmp_path / "b")
    assert merge(Tiny(), [(a, 1.0)]).fingerprint() == optimizer.space.fingerprint()
    full = recorded(tmp_path / "full", 12, rule="momentum", rule_settings={"buffer": "full"})
    whole = merge(Tiny(), [(a, 0.0), (TrajectoryLog.read(tmp_path / "full"), 1.0)])
    assert whole.fingerprint() == full.space.fingerprint()
    base, wide = Tiny(), [Tiny(), Tiny(), Tiny()]
    merge(wide[0], [(a, 0.5), (b, -2.0)])
    replay(wide[1], a)
    replay(wide[2], b)
    for w0, merged, wa, wb in zip(base.parameters(), *(m.parameters() for m in wide), strict=True):
        truth = w0.double() + 0.5 * (wa.double() - w0) - 2.0 * (wb.double() - w0)
        assert float((merged - truth).detach().abs().max()) < 64 * 2.0**-24  # 24 float32 roundings of numbers below 1
    decayed = recorded(tmp_path / "c", 3, weight_decay=0.1)
    assert decayed.steps == 3
    with pytest.raises(TrajectoryError, match="weight decay"):
        merge(Tiny(), [(TrajectoryLog.read(tmp_path / "c"), 0.5)])


@pytest.mark.parametrize(("rule", "own"), [("sgd", {}), ("adam", {}), ("momentum", {"buffer": "full"})])
def test_rewind_inside_a_run(rule: str, own: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "log"
    optimizer = make(Tiny(torch.bfloat16), rule=rule, rule_settings=own, weight_rounding="residual8")
    recorder = attach(optimizer, path)
    train(optimizer, 3)
    snapshot = Snapshot.take(optimizer)
    train(optimizer, 9)
    wanted = optimizer.space.fingerprint(), optimizer.rule_state
    train(optimizer, 15)
    end = optimizer.space.fingerprint()
    detach(optimizer, recorder)
    rewind(optimizer, TrajectoryLog.read(path), 9, snapshot)
    assert (optimizer.space.fingerprint(), optimizer.rule_state) == wanted
    again = attach(optimizer, path)
    train(optimizer, 15)
    detach(optimizer, again)
    assert optimizer.space.fingerprint() == end
    assert len(TrajectoryLog.read(path).steps) == 15
    with pytest.raises(TrajectoryError, match="cannot rewind"):
        rewind(optimizer, TrajectoryLog.read(path), 2, snapshot)


def test_until_beyond_the_end(tmp_path: Path) -> None:
    recorded(tmp_path / "log", 3)
    with pytest.raises(UsageError, match="does not reach step 4"):
        TrajectoryLog.read(tmp_path / "log", until=4)
