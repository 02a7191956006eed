"""How well a model does on encoded examples: forward passes only, nothing changed, nothing kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from zoft.errors import UsageError
from zoft.generation import Greedy
from zoft.metrics import Outcome, metric
from zoft.objectives import Batch, Objective
from zoft.products import wide_products
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
    offsets: torch.Tensor | None = None,
    reward: Callable[[Sequence[Example], Sequence[int | str]], float] | None = None,
) -> dict[str, float]:
    """The metrics, the mean `loss` in nats and the number `n` of examples.

    Examples of like length share a batch. Dropout is off; every module's mode is as before when this returns.

    Args:
        metrics: names of `zoft.metrics`; empty: the loss alone.
        greedy: how answers are written, for tasks whose answers are free text; the metrics then compare texts.
        offsets: [n, C] taken off the candidates' scores before one is chosen (calibration); the loss is as without.
        reward: scores answers (candidates by number, or texts) to the examples of an `EncodedDataset`; told as `reward`.

    Raises:
        UsageError: nothing to evaluate, an unknown metric.
    """
    measures = {name: metric(name) for name in metrics}
    losses: dict[int, float] = {}
    predicted: dict[int, int | str] = {}

    def answer(numbers: Sequence[int], items: Sequence[Encoded], batch: Batch) -> None:
        scored = objective.evaluate(model, batch)
        losses.update(zip(numbers, scored.losses.tolist(), strict=True))
        if greedy is not None and (measures or reward):
            predicted.update(zip(numbers, greedy(model, [item.prompt_ids for item in items]), strict=True))
            return
        scores = scored.scores if offsets is None else scored.scores - offsets[list(numbers)].to(scored.scores.device)
        predicted.update(zip(numbers, scores.argmax(dim=-1).tolist(), strict=True))

    in_batches(model, dataset, collator, batch_size, answer)
    order = sorted(predicted)
    said = [predicted[number] for number in order]
    values = {}
    if reward is not None:
        assert isinstance(dataset, EncodedDataset), "a reward is asked about examples"
        values["reward"] = reward([dataset.examples[number] for number in order], said)
    outcomes = outcomes_of(dataset, order, said)
    values |= {name: measure(outcomes) for name, measure in measures.items()}
    return {**values, "loss": sum(losses.values()) / len(losses), "n": len(losses)}


def candidate_scores(
    model: nn.Module, dataset: Sequence[Encoded], objective: Objective, collator: Collator, batch_size: int = 32
) -> torch.Tensor:
    """[n, C] float32: every candidate's score, as the objective gives it, with 0 where an example has no such candidate.

    Raises:
        UsageError: nothing to evaluate.
    """
    found: dict[int, torch.Tensor] = {}

    def score(numbers: Sequence[int], items: Sequence[Encoded], batch: Batch) -> None:
        scores = objective.scores(model, batch).cpu()
        found.update(zip(numbers, scores.masked_fill(scores == -torch.inf, 0.0), strict=True))

    in_batches(model, dataset, collator, batch_size, score)
    return torch.stack([found[number] for number in range(len(dataset))])


def in_batches(
    model: nn.Module,
    dataset: Sequence[Encoded],
    collator: Collator,
    batch_size: int,
    use: Callable[[Sequence[int], Sequence[Encoded], Batch], None],
) -> None:
    """Hands `use` the examples' numbers, the examples and their batch on the model's device; the longest come first.

    Without gradients and with dropout off; every module's mode is as before when this returns.

    Raises:
        UsageError: there are no examples.
    """
    if not len(dataset):
        raise UsageError("there is nothing to evaluate: the split is empty")
    order = sorted(range(len(dataset)), key=lambda index: dataset[index].length, reverse=True)
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), wide_products(model.parameters()):
            for start in range(0, len(order), batch_size):
                numbers = order[start : start + batch_size]
                items = [dataset[index] for index in numbers]
                use(numbers, items, {name: value.to(device) for name, value in collator(items).items()})
    finally:
        for module, mode in modes:
            module.training = mode


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
