"""log p of one token at each position, from logits that are made some rows of the head at a time and never held.

    log p(t) = l_t - log sum_v exp(l_v),      the sum grows panel by panel of the vocabulary

A forward pass without gradients needs the logits [T, V] for these T numbers alone. Held at once they are its largest tensors:
in the model's type, in float32, and the softmax; 1,024 positions of a vocabulary of 50,272 take 0.5 GB.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from zoft.few_rows import OfAllRows

LOGITS, LOGITS_CPU = 1 << 26, 1 << 22  # elements of a panel of logits: what a product needs to be worth its while
WIDENED, WIDENED_CPU = 1 << 25, 1 << 19  # of them, how many are float32 at once; on a CPU they stay in its caches
BLOCK = 128  # rows of a head that share a block of random signs
FEWEST = 8 * BLOCK  # rows of a panel


class TokenLikelihood(OfAllRows):
    """What a head is asked for: log p of the tokens `labels`, an int64 for each of its positions.

    >>> x, weight = torch.randn(2, 3), torch.randn(5, 3)
    >>> wanted = TokenLikelihood(torch.tensor([4, 0]))
    >>> y = wanted.over(x, 5, lambda rows: x @ weight[rows].t())
    >>> torch.allclose(y[:, 0], (x @ weight.t()).log_softmax(1)[[0, 1], [4, 0]], atol=1e-6)
    True
    """

    def __init__(self, labels: torch.Tensor) -> None:
        self.labels = labels
        self.made: torch.Tensor | None = None  # what the head returned
        self._version = 0

    def over(self, x: torch.Tensor, rows: int, outputs_of: Callable[[slice], torch.Tensor]) -> torch.Tensor:
        """[*labels.shape, 1] float32, or where x [*, D] has other positions than the labels all logits [*, V].

        Args:
            rows: V, the head's.
            outputs_of: the logits [*, n] of n of them, in the model's type.
        """
        if x.shape[:-1] != self.labels.shape:
            return outputs_of(slice(0, rows))
        labels, on_cpu = self.labels.flatten(), x.device.type == "cpu"
        panel = max(FEWEST, (LOGITS_CPU if on_cpu else LOGITS) // max(len(labels), 1) // BLOCK * BLOCK)
        widened = WIDENED_CPU if on_cpu else WIDENED
        total = torch.full(labels.shape, -torch.inf, device=x.device)
        own = torch.zeros_like(total)
        for start in range(0, rows, panel):
            logits = outputs_of(slice(start, min(start + panel, rows))).flatten(0, -2)
            size = logits.shape[1]
            parts = logits.split(max(1, widened // size))
            total = torch.logaddexp(total, torch.cat([part.float().logsumexp(-1) for part in parts]))
            inside = (labels >= start) & (labels < start + size)
            picked = logits.gather(1, (labels - start).clamp(0, size - 1).unsqueeze(1)).squeeze(1)
            own = torch.where(inside, picked.float(), own)
        self.made = (own - total).view(*self.labels.shape, 1)
        self._version = self.made._version
        return self.made

    def returned(self, tensor: torch.Tensor) -> bool:
        """Is `tensor` what the head returned, and as it was?"""
        return tensor is self.made and tensor._version == self._version
