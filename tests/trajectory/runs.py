"""Small runs for the tests of the trajectory: a model, a data stream that depends on the step alone, a loop."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoft.governor import Decision, Evidence, Request
from zoft.optimizer import ZOOptimizer
from zoft.trajectory import Recorder, TrajectoryLog, attach, replay
from zoft.trajectory.compact import encode_compact


class Tiny(nn.Module):
    """Odd shapes, a tied matrix, a norm, a scalar and a frozen part."""

    def __init__(
        self, dtype: torch.dtype = torch.float32, width: int = 5, tied: bool = True, frozen: bool = False
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.embed = nn.Embedding(11, width)
        self.inner = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 11, bias=False)
        self.gain = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
        if tied:
            self.head.weight = self.embed.weight
        self.to(dtype)
        if frozen:
            self.inner.weight.requires_grad_(False)
            self.norm.weight.requires_grad_(False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(torch.tanh(self.inner(self.embed(ids))))
        return self.gain(self.head(hidden)[..., None])[..., 0]


def loss(model: nn.Module, step: int, batch: int = 0) -> torch.Tensor:
    """The loss of one micro-batch: a function of (step, batch) and the weights only."""
    ids = torch.randint(0, 11, (4, 3), generator=torch.Generator().manual_seed(1000 * step + batch))
    logits = model(ids[:, :-1]).float()
    return nn.functional.cross_entropy(logits.reshape(-1, 11), ids[:, 1:].reshape(-1))


class Moody:
    """A governor that caps every third step and refuses every fifth."""

    def request(self, step: int) -> Request:
        return Request()

    def decide(self, evidence: Evidence) -> Decision:
        capped = evidence.step % 3 == 1
        return Decision(evidence.lr * 0.7 if capped else evidence.lr, capped, refused=evidence.step % 5 == 2)

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state == {}


def adapted(**settings: Any) -> nn.Module:
    """Tiny with a LoRA adapter on two of its matrices, the same each time."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        base: Any = Tiny(**{**settings, "tied": False})
        return get_peft_model(base, LoraConfig(r=2, target_modules=["inner", "head"]))


def make(model: nn.Module, **settings: Any) -> ZOOptimizer:
    return ZOOptimizer(model, **{"lr": 0.02, "seed": 3, **settings})


def train(optimizer: ZOOptimizer, stop: int, *, accumulate: int = 1, nonfinite: tuple[int, ...] = ()) -> None:
    """Go on to step `stop`. The learning rate halves half way; the losses of `nonfinite` steps are NaN."""
    model = optimizer.model
    for step in range(optimizer.steps, stop):
        optimizer.param_groups[0]["lr"] = 0.02 if step < 10 else 0.01
        for batch in range(accumulate):
            if step in nonfinite:
                optimizer.accumulate(lambda: float("nan"), accumulate)
            else:
                optimizer.accumulate(lambda step=step, batch=batch: loss(model, step, batch), accumulate)
        optimizer.step()


def steep_losses(optimizer: ZOOptimizer, lr: float, steps: int) -> list[float]:
    """Of a `Tiny` on one batch. Its weights are made four times as large first: it begins on a plateau."""
    with torch.no_grad():
        for weight in optimizer.model.parameters():
            weight.mul_(4.0)
    optimizer.param_groups[0]["lr"] = lr
    losses = [optimizer.step(lambda: loss(optimizer.model, 0)) for _ in range(steps)]
    return [value for value in losses if value is not None]


def recorded(path: Path, steps: int, model: nn.Module | None = None, **settings: Any) -> ZOOptimizer:
    """A finished run whose log lies at `path`."""
    optimizer = make(Tiny() if model is None else model, **settings)
    recorder = attach(optimizer, path)
    train(optimizer, steps)
    detach(optimizer, recorder)
    return optimizer


def detach(optimizer: ZOOptimizer, recorder: Recorder) -> None:
    recorder.close()
    optimizer.observers.remove(recorder)


def check_resume_and_replay(folder: Path, stop: int, resume_at: int, **settings: Any) -> dict[str, Any]:
    """A run of `stop` steps, its log, the packed log, and a run that is saved and resumed half-way end in the same bits.

    Returns:
        The optimizer's state at step `resume_at`.
    """
    whole = recorded(folder / "log", stop, **settings)
    log = TrajectoryLog.read(folder / "log")
    assert replay(Tiny(), log).space.fingerprint() == whole.space.fingerprint()
    (folder / "packed").write_bytes(encode_compact(log))
    assert replay(Tiny(), TrajectoryLog.read(folder / "packed")).space.fingerprint() == whole.space.fingerprint()
    first = make(Tiny(), **settings)
    train(first, resume_at)
    kept = io.BytesIO()
    torch.save({"model": first.model.state_dict(), "optimizer": first.state_dict()}, kept)
    kept.seek(0)
    state = torch.load(kept, weights_only=True)
    again = make(Tiny(), **settings)
    again.model.load_state_dict(state["model"])
    again.load_state_dict(state["optimizer"])
    train(again, stop)
    assert again.space.fingerprint() == whole.space.fingerprint() and again.rule_state == whole.rule_state
    return state["optimizer"]
