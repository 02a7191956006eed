"""In lockstep an update may wait for the next losses, which make it as they read the weights: nobody sees a difference."""

import importlib.util
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zoft
from tests.trainer.conftest import arguments, make_model, rows  # noqa: F401
from zoft.backends import Move, Rounding, Target, Term, available, backend
from zoft.directions import Blocks, Direction, LowRank, Window
from zoft.objectives import CandidateLikelihood, LanguageModelling
from zoft.optimizer import ZOOptimizer
from zoft.tasks.collate import Collator
from zoft.trainer import ZOConfig, ZOTrainer

spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parents[1] / "objectives" / "conftest.py")
assert spec is not None and spec.loader is not None
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
APPLY = ZOOptimizer.apply
BATCH = Collator(0, 3)(tiny.one_token_answers().items)


def run(name: str = "opt", dtype: torch.dtype = torch.float32, *, ahead: bool, **settings: Any) -> ZOOptimizer:
    """An optimizer of a tiny model, and the closure that goes with it as an attribute."""
    model = tiny.build(name).to(dtype)
    settings = {"eps": 2.0**-8, "directions": 2, "weight_decay": 0.1, **settings}
    optimizer = ZOOptimizer(model, lr=1e-2, panels="lockstep", **settings)
    optimizer.ahead = ahead
    optimizer.loss = zoft.BatchLoss(lambda b: CandidateLikelihood().losses(model, b), BATCH)  # type: ignore[attr-defined]
    return optimizer


def steps(optimizer: Any, count: int) -> list[float]:
    return [optimizer.step(optimizer.loss) for _ in range(count)]


