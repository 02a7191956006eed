"""Evaluation: what it returns does not depend on batches, and it leaves the model as it was."""

import importlib.util
from pathlib import Path

import numpy
import pytest
import torch

from zoft import metrics
from zoft.errors import UsageError
from zoft.evaluate import evaluate
from zoft.objectives import CandidateLikelihood, LanguageModelling, objective
from zoft.tasks.collate import Collator
from zoft.tasks.encode import EncodedDataset

spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("conftest.py"))
assert spec is not None and spec.loader is not None
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

DATASET = tiny.one_token_answers(lengths=(5, 19, 11, 2, 30, 8, 13))


@pytest.fixture(scope="module")
def model():
    return tiny.build("opt", dropout=0.5)


def test_values_do_not_depend_on_the_batch_size(model):
    collator = Collator(0, 3)
    found = [evaluate(model, DATASET, CandidateLikelihood(), collator, size) for size in (1, 3, 100)]
    with torch.no_grad():
        alone = [CandidateLikelihood().evaluate(model, collator([item])) for item in DATASET]
    right = sum(int(one.scores.argmax()) == item.gold for one, item in zip(alone, DATASET, strict=True))
    loss = sum(one.losses.item() for one in alone) / len(DATASET)
    for values in found:
        assert values["accuracy"] == right / 7 and values["n"] == 7
        assert values["loss"] == pytest.approx(loss, abs=1e-6)


def test_the_model_is_left_as_it_was(model):
    model.train()
    model.get_decoder().eval()
    modes = [module.training for module in model.modules()]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(model, DATASET, CandidateLikelihood(), Collator(0, 3))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(KeyError):
        evaluate(model, DATASET, LanguageModelling(), lambda items: {})  # type: ignore[arg-type]
    assert [module.training for module in model.modules()] == modes
    model.eval()


def test_nothing_and_unknown_names_are_refused(model):
    with pytest.raises(UsageError, match="the split is empty"):
        evaluate(model, EncodedDataset((), "causal"), CandidateLikelihood(), Collator(0, 3))
    with pytest.raises(UsageError, match=r"metric 'f2' does not exist; there are: accuracy"):
        evaluate(model, DATASET, CandidateLikelihood(), Collator(0, 3), metrics=("f2",))
    with pytest.raises(UsageError, match="objective 'nll' does not exist"):
        objective("nll")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("labels", [2, 4])
def test_metrics_agree_with_scikit_learn(seed, labels):
    known = pytest.importorskip("sklearn.metrics")
    generator = numpy.random.default_rng(seed)
    gold, predicted = (generator.integers(0, labels, 40).tolist() for _ in range(2))
    assert metrics.accuracy(predicted, gold) == pytest.approx(known.accuracy_score(gold, predicted), abs=1e-12)
    assert metrics.macro_f1(predicted, gold) == pytest.approx(
        known.f1_score(gold, predicted, average="macro"), abs=1e-12
    )
    assert metrics.matthews(predicted, gold) == pytest.approx(known.matthews_corrcoef(gold, predicted), abs=1e-12)
    if labels == 2:
        assert metrics.f1(predicted, gold) == pytest.approx(known.f1_score(gold, predicted), abs=1e-12)


@pytest.mark.parametrize(("predicted", "gold"), [([1], [1, 0]), ([], [])])
def test_metrics_refuse_what_has_no_value(predicted, gold):
    with pytest.raises(UsageError):
        metrics.accuracy(predicted, gold)
