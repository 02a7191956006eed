"""Candidate likelihood: the right candidate should be the most likely continuation."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from zoft.objectives.base import IGNORED, Batch, Objective, Scored
from zoft.objectives.forward import choice_logits, head_logits, logits_at, mask_logits, token_log_likelihoods
from zoft.objectives.shared_prompt import shared_log_likelihoods, shares_prompts, split


class CandidateLikelihood(Objective):
    """Cross-entropy over the candidates' likelihoods.

    Candidate c with tokens a_1 … a_n after prompt x scores its mean log-likelihood, as in MeZO (Malladi et al.
    2023, its released code)::

        s_c  = 1/n sum_i log p(a_i | x, a_1 … a_{i-1})
        loss = -s_gold + log sum_c exp(s_c)

    When all candidates are one token after the same prompt, the normaliser of p is the same for all of them and
    cancels: the logits at one position serve as scores, one row per example is enough, and so are the candidates' rows of
    a causal model's head. Masked LMs and
    classification heads are read in the same way. Scores are the log softmax over the candidates, -inf where there is
    none.
    """

    name = "candidate_likelihood"
    rows_apart = True

    def evaluate(self, model: nn.Module, batch: Batch) -> Scored:
        """As defined; without gradients longer candidates of one example share their prompt (`shared_prompt`)."""
        if "candidate_rows" not in batch:
            return scored(one_position_scores(model, batch), batch["gold"])
        parts = split(batch) if not torch.is_grad_enabled() and shares_prompts(model) else None
        if parts is None:
            return scored(mean_log_likelihoods(model, batch), batch["gold"])
        per_row = shared_log_likelihoods(model, parts, batch["input_ids"].device)
        return scored(of_rows(per_row, batch["candidate_rows"]), batch["gold"])

    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """[B] float32, from one forward pass."""
        raw = mean_log_likelihoods(model, batch) if "candidate_rows" in batch else one_position_scores(model, batch)
        return scored(raw, batch["gold"]).losses


def scored(raw: torch.Tensor, gold: torch.Tensor) -> Scored:
    """What the candidates' scores [B, C], before they are normalised, tell."""
    scores = raw.log_softmax(dim=-1)
    return Scored(functional.nll_loss(scores, gold, reduction="none"), scores, gold)


def one_position_scores(model: nn.Module, batch: Batch) -> torch.Tensor:
    """[B, C] float32: the output's entry for each candidate, -inf where there is no candidate."""
    if "classes" in batch:
        choices, logits = batch["classes"], head_logits(model, batch)
    elif "read_at" in batch:
        choices, logits = batch["choices"], mask_logits(model, batch)
    else:
        choices = batch["choices"]
        return choice_logits(model, batch, choices).float().masked_fill(choices < 0, -torch.inf)
    return of_choices(logits, choices)


def of_choices(logits: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
    """[B, C] float32: the entries `choices` [B, C] of logits [B, V], -inf where a choice is -1."""
    picked = logits.gather(-1, choices.clamp(min=0)).float()
    return picked.masked_fill(choices < 0, -torch.inf)


def mean_log_likelihoods(model: nn.Module, batch: Batch) -> torch.Tensor:
    """[B, C] float32: each candidate's mean log-likelihood per token, -inf where there is no candidate."""
    return of_rows(answer_log_likelihoods(model, batch), batch["candidate_rows"])


def of_rows(per_row: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """[B, C]: what stands in `per_row` [R] for each candidate's row, -inf where there is no candidate."""
    return per_row[rows.clamp(min=0)].masked_fill(rows < 0, -torch.inf)


def answer_log_likelihoods(model: nn.Module, batch: Batch) -> torch.Tensor:
    """[R] float32: mean over the supervised tokens of each row of their log-likelihood."""
    outputs = batch["outputs"]
    labels = batch["labels"][:, outputs + 1]  # [R, K]
    each = token_log_likelihoods(model, lambda: logits_at(model, batch, outputs), labels)
    return each.sum(dim=1) / (labels != IGNORED).sum(dim=1)