CASES: dict[str, dict[str, Any]] = {
    "signs": {},
    "normals": {"distribution": "gaussian"},
    "thin": {"form": LowRank("low_rank", 2)},
    "blocks": {"blocks": Blocks(2, "cyclic")},
    "turns": {"row_budget": 8},
    "centre": {"estimator": "one_sided"},
    "momentum": {"rule": "momentum"},
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", ["opt", "llama", "gpt2"])
def test_weights_and_losses_are_those_without_waiting(name, settings) -> None:
    now, later = run(name, ahead=False, **settings), run(name, ahead=True, **settings)
    assert steps(now, 4) == steps(later, 4)
    assert later.perturbation.begun and later.space.fingerprint() != now.space.fingerprint()
    later.settle()
    assert not later.perturbation.begun and later.space.fingerprint() == now.space.fingerprint()
    assert later.steps == now.steps == 4 and not later.space.torn


@pytest.mark.parametrize("rounding", ["stochastic", "residual8", "residual16", "nearest"])
def test_16_bit_weights_with_every_rounding(rounding) -> None:
    now, later = (run("opt", torch.bfloat16, ahead=ahead, weight_rounding=rounding) for ahead in (False, True))
    assert steps(now, 4) == steps(later, 4)
    later.settle()
    assert later.space.fingerprint() == now.space.fingerprint()


def test_linear_layers_are_updated_in_the_reading_that_displaces_them(monkeypatch) -> None:
    """Every parameter once: those layers in `panel_pair`, all others, and a head of which few rows are read, before."""
    optimizer: Any = run("llama", ahead=True, directions=1, backend="reference")
    steps(optimizer, 2)
    inner, together, written = optimizer.space.backend, [], []
    pair, axpby_ = inner.panel_pair, inner.axpby_
    kind = type(
        inner
    )  # patched there: an attribute of the instance, which all tests share, would not be taken away again

    def told_pair(_, target, points, copies, moves=(), rounding=Rounding.NEAREST):
        together.extend([target.weight.data_ptr()] * bool(moves))
        pair(target, points, copies, moves, rounding)

    def told_axpby_(_, target, moves, rounding=Rounding.NEAREST):
        written.extend([target.weight.data_ptr()] * (target.out is None))
        axpby_(target, moves, rounding)

    monkeypatch.setattr(kind, "panel_pair", told_pair)
    monkeypatch.setattr(kind, "axpby_", told_axpby_)
    steps(optimizer, 1)
    layers = {m.weight.data_ptr() for m in optimizer.model.modules() if isinstance(m, nn.Linear)}
    assert set(together) == layers - {optimizer.model.lm_head.weight.data_ptr()}
    assert sorted(written) == sorted(slot.weight.data_ptr() for slot in optimizer.space.slots)


@pytest.mark.parametrize("after", [0, 3, 9])
def test_an_exception_half_way_leaves_every_weight_updated(after) -> None:
    now, later = run("opt", ahead=False), run("opt", ahead=True)
    steps(now, 2), steps(later, 2)
    layers = [m for m in later.model.modules() if isinstance(m, nn.Linear | nn.Embedding | nn.LayerNorm)]

    def fail(*_):
        raise RuntimeError("out of memory")

    handle = layers[after].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        later.accumulate(later.loss)  # type: ignore[attr-defined]
    handle.remove()
    assert later.space.fingerprint() == now.space.fingerprint() and not later.perturbation.begun
    assert not later.space.torn
    assert steps(later, 1) == steps(now, 1)


@pytest.mark.parametrize("how", ["state_dict", "discard", "plain closure", "apply"])
def test_whoever_wants_the_weights_gets_them(how) -> None:
    now, later = run("opt", ahead=False), run("opt", ahead=True)
    steps(now, 3), steps(later, 3)
    assert later.perturbation.begun
    if how == "apply":
        for optimizer in (now, later):
            optimizer.apply(optimizer.last)
    elif how == "plain closure":
        with pytest.raises(zoft.UsageError, match="a plain closure"):
            later.step(lambda: 0.0)
    else:
        getattr(later, how)()
    assert not later.perturbation.begun and later.space.fingerprint() == now.space.fingerprint()


def test_weights_that_are_loaded_are_not_moved_by_what_waited() -> None:
    now, later = run("opt", ahead=False), run("opt", ahead=True)
    steps(now, 1), steps(later, 3)
    later.model.load_state_dict(now.model.state_dict())
    later.load_state_dict(now.state_dict())
    assert steps(later, 2) == steps(now, 2)
    later.settle()
    assert later.space.fingerprint() == now.space.fingerprint()


def test_what_is_spent_tensor_by_tensor_does_not_wait() -> None:
    now, later = (
        run("opt", ahead=ahead, rule="full_adam", rule_settings={"beta": 0.9, "beta2": 0.99}) for ahead in (False, True)
    )
    assert steps(now, 3) == steps(later, 3)
    assert not later.perturbation.begun and later.space.fingerprint() == now.space.fingerprint()


@pytest.mark.parametrize("name", [name for name in available() if name != "triton"])
def test_a_product_that_raises_leaves_the_update_whole(name, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(300, 24, generator=generator), torch.randn(2, 5, 24, generator=generator)
    window, calls, bmm = Window.whole(9, weight.shape), [], torch.bmm
    update = [Move((Term(Direction(3, 0), 1e-3),), 0.99, (3, 0))]
    points = [(Term(Direction(3, 1), 0.1),), (Term(Direction(3, 1), -0.1),)]
    wanted = weight.clone()
    backend(name).axpby_(Target(wanted, window, True), update)

    def fails(*given, **named):
        calls.append(1)
        if len(calls) == 2:  # panels of 128 rows of 300
            raise RuntimeError("out of memory")
        return bmm(*given, **named)

    monkeypatch.setattr(torch, "bmm", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        backend(name).perturbed_linear(x, Target(weight, window, True), points, 128 * 24 * 4 * 2, moves=update)
    assert torch.equal(weight, wanted)
    monkeypatch.undo()
    y = backend(name).perturbed_linear(x, Target(weight, window, True), points, 128 * 24 * 4 * 2, moves=update)
    backend(name).axpby_(Target(wanted, window, True), update)
    assert torch.equal(weight, wanted)
    assert torch.equal(y, backend(name).perturbed_linear(x, Target(wanted, window), points, 128 * 24 * 4 * 2))


def in_trainer(arguments, rows, **changes: Any) -> ZOTrainer:  # noqa: F811
    masked = [{**row, "attention_mask": torch.ones_like(row["input_ids"])} for row in rows]
    config = ZOConfig(**{**arguments, "zo_panels": "lockstep", **changes})
    return ZOTrainer(make_model(), config, train_dataset=masked, eval_dataset=masked[:8], objective=LanguageModelling())


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_trainer_lets_updates_wait_and_nobody_sees_it(arguments, rows, monkeypatch, accumulated) -> None:  # noqa: F811
    """Evaluations, checkpoints, the log and the end show what they show where nothing waits."""
    changes = {
        "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 3, "max_steps": 7,
        "gradient_accumulation_steps": accumulated, "zo_check_every": 2,
    }  # fmt: skip
    waited: list[bool] = []
    fingerprints, histories, files = [], [], []
    for follow in (True, False):
        if not follow:
            monkeypatch.setattr("zoft.trainer.mixin.losses_follow", lambda *_: False)
        trainer = in_trainer(arguments, rows, output_dir=f"{arguments['output_dir']}-{follow}", **changes)
        with monkeypatch.context() as patched:
            patched.setattr(
                ZOOptimizer,
                "apply",
                lambda self, step, **k: (APPLY(self, step, **k), waited.append(self.perturbation.begun)),
            )
            trainer.train()
        fingerprints.append(trainer.zo.space.fingerprint())
        histories.append(
            [(entry["step"], entry["eval_loss"]) for entry in trainer.state.log_history if "eval_loss" in entry]
        )
        folder = Path(trainer.args.output_dir)
        files.append([(folder / f"checkpoint-{n}" / "model.safetensors").read_bytes() for n in (3, 6)])
        assert (folder / "trajectory.zoft").is_file() and not trainer.zo.perturbation.begun
    assert any(waited[:7]) and not any(waited[7:])
    assert fingerprints[0] == fingerprints[1] and histories[0] == histories[1] and files[0] == files[1]


def test_a_log_patched_on_the_trainer_sees_the_weights(arguments, rows, monkeypatch) -> None:  # noqa: F811
    """As a subclass's `log` does: nothing waits where somebody might look."""
    seen: dict[bool, list[torch.Tensor]] = {}
    for follow in (True, False):
        if not follow:
            monkeypatch.setattr("zoft.trainer.mixin.losses_follow", lambda *_: False)
        trainer = in_trainer(arguments, rows, output_dir=f"{arguments['output_dir']}-{follow}", logging_steps=1)
        log, seen[follow] = trainer.log, []

        def patched(*given, trainer=trainer, log=log, found=seen[follow], **named) -> None:
            found.append(torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()]))
            log(*given, **named)

        trainer.log = patched
        trainer.train()
    assert len(seen[True]) == len(seen[False]) >= 6
    assert all(map(torch.equal, seen[True], seen[False]))
    assert not any(torch.equal(one, other) for one, other in pairwise(seen[True][:6]))


def test_a_run_that_breaks_off_ends_with_whole_weights(arguments, rows) -> None:  # noqa: F811
    whole = in_trainer(arguments, rows, max_steps=3)
    whole.train()
    broken = in_trainer(arguments, rows, output_dir=f"{arguments['output_dir']}-broken")
    losses, calls = broken.objective.losses, []

    def fail(model, batch):
        if broken.zo.steps == 3:
            calls.append(broken.zo.perturbation.begun)
            raise RuntimeError("out of memory")
        return losses(model, batch)

    broken.objective.losses = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        broken.train()
    assert calls == [True] and broken.zo.space.fingerprint() == whole.zo.space.fingerprint()
