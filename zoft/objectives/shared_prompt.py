"""Candidates of one example read their prompt once: its keys and values serve all of them.

An example with C candidates of n tokens after a prompt of m costs C (m + n) token positions where each is read whole, and
m + C (n + 1) here: the prompts first, then every candidate, each behind the prompt's last token, whose output predicts the
candidate's first. For evaluation: a training step measures its losses in one pass (`Objective.losses`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from zoft.objectives.base import IGNORED, Batch
from zoft.objectives.forward import accepted_arguments, logits_behind, token_log_likelihoods

GAIN = 1.25  # positions saved must outweigh the second pass


class Split(NamedTuple):
    """A batch of R rows of B examples, taken apart."""

    prompts: list[
        list[int]
    ]  # [B] tokens that all candidates of an example begin with, but for the last before an answer
    rests: list[list[int]]  # [R] what follows
    labels: list[list[int]]  # [R] of the rests
    owner: list[int]  # [R] whose prompt


def shares_prompts(model: nn.Module) -> bool:
    """Whether `model` can go on from kept keys and values, with nothing of its own before the text."""
    inner, configs = model, {}
    while isinstance(inner, nn.Module):
        configs = getattr(inner, "peft_config", None) or configs
        inner = getattr(inner, "module", None)
    virtual = any(config.is_prompt_learning for config in configs.values())
    return {"past_key_values", "use_cache", "position_ids"} <= accepted_arguments(model) and not virtual


def split(batch: Batch) -> Split | None:
    """`batch` with its prompts apart; None where that saves nothing."""
    ids, mask, labels = (batch[name].tolist() for name in ("input_ids", "attention_mask", "labels"))
    rows = [[token for token, real in zip(*row, strict=True) if real] for row in zip(ids, mask, strict=True)]
    marked = [[label for label, real in zip(*row, strict=True) if real] for row in zip(labels, mask, strict=True)]
    parts = Split([], [[] for _ in rows], [[] for _ in rows], [0 for _ in rows])
    for example, table in enumerate(batch["candidate_rows"].tolist()):
        own = [row for row in table if row >= 0]
        answered = min(next(t for t, label in enumerate(marked[row]) if label != IGNORED) for row in own)
        length = min(_common([rows[row] for row in own]), answered - 1)
        if length < 1:
            return None
        parts.prompts.append(rows[own[0]][:length])
        for row in own:
            parts.rests[row], parts.labels[row], parts.owner[row] = rows[row][length:], marked[row][length:], example
    apart = len(parts.prompts) * max(map(len, parts.prompts)) + len(rows) * max(map(len, parts.rests))
    return parts if GAIN * apart < batch["input_ids"].numel() else None


def shared_log_likelihoods(model: nn.Module, parts: Split, device: torch.device) -> torch.Tensor:
    """[R] float32: mean over the answer's tokens of each row of their log-likelihood."""
    prompts, seen = _padded(parts.prompts, 0, device, left=True)  # [B, P]
    rests, real = _padded(parts.rests, 0, device)  # [R, Q]
    labels, _ = _padded(parts.labels, IGNORED, device)
    few: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted_arguments(model) else {}
    read = model(
        input_ids=prompts, attention_mask=seen, position_ids=(seen.cumsum(-1) - 1).clamp(min=0), use_cache=True, **few
    )
    owner = torch.tensor(parts.owner, device=device)
    read.past_key_values.batch_select_indices(owner)
    outputs = (labels != IGNORED).any(dim=0).nonzero().flatten() - 1  # [K]
    inputs = {
        "input_ids": rests,
        "attention_mask": torch.cat((seen[owner], real), dim=1),
        "position_ids": seen.sum(dim=1)[owner].unsqueeze(1) + torch.arange(rests.shape[1], device=device),
        "past_key_values": read.past_key_values,
        "use_cache": True,
    }
    wanted = labels[:, outputs + 1]  # [R, K]
    each = token_log_likelihoods(model, lambda: logits_behind(model, inputs, outputs), wanted)
    return each.sum(dim=1) / (wanted != IGNORED).sum(dim=1)


def _common(rows: Sequence[Sequence[int]]) -> int:
    """Tokens that all rows begin with."""
    for position, tokens in enumerate(zip(*rows, strict=False)):
        if len(set(tokens)) > 1:
            return position
    return min(map(len, rows))


def _padded(
    sequences: Sequence[Sequence[int]], fill: int, device: torch.device, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, longest] tokens, and 1 where there is one."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), fill)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        where = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[row, where] = torch.tensor(sequence)
        mask[row, where] = 1
    return ids.to(device), mask.to(device)
