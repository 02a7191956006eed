"""zo_merge_every: updates of matrices wait beside them; losses, the log, replay and whoever reads a weight account for it."""

from __future__ import annotations

import importlib.util
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import zoft
from tests.trajectory.runs import Moody, Tiny, detach, loss, make, train
from zoft.agreement import Agreement
from zoft.backends import Move, Term
from zoft.directions import Blocks, LowRank, draw
from zoft.errors import UsageError
from zoft.estimate import Flag
from zoft.lockstep import TakenLoss
from zoft.objectives import CandidateLikelihood
from zoft.optimizer import ZOOptimizer
from zoft.perturb import evaluation_mode
from zoft.same_draws import SameDraws
from zoft.space import ParameterSpace
from zoft.stability import StabilitySettings, govern
from zoft.tasks.collate import Collator
from zoft.trainer.settings import ZOSettings
from zoft.trajectory import Snapshot, TrajectoryError, TrajectoryLog, attach, replay, rewind
from zoft.trajectory.compact import encode_compact

spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parents[1] / "objectives" / "conftest.py")
assert spec is not None and spec.loader is not None
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
BATCH = Collator(0, 3)(tiny.one_token_answers().items)
FORMS = [LowRank("low_rank", 1), LowRank("low_rank", 2, 3), LowRank("subspace", 2, 3)]


def waiting(model: torch.nn.Module, every: int = 4, **settings: Any) -> ZOOptimizer:
    """An optimizer whose matrices wait."""
    optimizer = make(model, **{"form": FORMS[1], "merge_every": every, "directions": 2, **settings})
    optimizer.ahead = True
    return optimizer


def labels(model: Any) -> Callable[[dict[str, Any]], torch.Tensor]:
    """By the rows of the head that the candidates have."""
    return lambda batch: CandidateLikelihood().losses(model, batch)


def logits(model: Any) -> Callable[[dict[str, Any]], torch.Tensor]:
    """By all rows of the head."""

    def losses(batch: dict[str, Any]) -> torch.Tensor:
        found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return found.float().square().mean((1, 2))

    return losses


def losses_around(optimizer: ZOOptimizer, closure: Any) -> torch.Tensor:
    """At the weights and at the points of the step to come."""
    taken = SameDraws(TakenLoss(closure), {torch.device("cpu")})
    points = [(), *optimizer._population(optimizer.steps)]
    with evaluation_mode(optimizer.model):
        found = optimizer.perturbation.losses(points, taken)
    taken.leave()
    return torch.tensor([whole for whole, _, _ in found], dtype=torch.float64)


