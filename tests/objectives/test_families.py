"""Every family of models: an evaluation and one zeroth-order step, on tiny configurations of the real architectures."""

import importlib.util
from functools import partial
from pathlib import Path

import pytest
import torch

import zoft
from zoft.evaluate import evaluate
from zoft.objectives import CandidateLikelihood, LanguageModelling
from zoft.tasks.collate import Collator
from zoft.tasks.encoded import Encoded, EncodedDataset, TokenRow

spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("conftest.py"))
assert spec is not None and spec.loader is not None
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

FAMILIES = [
    *((name, "CausalLM") for name in tiny.CAUSAL),
    *((name, "MaskedLM") for name in tiny.MASKED),
    *((name, "SequenceClassification") for name in tiny.MASKED),
]


def questions(kind):
    """Examples of the kind that such a model answers, and the objectives that can train it."""
    if kind == "CausalLM":
        return tiny.longer_answers(), (CandidateLikelihood(), LanguageModelling())
    masked = kind == "MaskedLM"
    items = tuple(
        Encoded(
            (TokenRow(tiny.sentence(length, length), ()),), gold=number % 2, row=number, index=number,
            choices=(7, 30) if masked else (0, 1), read_at=length // 2 if masked else -1,
        )
        for number, length in enumerate((5, 19, 11, 8))
    )  # fmt: skip
    return EncodedDataset(items, "masked" if masked else "classifier"), (CandidateLikelihood(),)


@pytest.mark.parametrize(("name", "kind"), FAMILIES, ids=["-".join(family) for family in FAMILIES])
def test_a_family_is_evaluated_and_takes_a_step(name, kind):
    dataset, objectives = questions(kind)
    collator = Collator(0, dataset.max_candidates, architecture=dataset.architecture)
    for objective in objectives:
        model = tiny.build(name, kind)
        at_once = evaluate(model, dataset, objective, collator)
        alone = evaluate(model, dataset, objective, collator, batch_size=1)
        assert at_once["n"] == len(dataset) and at_once["accuracy"] == alone["accuracy"]
        assert at_once["loss"] == pytest.approx(alone["loss"], abs=1e-4)
        batch = collator(dataset.items)
        before = {path: weight.detach().clone() for path, weight in model.named_parameters()}
        optimizer = zoft.ZOOptimizer(model, lr=1e-3, eps=1e-3)
        with torch.no_grad():
            loss = optimizer.step(partial(objective, model, batch))
        assert torch.isfinite(torch.as_tensor(loss))
        moved = [path for path, weight in model.named_parameters() if not torch.equal(weight, before[path])]
        assert len(moved) == len(before)
