"""A network of 2,410 weights on the first images of scikit-learn's digits: small enough to be followed exactly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn

from zoft.errors import UsageError

SIZES = (64, 24, 24, 10)
Loss = Literal["squared", "cross_entropy"]


def digits(images: int = 500, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [images, 64] divided by 16 with column means removed, and labels [images].

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError("task=eos reads scikit-learn's digits; install it with: pip install scikit-learn") from error
    data: Any = load_digits()
    pixels = torch.tensor(data.data[:images] / 16.0, dtype=torch.float64)
    return (pixels - pixels.mean(0)).to(dtype), torch.tensor(data.target[:images], dtype=torch.long)


def network(seed: int, sizes: Sequence[int] = SIZES, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """tanh network; weights N(0, 1 / fan_in), biases 0."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out, dtype=dtype)
        with torch.no_grad():
            draw = torch.randn(fan_out, fan_in, generator=generator, dtype=torch.float64)
            linear.weight.copy_(draw / fan_in**0.5)
            linear.bias.zero_()
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def example_losses(outputs: torch.Tensor, labels: torch.Tensor, kind: Loss) -> torch.Tensor:
    """Per example: half the summed squared error against one-hot labels, or cross-entropy.

    outputs [..., B, C], labels [B] -> [..., B]
    """
    if kind == "squared":
        targets = nn.functional.one_hot(labels, outputs.shape[-1]).to(outputs.dtype)
        return 0.5 * (outputs - targets).square().sum(-1)
    rows = labels.expand(outputs.shape[:-1]).unsqueeze(-1)
    return -outputs.log_softmax(-1).gather(-1, rows).squeeze(-1)
