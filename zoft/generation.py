"""Free text from a causal language model: greedy or drawn, in batches, keys and values of the past kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from zoft.products import wide_products


@dataclass(frozen=True)
class Greedy:
    """The most likely token, again and again, until `stop` is written, the model ends its text, or the tokens are spent.

    With a temperature T, tokens are drawn from softmax(logits / T) instead, with torch's generator.

    Prompts are padded on the left, so that every row's next token stands at the same place; padding is masked and
    positions count from each row's first real token, so a prompt's answer does not depend on its neighbours.
    """

    tokenizer: Any
    max_new_tokens: int = 50
    stop: str | None = "\n"  # not part of the answer; None: only the model ends it
    temperature: float = 0.0  # 0: nothing is drawn

    @cached_property
    def ends(self) -> list[int]:
        """Tokens that end an answer: the end of sequence, and every token that holds `stop`."""
        specials = [token for token in (self.tokenizer.eos_token_id,) if token is not None]
        if self.stop is None:
            return specials
        vocabulary = sorted(set(self.tokenizer.get_vocab().values()))
        texts = self.tokenizer.batch_decode([[token] for token in vocabulary])
        return [*specials, *(token for token, text in zip(vocabulary, texts, strict=True) if self.stop in text)]

    def __call__(self, model: nn.Module, prompts: Sequence[Sequence[int]]) -> list[str]:
        """The answer to each prompt, given as token ids, in words and without the spaces around it."""
        return self.texts(self.ids(model, prompts))

    def ids(self, model: nn.Module, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """[B, N] new tokens, N at most `max_new_tokens`; the padding token behind each answer's end."""
        from transformers import GenerationConfig

        inner: Any = getattr(model, "module", model)
        device = next(inner.parameters()).device
        pad = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        width = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), width), 0 if pad is None else pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        drawn = {"temperature": self.temperature, "top_k": 0, "top_p": 1.0} if self.temperature else {}
        settings = GenerationConfig(
            max_new_tokens=self.max_new_tokens, do_sample=bool(drawn), num_beams=1, use_cache=True, **drawn,
            eos_token_id=self.ends or None, pad_token_id=0 if pad is None else pad,
        )  # fmt: skip
        mode = inner.training
        inner.eval()
        try:
            with torch.no_grad(), wide_products(inner.parameters()):
                whole = inner.generate(
                    input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings
                )
        finally:
            inner.train(mode)
        return whole[:, width:]

    def texts(self, ids: torch.Tensor | Any) -> list[str]:
        """New tokens in words, up to `stop`; negative entries (a gathered batch's padding) are nothing."""
        rows = [[int(token) for token in row if token >= 0] for row in ids]
        answers = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [(text if self.stop is None else text.split(self.stop)[0]).strip() for text in answers]


def prompts_of(batch: Mapping[str, torch.Tensor]) -> list[list[int]]:
    """The tokens before each row's answer, out of a batch of right answers (`zoft.tasks.collate`)."""
    prompts = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        first = int((labels >= 0).nonzero()[0])
        prompts.append(ids[:first][mask[:first] > 0].tolist())
    return prompts
