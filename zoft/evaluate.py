"""How well a model does on encoded examples: forward passes only, nothing changed, nothing kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from zoft.errors import UsageError
from zoft.generation import Greedy
from zoft.metrics import Outcome, metric
from zoft.objectives import Objective
from zoft.tasks.base import Example
from zoft.tasks.collate import Collator
from zoft.tasks.encoded import Encoded, EncodedDataset


def evaluate(
    model: nn.Module,
    dataset: Sequence[Encoded],
    objective: Objective,
    collator: Collator,
    batch_size: int = 32,
    metrics: Sequence[str] = ("accuracy",),
    greedy: Greedy | None = None,
) -> dict[str, float]:
    """The metrics, the mean `loss` in nats and the number `n` of examples.

    Examples of like length share a batch. Dropout is off; every module's mode is as before when this returns.

    Args:
        metrics: names of `zoft.metrics`; empty: the loss alone.
        greedy: how answers are written, for tasks whose answers are free text; the metrics then compare texts.

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
    predicted: list[int | str] = []
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                items = [dataset[index] for index in order[start : start + batch_size]]
                batch = {name: value.to(device) for name, value in collator(items).items()}
                scored = objective.evaluate(model, batch)
                losses += scored.losses.tolist()
                if greedy is not None and measures:
                    predicted += greedy(model, [item.prompt_ids for item in items])
                else:
                    predicted += scored.scores.argmax(dim=-1).tolist()
    finally:
        for module, mode in modes:
            module.training = mode
    outcomes = outcomes_of(dataset, order, predicted)
    values = {name: measure(outcomes) for name, measure in measures.items()}
    return {**values, "loss": sum(losses) / len(losses), "n": len(losses)}


def outcomes_of(dataset: Sequence[Encoded], order: Sequence[int], predicted: Sequence[int | str]) -> list[Outcome]:
    """What `predicted` (chosen candidates, or texts) makes of the examples dataset[order[0]], dataset[order[1]], …"""
    examples = dataset.examples if isinstance(dataset, EncodedDataset) else ()
    return [
        outcome(examples[index], answer) if examples else Outcome(predicted=int(answer), gold=dataset[index].gold)
        for index, answer in zip(order, predicted, strict=True)
    ]


def outcome(example: Example, answer: int | str) -> Outcome:
    """A chosen candidate's number, or a text, beside what would have been right."""
    names = example.names or tuple(candidate.strip() for candidate in example.candidates)
    if isinstance(answer, str):
        return Outcome(answer, example.answers or (names[example.gold],), group=example.group)
    return Outcome(names[answer], example.answers, answer, example.gold, example.group)
