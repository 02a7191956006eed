"""Losses and scores against sums of log-probabilities taken one sequence at a time from the whole logits in float64."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zoft.objectives import CandidateLikelihood, LanguageModelling
from zoft.objectives.forward import accepted_arguments
from zoft.tasks.collate import Collator
from zoft.tasks.encode import EncodedDataset

spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("conftest.py"))
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

OBJECTIVE = CandidateLikelihood()


def collator(dataset):
    return Collator(0, dataset.max_candidates, architecture=dataset.architecture)


@torch.no_grad()
def true_scores(model, item):
    """Mean log-likelihood of each candidate: no batch, no padding, every logit, float64."""
    scores = []
    for row in item.per_candidate().rows:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0]
        logs = logits.double().log_softmax(-1)
        scores.append(sum(logs[t - 1, row.ids[t]].item() for t in row.answer) / len(row.answer))
    return scores


def true_loss(scores, gold):
    return math.log(sum(math.exp(s) for s in scores)) - scores[gold]


@pytest.mark.parametrize("make", [tiny.one_token_answers, tiny.longer_answers])
def test_scores_and_losses_equal_the_definition(causal, make):
    """Also: padding on the left and whatever shares the batch change nothing."""
    dataset = make()
    # Gemma 2's softmax is float32 whatever its weights are: float64's smallest number, its mask, becomes -inf there,
    # and positions that see nothing (padding) become NaN. So it is run in float32.
    single = causal.config.model_type == "gemma2"
    exact = 1e-5 if single else 1e-6
    model = causal if single else causal.double()
    with torch.no_grad():
        scored = OBJECTIVE.evaluate(model, collator(dataset)(dataset.items))
    causal = causal.double()
    assert scored.losses.dtype == scored.scores.dtype == torch.float32
    assert scored.scores.shape == (len(dataset), dataset.max_candidates)
    for index, item in enumerate(dataset):
        truth = torch.tensor(true_scores(causal, item), dtype=torch.float64).log_softmax(0)
        found = scored.scores[index]
        torch.testing.assert_close(found[: item.candidates].double(), truth, rtol=exact, atol=exact)
        assert torch.isneginf(found[item.candidates :]).all()
        assert scored.losses[index].item() == pytest.approx(-truth[item.gold].item(), abs=2 * exact)
    assert scored.gold.tolist() == [item.gold for item in dataset]


def test_one_row_per_example_equals_one_row_per_candidate(causal):
    shared = tiny.one_token_answers()
    apart = replace(shared, items=tuple(item.per_candidate() for item in shared))
    one, many = collator(shared)(shared.items), collator(apart)(apart.items)
    assert one["input_ids"].shape[0] * 3 == many["input_ids"].shape[0]
    with torch.no_grad():
        difference = OBJECTIVE.losses(causal, one) - OBJECTIVE.losses(causal, many)
    assert difference.abs().max() < 1e-6


def test_a_mixed_batch_takes_the_general_way(causal):
    items = (*tiny.one_token_answers().items, *tiny.longer_answers().items)
    batch = collator(EncodedDataset(items, "causal"))(items)
    assert "candidate_rows" in batch
    with torch.no_grad():
        losses = OBJECTIVE.losses(causal, batch)
    for loss, item in zip(losses.tolist(), items, strict=True):
        assert loss == pytest.approx(true_loss(true_scores(causal, item), item.gold), abs=1e-5)


def test_the_loss_is_the_mean_of_the_examples_and_differentiable(causal):
    dataset = tiny.longer_answers()
    batch = collator(dataset)(dataset.items)
    loss = OBJECTIVE(causal, batch)
    assert loss.shape == () and loss.dtype == torch.float32
    assert loss.item() == OBJECTIVE.losses(causal, batch).mean().item()
    loss.backward()
    embedding = causal.get_input_embeddings().weight
    assert torch.isfinite(embedding.grad).all() and embedding.grad.abs().sum() > 0


def test_logits_are_made_only_where_they_are_read(causal):
    made = []
    causal.get_output_embeddings().register_forward_hook(lambda *call: made.append(tuple(call[2].shape)))
    one_token, longer = (tiny.one_token_answers(), 4, 1, 3), (tiny.longer_answers(), 9, 5, tiny.VOCABULARY)
    for dataset, rows, kept, outputs in (one_token, longer):
        with torch.no_grad():
            OBJECTIVE(causal, collator(dataset)(dataset.items))
        assert made.pop() == (rows, kept, outputs) and not made


@pytest.mark.parametrize("name", tiny.MASKED)
def test_masked_models_are_read_at_the_mask_alone(name):
    from zoft.tasks.encode import Encoded, TokenRow

    model = tiny.build(name, "MaskedLM").double()
    padding = model.config.pad_token_id
    ids = [tiny.sentence(n, n) for n in (9, 14, 6)]
    items = tuple(
        Encoded((TokenRow(row, ()),), gold=k % 2, row=k, choices=(11, 12), read_at=len(row) - 2 - k)
        for k, row in enumerate(ids)
    )
    batch = Collator(padding, 2, architecture="masked")(items)
    decoder, made = model.get_output_embeddings(), []
    decoder.register_forward_hook(lambda *call: made.append(tuple(call[2].shape)))
    with torch.no_grad():
        scores = OBJECTIVE.scores(model, batch)
        assert made == [(3, 1, tiny.VOCABULARY)]
        for found, item in zip(scores, items, strict=True):
            logits = model(input_ids=torch.tensor([item.rows[0].ids])).logits[0, item.read_at]
            truth = logits[[11, 12]].log_softmax(0)
            torch.testing.assert_close(found.double(), truth, rtol=1e-6, atol=1e-6)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_classification_head_is_scored_by_its_outputs():
    from zoft.tasks.encode import Encoded, TokenRow

    model = tiny.build("bert", "SequenceClassification", num_labels=3)
    items = tuple(
        Encoded((TokenRow(tiny.sentence(n, n), ()),), gold=n % 3, row=n, choices=(0, 1, 2)) for n in (9, 14, 6)
    )
    batch = Collator(0, 3, architecture="classifier")(items)
    with torch.no_grad():
        logits = torch.cat([model(input_ids=torch.tensor([item.rows[0].ids])).logits for item in items])
        truth = torch.nn.functional.cross_entropy(logits, batch["gold"], reduction="none")
        torch.testing.assert_close(OBJECTIVE.losses(model, batch), truth, rtol=1e-5, atol=1e-6)


def test_language_modelling_equals_transformers_own_loss(causal):
    """On one sequence, where the mean over tokens and the mean over examples are the same; then on several."""
    rows = [tiny.sentence(12, 1), tiny.sentence(7, 2)]
    ids = torch.zeros(2, 12, dtype=torch.long)
    labels = torch.full((2, 12), -100)
    mask = torch.zeros(2, 12, dtype=torch.long)
    truth = []
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = torch.tensor(row), 1
        labels[index, 3 : len(row)] = torch.tensor(row[3:])
        alone = labels[index : index + 1, : len(row)]
        with torch.no_grad():
            truth.append(causal(input_ids=torch.tensor([row]), labels=alone).loss.item())
    with torch.no_grad():
        losses = LanguageModelling().losses(causal, {"input_ids": ids, "attention_mask": mask, "labels": labels})
    assert losses.tolist() == pytest.approx(truth, abs=1e-5)


def test_language_modelling_teaches_the_right_candidate(causal):
    dataset = tiny.longer_answers()
    with torch.no_grad():
        scored = LanguageModelling().evaluate(causal, collator(dataset)(dataset.items))
    for index, item in enumerate(dataset):
        truth = true_scores(causal, item)
        assert scored.losses[index].item() == pytest.approx(-truth[item.gold], abs=1e-5)
        assert scored.scores[index, : item.candidates].tolist() == pytest.approx(truth, abs=1e-5)


def test_adapters_and_wrappers_are_looked_through(causal):
    import peft

    expected = accepted_arguments(causal)
    dataset = tiny.one_token_answers()
    batch = collator(dataset)(dataset.items)
    with torch.no_grad():
        plain = OBJECTIVE.losses(causal, batch)
        configuration = peft.LoraConfig(r=2, target_modules="all-linear", task_type=peft.TaskType.CAUSAL_LM)
        wrapped = peft.get_peft_model(causal, configuration)
        assert accepted_arguments(wrapped) == expected
        torch.testing.assert_close(OBJECTIVE.losses(wrapped, batch), plain, rtol=0, atol=1e-6)