@pytest.mark.parametrize("panels", ["jit", "lockstep"])
@pytest.mark.parametrize("objective", [labels, logits])
@pytest.mark.parametrize("name", ["opt", "llama", "gpt2"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_losses_with_what_waits_are_those_of_merged_weights(form, name, objective, panels) -> None:
    """Embedding, tied head, label rows, whole displaced matrices (gpt2); 1e-6 in float32, far below what waits."""
    model = tiny.build(name)
    optimizer = ZOOptimizer(
        model, lr=2e-3, eps=2.0**-8, directions=2, form=form, panels=panels, merge_every=9, rule="momentum"
    )
    optimizer.ahead = True
    closure = zoft.BatchLoss(objective(model), BATCH)
    for _ in range(5):
        optimizer.step(closure)
    assert optimizer.backlog
    beside = losses_around(optimizer, closure)
    point, optimizer.backlog.point = optimizer.backlog.point, ()
    without = losses_around(optimizer, closure)
    optimizer.backlog.point = point
    optimizer.settle()
    assert not optimizer.backlog
    merged = losses_around(optimizer, closure)
    assert float((beside - merged).abs().max()) < 1e-6 * float(merged.abs().max())
    assert float((without - merged).abs().max()) > 1e-4 * float(merged.abs().max())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_weights_are_those_before_plus_all_updates(form: LowRank) -> None:
    """In float64: w0 - lr sum of c z over all steps, merged at 4, 8 and when it is asked for."""
    optimizer = waiting(Tiny(torch.float64), form=form)
    wanted = {slot: slot.weight.detach().clone() for slot in optimizer.space.slots}
    for step in range(10):
        optimizer.step(lambda step=step: loss(optimizer.model, step))
        assert optimizer.last is not None
        estimate = optimizer.last.estimate
        for direction, coefficient in zip(estimate.directions, estimate.coefficients, strict=True):
            for slot, weight in wanted.items():
                z = draw(direction, slot.window).double().view(weight.shape)
                weight -= optimizer.last.lr * coefficient * z
    optimizer.settle()
    for slot, weight in wanted.items():
        torch.testing.assert_close(slot.weight.detach(), weight, rtol=0, atol=1e-14)


@pytest.mark.parametrize("rounding", ["stochastic", "nearest", "residual8", "residual16"])
def test_many_updates_are_rounded_once(rounding: str) -> None:
    """Matrices stand still between merges, then make one move with the last step's bits; vectors move at every step."""
    optimizer = waiting(Tiny(torch.bfloat16), 3, weight_rounding=rounding)
    twin = ParameterSpace(Tiny(torch.bfloat16), rounding=rounding, shaped=True)
    moves = []
    for step in range(3):
        before = [slot.weight.detach().clone() for slot in optimizer.space.slots]
        optimizer.step(lambda step=step: loss(optimizer.model, step))
        assert optimizer.last is not None
        estimate = optimizer.last.estimate
        pairs = zip(estimate.directions, estimate.coefficients, strict=True)
        moves.append(Move(tuple(Term(z, -0.02 * c) for z, c in pairs), rounding_key=(3, step)))
        if step < 2:
            pairs = zip(optimizer.space.slots, before, strict=True)
            assert all(torch.equal(slot.weight, old) for slot, old in pairs if slot.is_matrix)
    twin.move_(moves, matrices=False)
    twin.move_([Move(tuple(t for move in moves for t in move.terms), rounding_key=(3, 2))], matrices=True)
    assert twin.fingerprint() == optimizer.space.fingerprint() and not optimizer.backlog


RUNS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum": {"rule": "momentum"},
    "adam": {"rule": "adam", "rule_settings": {"window": 3}},
    "subspace": {"form": FORMS[2], "distribution": "gaussian"},
    "blocks": {"blocks": Blocks(2, "cyclic")},
    "decay": {"weight_decay": 0.0006},  # is paid at every second step or so
    "one-sided": {"estimator": "one_sided"},
    "stochastic": {"dtype": torch.bfloat16, "weight_rounding": "stochastic"},
    "residual8": {"dtype": torch.bfloat16, "weight_rounding": "residual8", "rule": "momentum"},
    "residual16": {"dtype": torch.bfloat16, "weight_rounding": "residual16"},
    "double": {"dtype": torch.float64},
}


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_replay_to_any_step_leads_to_what_would_have_been_read_there(settings, tmp_path: Path) -> None:
    """Full and packed logs; refused and infinite steps among them. And the log tells when it was merged."""
    dtype = settings.get("dtype", torch.float32)
    settings = {key: value for key, value in settings.items() if key != "dtype"}
    whole = waiting(Tiny(dtype), **settings)
    whole.governor = Moody()
    recorder = attach(whole, tmp_path / "log")
    train(whole, 11, nonfinite=(6,))
    log = TrajectoryLog.read(tmp_path / "log")
    (tmp_path / "packed").write_bytes(encode_compact(log))
    packed = TrajectoryLog.read(tmp_path / "packed")
    merged = [step.index for step in log.steps if Flag.MERGED in step.flags]
    if settings.get("weight_decay"):
        assert len(merged) > 3
    else:
        assert merged == [0, 5]  # after 0 1 3 4, and after 5 8 9 10: steps 2 and 7 were refused, 6 was infinite
    for stop in (11, 10, 9, 6, 5, 1):
        again = waiting(Tiny(dtype), **settings)
        again.governor = Moody()
        train(again, stop, nonfinite=(6,))
        again.settle()
        for told in (log, packed):
            found = replay(Tiny(dtype), told, stop)
            assert found.space.fingerprint() == again.space.fingerprint()
        assert found.rule_state == again.rule_state or not settings.get("rule")
    detach(whole, recorder)


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_a_run_that_is_killed_between_merges_resumes_to_the_same_bits(settings, tmp_path: Path) -> None:
    dtype = settings.get("dtype", torch.float32)
    settings = {key: value for key, value in settings.items() if key != "dtype"}

    def begun() -> ZOOptimizer:
        return waiting(Tiny(dtype), **settings)

    def kept(optimizer: ZOOptimizer) -> dict[str, Any]:
        file = io.BytesIO()
        state = optimizer.state_dict()  # settles: before the weights are read
        torch.save({"optimizer": state, "model": optimizer.model.state_dict()}, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    whole = begun()
    recorder = attach(whole, tmp_path / "log")
    train(whole, 6)
    state = kept(whole)
    train(whole, 9)
    shutil.copy(tmp_path / "log", tmp_path / "killed")  # as a process that is killed leaves it: updates still wait
    assert whole.backlog or settings.get("weight_decay")
    train(whole, 13)
    whole.settle()
    detach(whole, recorder)
    again = begun()
    again.model.load_state_dict(state["model"])
    again.load_state_dict(state["optimizer"])
    recorder = attach(again, tmp_path / "killed")
    train(again, 13)
    again.settle()
    detach(again, recorder)
    assert again.space.fingerprint() == whole.space.fingerprint()
    logs = [TrajectoryLog.read(tmp_path / name) for name in ("log", "killed")]
    assert logs[0].steps == logs[1].steps  # the same losses
    assert Flag.MERGED in logs[0].steps[6].flags
    assert replay(Tiny(dtype), logs[1]).space.fingerprint() == whole.space.fingerprint()
    with pytest.raises(UsageError, match="trained with merge_every 4, this run has 5"):
        waiting(Tiny(dtype), 5, **settings).load_state_dict(state["optimizer"])


def test_back_to_the_middle_of_what_waited(tmp_path: Path) -> None:
    optimizer = waiting(Tiny(torch.bfloat16), weight_rounding="residual8", rule="momentum")
    recorder = attach(optimizer, tmp_path / "log")
    train(optimizer, 3)
    start = Snapshot.take(optimizer)  # merges
    train(optimizer, 10)
    assert optimizer.backlog
    detach(optimizer, recorder)
    log = TrajectoryLog.read(tmp_path / "log")
    rewind(optimizer, log, 6, start)
    assert not optimizer.backlog
    assert optimizer.space.fingerprint() == replay(Tiny(torch.bfloat16), log, 6).space.fingerprint()
    recorder = attach(optimizer, tmp_path / "log")  # cuts it to step 6
    train(optimizer, 9)
    optimizer.settle()
    detach(optimizer, recorder)
    log = TrajectoryLog.read(tmp_path / "log")
    assert [s.index for s in log.steps if Flag.MERGED in s.flags] == [0, 3, 6]
    assert optimizer.space.fingerprint() == replay(Tiny(torch.bfloat16), log).space.fingerprint()
    other = make(Tiny(torch.bfloat16), weight_rounding="residual8", rule="momentum", directions=2, form=FORMS[1])
    with pytest.raises(TrajectoryError, match="other settings: merge_every"):
        rewind(other, log, 6, start)


@pytest.mark.parametrize(
    "how", ["settle", "state_dict", "discard", "snapshot", "attach", "exception", "observer", "off"]
)
def test_whoever_reads_a_weight_finds_it_merged(how: str, tmp_path: Path) -> None:
    optimizer, twin = waiting(Tiny()), waiting(Tiny())
    if how == "observer":
        optimizer.observers.append(lambda step: None)  # may read weights, as far as anybody knows
    optimizer.ahead = how != "off"
    train(optimizer, 3), train(twin, 3)
    if how == "exception":
        with pytest.raises(ZeroDivisionError):
            optimizer.accumulate(lambda: 1 / 0)
    elif how == "snapshot":
        Snapshot.take(optimizer)
    elif how == "attach":
        attach(optimizer, tmp_path / "log")
    elif how not in ("observer", "off"):
        assert optimizer.backlog and not optimizer.settled
        getattr(optimizer, how)()
    assert optimizer.settled and not optimizer.space.torn
    replayed = make(Tiny(), form=FORMS[1], directions=2, merge_every=4)
    replayed.ahead = how not in ("observer", "off")
    assert twin.last is not None
    train(replayed, 3)
    replayed.settle()
    assert optimizer.space.fingerprint() == replayed.space.fingerprint()
    moved = dict(Tiny().named_parameters())
    assert all(not torch.equal(weight, moved[name]) for name, weight in optimizer.model.named_parameters())


def test_loaded_weights_are_not_moved_by_what_waited() -> None:
    optimizer, other = waiting(Tiny()), waiting(Tiny())
    train(optimizer, 2), train(other, 7)
    state = optimizer.state_dict()
    other.model.load_state_dict(optimizer.model.state_dict())
    other.load_state_dict(state)
    train(optimizer, 5), train(other, 5)
    optimizer.settle(), other.settle()
    assert other.space.fingerprint() == optimizer.space.fingerprint()


def test_the_monitor_sees_points_around_merged_weights() -> None:
    """Its curvatures and bounds are those of a run that merges at every step, to rounding."""
    found = []
    for every in (1, 4):
        optimizer = waiting(Tiny(torch.float64), every)
        govern(optimizer, StabilitySettings(stability="cap", stability_every=2, guard="skip"))
        train(optimizer, 12)
        assert optimizer.governor is not None
        found.append(optimizer.governor.metrics())
    assert found[0].keys() == found[1].keys() and found[0]
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-4, abs=1e-9), name


REFUSED: dict[str, dict[str, Any]] = {
    "zo_shape=dense": {"form": None},
    "perturbation=in_place": {"perturbation": "in_place"},
    "zo_rule=muon": {"rule": "muon", "form": LowRank("low_rank", 1, 50)},
    "zo_rule=full_adam": {"rule": "full_adam"},
    "zo_rule=adam with these settings": {"rule": "adam", "rule_settings": {"buffer": "full"}},
    "zo_merge_every must be at least 1": {"merge_every": 0},
}


@pytest.mark.parametrize(("told", "settings"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_wait_is_refused(told: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=told):
        waiting(Tiny(), **settings)


@pytest.mark.parametrize(
    ("told", "settings"),
    [
        ("zo_merge_every=4 is", {"zo_shape": "dense"}),
        ("perturbation=in_place writes all weights", {"perturbation": "in_place"}),
        ("zo_rule=muon", {"zo_rule": "muon", "zo_refresh": 50}),
        ("zo_momentum_buffer=full spends tensors", {"zo_rule": "momentum", "zo_momentum_buffer": "full"}),
        ("guard=rewind looks at the weights", {"guard": "rewind"}),
        ("at least 1", {"zo_merge_every": 0}),
    ],
)
def test_settings_that_cannot_wait_are_refused_early(told: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=told):
        ZOSettings(**{"zo_shape": "low_rank", "zo_merge_every": 4, **settings})
    assert ZOSettings(zo_shape="low_rank", zo_merge_every=4).optimizer_settings["merge_every"] == 4


def test_weights_are_compared_where_they_are_merged() -> None:
    """Between the comparisons of all ranks' weights updates wait; the weights that are compared have them."""
    optimizer, seen = waiting(Tiny()), []
    comparing = Agreement(optimizer.space, 3)
    optimizer.observers += [comparing, lambda step: seen.append(bool(optimizer.backlog))]
    optimizer.observers[1].reads_weights = False  # type: ignore[attr-defined]
    train(optimizer, 7)
    assert seen == [True, True, False, True, True, False, True]
