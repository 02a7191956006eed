"""Next-token loss: plain text, chats, and answers that are taught as text."""

from __future__ import annotations

import torch
from torch import nn

from zoft.objectives.base import Batch, Objective, Scored
from zoft.objectives.likelihood import answer_log_likelihoods, mean_log_likelihoods


class LanguageModelling(Objective):
    """Mean negative log-likelihood per supervised token of each example, averaged over examples.

    Supervised are the tokens whose label is not -100. An example that comes with several candidates costs what its
    right one costs; the candidates' mean log-likelihoods are its scores. A batch as Transformers' own collators make it
    (`input_ids`, `attention_mask`, `labels`) does as well.
    """

    name = "language_modelling"
    rows_apart = True

    def evaluate(self, model: nn.Module, batch: Batch) -> Scored:
        if "candidate_rows" in batch:
            scores = mean_log_likelihoods(model, batch)
            gold = batch["gold"]
        else:
            outputs = torch.arange(batch["labels"].shape[1] - 1, device=batch["labels"].device)
            scores = answer_log_likelihoods(model, {"outputs": outputs, **batch}).unsqueeze(1)
            gold = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
        return Scored(-scores.gather(1, gold.unsqueeze(1)).squeeze(1), scores, gold)
