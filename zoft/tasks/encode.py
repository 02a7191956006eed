"""From examples to tokens: which tokens the model reads, which of them are the answer's.

Prompt and candidate are tokenised together, as one text, and split by the characters each token covers: tokenising them
apart gives other tokens wherever a tokenizer merges over the seam. A token that covers any character of the candidate
is the answer's; it and only its like carry the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from zoft.errors import UsageError
from zoft.tasks.base import Architecture, Example
from zoft.tasks.encoded import Encoded, EncodedDataset, TokenRow

__all__ = ["Encoded", "EncodedDataset", "TokenRow", "encode"]


def encode(
    examples: Iterable[Example],
    tokenizer: Any,
    max_length: int,
    architecture: Architecture = "causal",
    *,
    answers: Literal["candidates", "gold"] = "candidates",
    share_prompt: bool = True,
    reserve: int = 0,
) -> EncodedDataset:
    """Tokenise examples for a model that reads at most `max_length` tokens.

    A text that is too long loses tokens of its passage, from the left; never a token of anything else.

    Args:
        answers: `gold` keeps the right candidate alone (teacher forcing, with the objective `language_modelling`).
        share_prompt: False keeps one row per candidate even where one row would do.
        reserve: tokens that must find room behind the prompt, where an answer is to be generated.

    Raises:
        UsageError: an answer without tokens, candidates with the same tokens (masked LM: the same first token), a text
            that does not fit even without its passage, a tokenizer that does not tell which characters a token covers.
    """
    examples = list(examples)
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"{type(tokenizer).__name__} does not tell which characters a token covers; use a fast tokenizer "
            "(a folder with tokenizer.json)"
        )
    encoder = _Encoder(tokenizer, max_length, reserve)
    if architecture == "causal":
        items = encoder.causal(examples, answers == "gold", share_prompt)
    elif architecture == "masked":
        items = encoder.masked(examples)
    else:
        items = encoder.classifier(examples)
    numbered = tuple(replace(item, index=index) for index, item in enumerate(items))
    return EncodedDataset(numbered, architecture, len(encoder.shortened), tuple(encoder.notes), tuple(examples))


class _Text(NamedTuple):
    """A tokenised text."""

    ids: list[int]
    spans: list[tuple[int, int]]  # characters each token covers
    special: list[int]  # 1: added by the tokenizer


class _Encoder:
    def __init__(self, tokenizer: Any, max_length: int, reserve: int) -> None:
        self.tokenizer, self.max_length, self.reserve = tokenizer, max_length, reserve
        self.shortened: set[int] = set()  # rows
        self.notes: list[str] = []
        self._words: dict[tuple[str, ...], tuple[int, ...]] = {}

    def causal(self, examples: list[Example], gold_only: bool, share_prompt: bool) -> Iterator[Encoded]:
        tokenised: dict[bool, Iterator[_Text]] = {}
        for special in (True, False):
            chosen = [e for e in examples if e.special == special]
            texts = [example.prompt + c for example in chosen for c in _asked(example, gold_only)]
            tokenised[special] = iter(self._tokenised(texts, special))
        for example in examples:
            if any(character.isalnum() for character in example.suffix):
                raise UsageError(
                    f"{example.where}: {example.suffix!r} follows the answer, but a model that reads left to right "
                    "would not see it; put {answer} at the end of the template"
                )
            rows = [self._causal_row(example, c, next(tokenised[example.special])) for c in _asked(example, gold_only)]
            rows = self._fitted(example, rows)
            self._check_distinct(example, [row.ids for row in rows])
            gold = 0 if gold_only else example.gold
            if share_prompt and len(rows) > 1 and _one_prompt(rows):
                prompt = TokenRow(rows[0].ids[:-1], ())
                yield Encoded((prompt,), gold, example.row, choices=tuple(row.ids[-1] for row in rows))
            else:
                yield Encoded(tuple(rows), gold, example.row)

    def masked(self, examples: list[Example]) -> Iterator[Encoded]:
        mask, mask_id = self.tokenizer.mask_token, self.tokenizer.mask_token_id
        if mask_id is None:
            raise UsageError("this tokenizer has no mask token, so its model is no masked language model")
        leads = [_lead(example) for example in examples]
        texts = [e.prompt + lead + mask + e.suffix for e, lead in zip(examples, leads, strict=True)]
        for example, text in zip(examples, self._tokenised(texts), strict=True):
            (row,) = self._fitted(example, [(text, ())])
            if row.ids.count(mask_id) != 1:
                raise UsageError(f"{example.where}: the text itself contains {mask!r}; remove it")
            choices = self._words.get(example.candidates) or self._first_tokens(example)
            yield Encoded((row,), example.gold, example.row, choices, read_at=row.ids.index(mask_id))

    def classifier(self, examples: list[Example]) -> Iterator[Encoded]:
        texts = [example.prompt + example.suffix for example in examples]
        for example, text in zip(examples, self._tokenised(texts), strict=True):
            (row,) = self._fitted(example, [(text, ())])
            yield Encoded((row,), example.gold, example.row, choices=tuple(range(len(example.candidates))))

    def _tokenised(self, texts: list[str], special: bool = True) -> list[_Text]:
        if not texts:
            return []
        read = self.tokenizer(
            texts,
            add_special_tokens=special,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            padding=False,
            truncation=False,
            verbose=False,
        )
        return [
            _Text(ids, [tuple(s) for s in spans], mask)
            for ids, spans, mask in zip(
                read["input_ids"], read["offset_mapping"], read["special_tokens_mask"], strict=True
            )
        ]

    def _causal_row(self, example: Example, candidate: str, text: _Text) -> tuple[_Text, tuple[int, ...]]:
        """The text without what the tokenizer appends (an end of sequence), and where its answer stands."""
        end = max((i for i, special in enumerate(text.special) if not special), default=-1) + 1
        text = _Text(text.ids[:end], text.spans[:end], text.special[:end])
        seam = self._seam(example, candidate, text)
        answer = tuple(i for i, (_, stop) in enumerate(text.spans) if stop > seam and not text.special[i])
        if not answer:
            raise UsageError(
                f"{example.where}: the tokenizer makes no token of one of the answers {example.candidates}"
            )
        if answer[0] == 0:
            raise UsageError(
                f"{example.where}: nothing stands before the answer; the prompt must hold at least one token"
            )
        return text, answer

    def _seam(self, example: Example, candidate: str, text: _Text) -> int:
        """Where the answer begins, in the characters that tokens count.

        A tokenizer without an unknown token leaves out characters that it does not know, and may not count them.
        """
        if not text.spans or text.spans[-1][1] >= len(example.prompt + candidate):
            return len(example.prompt)
        (prompt,) = self._tokenised([example.prompt], example.special)
        return max(
            (stop for (_, stop), special in zip(prompt.spans, prompt.special, strict=True) if not special), default=0
        )

    def _fitted(self, example: Example, rows: list[tuple[_Text, tuple[int, ...]]]) -> list[TokenRow]:
        """Rows of at most `max_length` tokens; all lose the same number from the left of their passage."""
        room = [len(text.ids) + max(self.reserve - len(answer), 0) for text, answer in rows]
        excess = max(room) - self.max_length
        if excess <= 0:
            return [TokenRow(tuple(text.ids), answer) for text, answer in rows]
        start, stop = example.passage
        fitted = []
        for text, answer in rows:
            inside = [
                i
                for i, (first, last) in enumerate(text.spans)
                if start <= first < last <= stop and not text.special[i] and i not in answer
            ]
            if len(inside) < excess:
                kept = f" with room for {self.reserve} new ones" if self.reserve else ""
                raise UsageError(
                    f"{example.where}: {len(text.ids)} tokens, of which {len(inside)} are the passage, do not fit into "
                    f"max_length={self.max_length}{kept}; raise max_length or shorten the template"
                )
            dropped = set(inside[:excess])
            ids = tuple(token for i, token in enumerate(text.ids) if i not in dropped)
            fitted.append(TokenRow(ids, tuple(i - sum(d < i for d in dropped) for i in answer)))
        self.shortened.add(id(example))
        return fitted

    def _check_distinct(self, example: Example, ids: list[tuple[int, ...]]) -> None:
        seen: dict[tuple[int, ...], int] = {}
        for index, tokens in enumerate(ids):
            if tokens in seen:
                first, second = example.candidates[seen[tokens]], example.candidates[index]
                raise UsageError(
                    f"{example.where}: candidates {first!r} and {second!r} are the same tokens to this tokenizer"
                )
            seen[tokens] = index

    def _first_tokens(self, example: Example) -> tuple[int, ...]:
        """The token that stands for each candidate at the mask: its first, as it is inside a text.

        Raises:
            UsageError: two candidates share it, or it is the unknown token.
        """
        before = "" if not _lead(example) else "x"
        tokens = []
        for candidate, text in zip(
            example.candidates, self._tokenised([before + c for c in example.candidates], special=False), strict=True
        ):
            own = [token for token, (_, stop) in zip(text.ids, text.spans, strict=True) if stop > len(before)]
            if not own or own[0] == self.tokenizer.unk_token_id:
                raise UsageError(f"{example.where}: this tokenizer has no token for the label word {candidate!r}")
            if len(own) > 1:
                self.notes.append(
                    f"the label word {candidate!r} is {len(own)} tokens; its first stands for it at the mask"
                )
            if own[0] in tokens:
                other = example.candidates[tokens.index(own[0])]
                raise UsageError(
                    f"{example.where}: the label words {other!r} and {candidate!r} begin with the same token, and a "
                    "mask has room for one; choose words that are single tokens"
                )
            tokens.append(own[0])
        self._words[example.candidates] = tuple(tokens)
        return tuple(tokens)


def _asked(example: Example, gold_only: bool) -> tuple[str, ...]:
    return (example.candidates[example.gold],) if gold_only else example.candidates


def _lead(example: Example) -> str:
    """The space between a prompt and its answer."""
    first = example.candidates[0]
    return first[: len(first) - len(first.lstrip())]


def _one_prompt(rows: list[TokenRow]) -> bool:
    """Whether every row is the same tokens and one more, the answer."""
    return all(row.answer == (len(row.ids) - 1,) and row.ids[:-1] == rows[0].ids[:-1] for row in rows)
