"""Candidates that share a prompt score as if each were read whole, in every family, and fewer positions are read."""

import importlib.util
from pathlib import Path

import pytest
import torch

from zoft.objectives import CandidateLikelihood
from zoft.objectives.shared_prompt import shares_prompts, split
from zoft.tasks.collate import Collator
from zoft.tasks.encoded import Encoded, EncodedDataset, TokenRow

spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("conftest.py"))
assert spec is not None and spec.loader is not None
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

OBJECTIVE = CandidateLikelihood()


def batch_of(*examples):
    """A batch of examples (tokens of the prompt, tokens of each answer); candidates of unlike length and number."""
    items = []
    for number, (prompt, answers) in enumerate(examples):
        before = tiny.sentence(prompt, number)
        rows = [before + tiny.sentence(n, 100 * number + 10 * n + k) for k, n in enumerate(answers)]
        items.append(Encoded(tuple(TokenRow(ids, tuple(range(prompt, len(ids)))) for ids in rows), number % 2, number))
    dataset = EncodedDataset(tuple(items), "causal")
    return Collator(0, dataset.max_candidates, architecture="causal")(dataset.items)


MANY = ((26, (1, 3, 2)), (31, (5, 2, 1, 2)), (19, (4, 4)))


def test_scores_are_those_of_whole_rows(causal):
    """Windows of 8 (GPT-Neo's local layers) and padded prompts too."""
    batch, read = batch_of(*MANY), []
    assert shares_prompts(causal) and split(batch) is not None
    handle = causal.get_input_embeddings().register_forward_hook(lambda _, given, out: read.append(given[0].numel()))
    with torch.no_grad():
        shared = OBJECTIVE.evaluate(causal, batch)
        read_shared = sum(read)
        losses = OBJECTIVE.losses(causal, batch)
    handle.remove()
    whole = OBJECTIVE.evaluate(causal, batch)  # with gradients: every row whole
    assert read_shared == 3 * 30 + 9 * 6 and read[2:] == [9 * 40]
    torch.testing.assert_close(shared.scores, whole.scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shared.losses, whole.losses, rtol=1e-4, atol=1e-4)
    assert torch.equal(losses, whole.losses) and torch.equal(shared.gold, whole.gold)


def test_a_seam_that_a_tokenizer_merged_belongs_to_the_candidates():
    """The tokens before the answers may differ; what is shared ends where they do."""
    before = tiny.sentence(30, 1)
    rows = [TokenRow((*before, 7, 8, 9), (31, 32)), TokenRow((*before, 11, 9), (31,))]
    item = Encoded(tuple(rows), 0, 1)
    batch = Collator(0, 2, architecture="causal")([item])
    parts = split(batch)
    assert parts is not None
    assert parts.prompts == [list(before)] and parts.rests == [[7, 8, 9], [11, 9]] and parts.owner == [0, 0]
    model = tiny.build("llama")
    with torch.no_grad():
        shared = OBJECTIVE.evaluate(model, batch)
    torch.testing.assert_close(shared.scores, OBJECTIVE.evaluate(model, batch).scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("examples", [((1, (2, 3)),), ((4, (12, 12)),), ((26, (3,)),)])
def test_where_nothing_is_saved_rows_stay_whole(examples):
    """A prompt of one token, answers longer than their prompt, a single candidate."""
    assert split(batch_of(*examples)) is None


def test_virtual_tokens_are_not_kept_apart():
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    lora = get_peft_model(tiny.build("llama"), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    prompt = get_peft_model(tiny.build("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert shares_prompts(lora) and not shares_prompts(prompt)
    batch = batch_of(*MANY)
    with torch.no_grad():
        shared = OBJECTIVE.evaluate(lora, batch)
    torch.testing.assert_close(shared.scores, OBJECTIVE.evaluate(lora, batch).scores, rtol=1e-4, atol=1e-4)
