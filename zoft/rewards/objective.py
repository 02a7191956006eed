"""A reward as an objective: the loss is the negative score of what the model answers.

A model answers with its most likely candidate, or with generated text where answers are free text. Either is a step function
of the weights: its slope is zero almost everywhere, and what two points at a distance of 2 eps measure is the slope of the
score smoothed over eps, L_eps(w) = E_z L(w + eps z) (Nesterov & Spokoiny 2017). So eps must be wide enough for answers to
change: the log says what share of them did not (`reward/tied`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from zoft.errors import UsageError
from zoft.generation import Greedy, prompts_of
from zoft.objectives import Batch, Objective, Scored
from zoft.products import wide_products
from zoft.rewards.scoring import Scoring, mean_score
from zoft.tasks.base import Example


class RewardObjective(Objective):
    """Loss of an example: minus its score. Examples without a score count as the mean of the others in their batch.

    A batch in which no example has a score costs nan, so its step is skipped. `evaluate`, which evaluations call on examples
    of their own, is the underlying objective's.
    """

    name = "reward"

    def __init__(
        self, scoring: Scoring, objective: Objective, examples: Sequence[Example], greedy: Greedy | None = None
    ) -> None:
        """
        Args:
            scoring: of answers.
            objective: scores the candidates.
            examples: those of the training set, in its order: `index` in a batch counts them.
            greedy: how answers are written where they are free text; None: the best candidate is the answer.

        Raises:
            UsageError: there are no examples: plain text has no questions whose answers could be scored.
        """
        if not examples:
            raise UsageError(f"reward={scoring.name}: plain text has no questions whose answers could be scored")
        self.scoring, self.objective, self.examples, self.greedy = scoring, objective, examples, greedy
        self._begin()

    def evaluate(self, model: nn.Module, batch: Batch) -> Scored:
        return self.objective.evaluate(model, batch)

    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """[B] float32; without dimensions where only the batch has a score, so that nobody takes halves of it."""
        numbers = batch["index"].tolist()
        scores = self.scoring([self.examples[number] for number in numbers], self.answers(model, batch))
        mean = mean_score(scores)
        self._count(numbers, scores, mean)
        losses = -torch.tensor([mean if s is None else s for s in scores], device=batch["gold"].device)
        return losses if self.scoring.per_example else losses[0]

    def answers(self, model: nn.Module, batch: Batch) -> list[int] | list[str]:
        """The chosen candidates, or the texts written."""
        if self.greedy is not None:
            return self.greedy(model, prompts_of(batch))
        return self.objective.scores(model, batch).argmax(dim=-1).tolist()

    def rehearse(self, model: nn.Module, batch: Batch) -> float:
        """The mean score on one batch, as training will take it.

        Raises:
            UsageError: the reward raised, returned what is no score, or no score at all.
        """
        mode = model.training
        model.eval()
        try:
            with torch.no_grad(), wide_products(model.parameters()):
                value = 0.0 - float(self.losses(model, batch).mean())  # a score of nothing is no -0
        finally:
            model.train(mode)
            self._begin()
        if value != value:
            raise UsageError(
                f"reward={self.scoring.name} has no score (None or nan) for any of the {len(batch['gold'])} examples of a "
                "first batch, so nothing could be learnt; check it against the prompts, outputs and references it is given"
            )
        return value

    def metrics(self) -> dict[str, float]:
        """Since the last call: the mean score, and shares of scores that were missing, and that were the same at two points."""
        points = max(self._points, 1)
        found = {
            "reward/mean": self._sum / points,
            "reward/tied": self._tied / max(self._compared, 1),
            "reward/missing": self._missing / max(self._scored, 1),
        }
        self._begin()
        return found

    def _begin(self) -> None:
        self._points = self._scored = self._missing = self._compared = self._tied = 0
        self._sum = 0.0
        self._before: tuple[list[int], list[float | None]] | None = None  # the last call's examples and scores

    def _count(self, numbers: list[int], scores: list[float | None], mean: float) -> None:
        self._points += mean == mean
        self._sum += mean if mean == mean else 0.0
        self._scored += len(scores)
        self._missing += sum(score is None for score in scores)
        if self._before is not None and self._before[0] == numbers:  # the same examples at another point
            self._compared += len(scores)
            self._tied += sum(a == b for a, b in zip(self._before[1], scores, strict=True))
        self._before = (numbers, scores)
