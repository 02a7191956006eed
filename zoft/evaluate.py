"""How well a model does on encoded examples: forward passes only, nothing changed, nothing kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from zoft.errors import UsageError
from zoft.metrics import metric
from zoft.objectives import Objective
from zoft.tasks.collate import Collator
from zoft.tasks.encode import Encoded


def evaluate(
    model: nn.Module,
    dataset: Sequence[Encoded],
    objective: Objective,
    collator: Collator,
    batch_size: int = 32,
    metrics: Sequence[str] = ("accuracy",),
) -> dict[str, float]:
    """The metrics, the mean `loss` in nats and the number `n` of examples.

    Examples of like length share a batch. Dropout is off; every module's mode is as before when this returns.

    Raises:
        UsageError: nothing to evaluate, an unknown metric.
    """
    if not len(dataset):
        raise UsageError("there is nothing to evaluate: the split is empty")
    measures = {name: metric(name) for name in metrics}
    order = sorted(range(len(dataset)), key=lambda index: dataset[index].length, reverse=True)
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    losses: list[float] = []
    predicted: list[int] = []
    gold: list[int] = []
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                batch = collator([dataset[index] for index in order[start : start + batch_size]])
                scored = objective.evaluate(model, {name: value.to(device) for name, value in batch.items()})
                losses += scored.losses.tolist()
                predicted += scored.scores.argmax(dim=-1).tolist()
                gold += scored.gold.tolist()
    finally:
        for module, mode in modes:
            module.training = mode
    values = {name: measure(predicted, gold) for name, measure in measures.items()}
    return {**values, "loss": sum(losses) / len(losses), "n": len(losses)}


def compute_metrics_of(metrics: Sequence[str] = ("accuracy",)) -> Callable[[Any], dict[str, float]]:
    """`compute_metrics` for a Trainer whose predictions are candidate scores [n, C] and whose labels are gold [n].

    Raises:
        UsageError: an unknown metric.
    """
    measures = {name: metric(name) for name in metrics}

    def compute_metrics(prediction: Any) -> dict[str, float]:
        predicted = prediction.predictions.argmax(axis=-1).tolist()
        gold = prediction.label_ids.tolist()
        return {name: measure(predicted, gold) for name, measure in measures.items()}

    return compute_metrics
