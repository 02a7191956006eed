"""Trainers for a task, by method: their evaluation gives the task's metrics, from chosen candidates or from generated text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from zoft.evaluate import outcomes_of
from zoft.generation import Greedy, prompts_of
from zoft.metrics import metric
from zoft.rewards import Scoring
from zoft.tasks.encoded import EncodedDataset
from zoft.trainer import MeZOTrainer, ZOTrainer
from zoft.trainer.objective_trainer import ObjectiveTrainer


class TaskEvaluation(ObjectiveTrainer):
    """Predictions are candidates' scores [n, C] or new tokens [n, N]; labels are the examples' numbers in their dataset.

    Raises:
        UsageError: as the trainer that it is put before; an unknown metric.
    """

    def __init__(
        self,
        *args: Any,
        metrics: Sequence[str] = (),
        greedy: Greedy | None = None,
        scoring: Scoring | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            args and kwargs: `ObjectiveTrainer`'s.
            metrics: names of `zoft.metrics`; empty: the loss alone.
            greedy: how answers are written where they are free text.
            scoring: a user's reward, whose mean is then the metric `reward`, the first one.
        """
        self.measures = {name: metric(name) for name in metrics}
        self.greedy = greedy
        self.scoring = scoring if scoring is not None and scoring.reward is not None else None
        self._asked: EncodedDataset | None = None
        super().__init__(*args, compute_metrics=self._metrics if metrics or self.scoring else None, **kwargs)

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.evaluation_loop`."""
        self._asked = dataloader.dataset
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """The loss; scores, or tokens; and which examples these are."""
        inputs = self._prepare_inputs(inputs)
        numbers = inputs["index"]
        loss, scores, _ = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if prediction_loss_only or self.greedy is None:
            return loss, scores, None if prediction_loss_only else numbers
        with torch.no_grad(), self.compute_loss_context_manager():
            return loss, self.greedy.ids(model, prompts_of(inputs)), numbers

    def _metrics(self, prediction: Any) -> dict[str, float]:
        assert self._asked is not None, "metrics are asked for by evaluation_loop"
        numbers = prediction.label_ids.tolist()
        answers = prediction.predictions
        said = self.greedy.texts(answers) if self.greedy is not None else answers.argmax(axis=-1).tolist()
        found = {}
        if self.scoring is not None:
            found["reward"] = self.scoring.mean([self._asked.examples[number] for number in numbers], said)
        outcomes = outcomes_of(self._asked, numbers, said)
        return {**found, **{name: measure(outcomes) for name, measure in self.measures.items()}}


class TaskTrainer(TaskEvaluation, ZOTrainer):
    """`method=zo`."""


class MeZOTaskTrainer(TaskEvaluation, MeZOTrainer):
    """`method=mezo`."""


class FirstOrderTaskTrainer(TaskEvaluation):
    """`method=adamw` and `lora-adamw`: gradients, and the optimizer of Transformers (`optim`, AdamW by default)."""


TRAINERS: Mapping[str, type[TaskEvaluation]] = {
    "zo": TaskTrainer,
    "mezo": MeZOTaskTrainer,
    "adamw": FirstOrderTaskTrainer,
    "lora-adamw": FirstOrderTaskTrainer,
}
