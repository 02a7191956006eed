"""What is timed against what: forward passes alone, MeZO as published, and a step of zoft in each of its modes.

forwards            two plain forwards, logits of every position (some of a head's rows at a time) and next-token loss
forwards_torch      the same with torch's own 16-bit products, also where the processor has none (zoft/products.py)
forwards_held       the same by the model's own loss, which holds all logits
forwards_label      two plain forwards of the same prompts, logits of the candidates at the last position only
mezo                MeZO's step on the forwards of `forwards`
mezo_passes         its three perturbations and its update, without forwards
mezo_harness        its step as its harness runs a classification task: one sequence per candidate, all logits
<mode>              zoft's step on the forwards of `forwards`; modes are those of MODES
captured            the step of `read_only` as one CUDA graph (`zoft.captured`), on the forwards of `forwards_held`
<mode>_passes       the same without forwards (in place; read-only panels are made inside the forward)
<mode>_label        zoft's step on the forwards of `forwards_label`

Where updates of matrices wait (`merge_every`), a run is as many steps as lie between two merges, and a sample is their mean:
each holds one merge, and every length of what waits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from zoft.bench.splitting import Split, split_times
from zoft.directions import LowRank
from zoft.errors import UsageError
from zoft.mezo import MeZO
from zoft.objectives import CandidateLikelihood, LanguageModelling
from zoft.optimizer import ZOOptimizer
from zoft.perturb import evaluation_mode

LR = 1e-7
EPS = 2.0**-10
CANDIDATES = 2  # of the classification step
THIN = {"form": LowRank("low_rank", rank=1), "merge_every": 8}
MODES: dict[str, dict[str, Any]] = {
    "read_only": {"perturbation": "read_only", "weight_rounding": "auto"},
    "read_only_gaussian": {"perturbation": "read_only", "weight_rounding": "auto", "distribution": "gaussian"},
    "in_place": {"perturbation": "in_place", "weight_rounding": "auto"},
    "in_place_gaussian": {"perturbation": "in_place", "weight_rounding": "auto", "distribution": "gaussian"},
    "lockstep": {"perturbation": "read_only", "weight_rounding": "auto", "panels": "lockstep"},
    "lockstep_gaussian": {
        "perturbation": "read_only",
        "weight_rounding": "auto",
        "panels": "lockstep",
        "distribution": "gaussian",
    },
    "low_rank": {"perturbation": "read_only", "weight_rounding": "auto", **THIN},
    "low_rank_lockstep": {"perturbation": "read_only", "weight_rounding": "auto", "panels": "lockstep", **THIN},
}
CAPTURED = "captured"
PLAIN = ("forwards", "forwards_torch", "forwards_held", "forwards_label", "mezo", "mezo_passes", "mezo_harness")


@dataclass(frozen=True)
class Batch:
    """Random tokens."""

    ids: torch.Tensor  # [B, T]

    @classmethod
    def random(cls, model: nn.Module, rows: int, length: int) -> Batch:
        weight = next(model.parameters())
        vocabulary = int(getattr(model.config, "vocab_size"))  # noqa: B009
        generator = torch.Generator().manual_seed(0)
        return cls(torch.randint(4, vocabulary, (rows, length), generator=generator).to(weight.device))

    def full(self, model: nn.Module, members: int = 1) -> torch.Tensor:
        """Next-token loss over all positions of each row; [members B]."""
        ids = self.ids.repeat(members, 1)
        return LanguageModelling().losses(
            model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        )

    def held(self, model: nn.Module) -> torch.Tensor:
        """The mean of the same, by the model's own loss."""
        mask = torch.ones_like(self.ids)
        return model(input_ids=self.ids, attention_mask=mask, labels=self.ids, use_cache=False).loss

    def unpadded(self, model: nn.Module) -> torch.Tensor:
        """As `held`, without a mask of ones, whose values Transformers would look at."""
        return model(input_ids=self.ids, labels=self.ids, use_cache=False).loss

    def label(self, model: nn.Module, members: int = 1) -> torch.Tensor:
        """One prompt an example, the rows of the candidates' tokens at its last position; [members B]."""
        rows = members * len(self.ids)
        batch = {
            "input_ids": self.ids.repeat(members, 1),
            "attention_mask": torch.ones_like(self.ids).repeat(members, 1),
            "choices": torch.tensor([[5, 6]], device=self.ids.device).expand(rows, CANDIDATES),
            "gold": torch.zeros(rows, dtype=torch.long, device=self.ids.device),
        }
        return CandidateLikelihood().losses(model, batch)

    def harness(self, model: nn.Module) -> torch.Tensor:
        """The same task as MeZO's harness runs it: a sequence per candidate, log softmax over all logits."""
        ids = self.ids.repeat_interleave(CANDIDATES, dim=0).clone()
        ids[:, -1] = torch.tensor([5, 6], device=ids.device).repeat(len(self.ids))
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        shifted = functional.log_softmax(logits[..., :-1, :].contiguous(), dim=-1)
        scores = shifted[:, -1].gather(-1, ids[:, -1:]).view(-1, CANDIDATES).float()
        return functional.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=ids.device))


