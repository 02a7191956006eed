"""Generated text: what the model alone, without a cache and without neighbours, would have written."""

import importlib.util
from pathlib import Path

import torch

from zoft.evaluate import evaluate
from zoft.generation import Greedy, prompts_of
from zoft.objectives import LanguageModelling
from zoft.tasks import Example
from zoft.tasks.collate import Collator
from zoft.tasks.encoded import Encoded, EncodedDataset, TokenRow

spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("conftest.py"))
assert spec is not None and spec.loader is not None
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

PROMPTS = [tiny.sentence(length, length) for length in (3, 17, 8, 1)]


class Letters:
    """Token n is the letter number n; the tokens of `lines` end a line."""

    eos_token_id, pad_token_id = 2, 0

    def __init__(self, lines=()):
        self.lines = set(lines)

    def get_vocab(self):
        return {self.letter(n): n for n in range(tiny.VOCABULARY)}

    def letter(self, token):
        return chr(200 + token) + ("\n" if token in self.lines else "")

    def batch_decode(self, rows, skip_special_tokens=False):
        return ["".join(self.letter(t) for t in row if not (skip_special_tokens and t in (0, 2))) for row in rows]


def written_alone(model, prompt, tokens, ends):
    ids = list(prompt)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def test_a_batch_writes_what_each_prompt_would_alone(causal):
    greedy = Greedy(Letters(), max_new_tokens=12)
    expected = [written_alone(causal, prompt, 12, greedy.ends) for prompt in PROMPTS]
    assert greedy(causal, PROMPTS) == greedy.texts(expected)
    line = expected[1][4]  # a token that some answer holds now ends a line, and the answer with it
    short = Greedy(Letters([line]), max_new_tokens=12)
    alone = [written_alone(causal, prompt, 12, {2, line}) for prompt in PROMPTS]
    assert line in short.ends and short(causal, PROMPTS) == short.texts(alone)
    assert len(alone[1]) < 12 and Letters([line]).letter(line)[0] == short.texts(alone)[1][-1]
    assert not causal.training


def test_evaluation_scores_what_is_written():
    model = tiny.build("llama")
    greedy = Greedy(Letters(), max_new_tokens=4)
    texts = greedy(model, PROMPTS)
    answers = [texts[0], "no", texts[2], "no"]
    items = tuple(
        Encoded((TokenRow((*prompt, 5, 2), (len(prompt), len(prompt) + 1)),), 0, n, index=n)
        for n, prompt in enumerate(PROMPTS)
    )
    examples = tuple(Example("p", (answer,), 0, n, answers=(answer,)) for n, answer in enumerate(answers))
    dataset = EncodedDataset(items, "causal", examples=examples)
    collator = Collator(0, 1)
    assert prompts_of(collator(items)) == [list(prompt) for prompt in PROMPTS]
    for size in (1, 3, 8):
        found = evaluate(model, dataset, LanguageModelling(), collator, size, ("exact_match",), greedy)
        assert found["exact_match"] == 0.5 and found["n"] == 4