@dataclass(frozen=True)
class _Loss:
    """A closure that can be called for several members at once."""

    rows: int
    once: Callable[[], Any]
    repeated: Callable[[int], Any]

    def __call__(self) -> Any:
        return self.once()


class Contestants:
    """Callables by name; models are copied where a contestant writes to its weights."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self._model, self._batch = model, batch
        self.splits: dict[str, list[Split]] = {}
        self._mezo: MeZO | None = None
        self._capturing: ZOOptimizer | None = None  # of `captured`

    def get(self, name: str) -> Callable[[], object]:
        """
        Raises:
            UsageError: no such contestant.
        """
        model, batch = self._model, self._batch
        if name.startswith("forwards"):
            loss = {"forwards": batch.full, "forwards_held": batch.held, "forwards_label": batch.label}.get(name)
            if loss is not None:
                return lambda: self._two(loss)
            if name == "forwards_torch":
                return lambda: self._two(batch.full, torch.no_grad())
        if name.startswith("mezo"):
            mezo = self._mezo = self._mezo or MeZO(copy.deepcopy(model), LR, eps=EPS)
            if name == "mezo_passes":
                return lambda: mezo.step(lambda: 0.0)
            loss = {"mezo": batch.full, "mezo_harness": batch.harness}.get(name)
            if loss is not None:
                return lambda: mezo.step(lambda: loss(mezo.model).mean())
        if name == CAPTURED:
            return self._captured()
        kind = "passes" if name.endswith("_passes") else "label" if name.endswith("_label") else ""
        mode = name.removesuffix("_passes").removesuffix("_label")
        if mode not in MODES:
            raise UsageError(f"contestant {name!r} does not exist; there are: {', '.join([*PLAIN, *MODES, CAPTURED])}")
        return self._step(name, mode, kind)

    def peak(self, name: str, work: Callable[[], object]) -> Callable[[], object]:
        """What to run for the memory of contestant `name`, whose steps are `work`: a graph takes its own when it is made.

        What an optimizer keeps beside the weights is there before, as it is with the others.
        """
        return (lambda: self._captured()()) if name == CAPTURED else work

    def _captured(self) -> Callable[[], object]:
        from zoft.captured import CapturedStep

        model, ids = self._model, {"ids": self._batch.ids}
        optimizer = self._capturing
        if optimizer is None:
            optimizer = self._capturing = ZOOptimizer(model, LR, eps=EPS, backend="triton", **MODES["read_only"])
        optimizer.catch_up()
        step = CapturedStep(optimizer, lambda given: Batch(given["ids"]).unpadded(model), ids)
        return lambda: step(ids)

    def _two(
        self, loss: Callable[[nn.Module], torch.Tensor], around: AbstractContextManager[object] | None = None
    ) -> None:
        with around or evaluation_mode(self._model):
            for _ in range(2):
                loss(self._model).mean().item()

    def _step(self, name: str, mode: str, kind: str) -> Callable[[], object]:
        batch, settings = self._batch, MODES[mode]
        model = self._model if settings["perturbation"] == "read_only" else copy.deepcopy(self._model)
        optimizer = ZOOptimizer(model, LR, eps=EPS, **settings)
        optimizer.ahead = True  # as ZOTrainer does
        taken = self.splits[name] = []
        losses = {
            "passes": _Loss(len(batch.ids), lambda: 0.0, lambda members: [0.0] * members),
            "label": _Loss(
                len(batch.ids),
                lambda: batch.label(model),
                lambda members: batch.label(model, members).view(members, -1),
            ),
            "": _Loss(
                len(batch.ids),
                lambda: batch.full(model),
                lambda members: batch.full(model, members).view(members, -1),
            ),
        }

        steps = merged_every(mode)

        def run() -> None:
            with split_times(optimizer) as split:
                for _ in range(steps):
                    optimizer.step(losses[kind])
            taken.append(Split(split.panels / steps, split.sweeps / steps, split.whole / steps))

        run.steps = steps  # type: ignore[attr-defined]
        return run


def merged_every(mode: str) -> int:
    """Steps of a mode whose updates of matrices are one sweep."""
    return int(MODES.get(mode, {}).get("merge_every", 1))
