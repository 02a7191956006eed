"""What drift (17) is measured against: the weights that a step displaces, those beneath an adapter included."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from zoft.shards import is_sharded
from zoft.space import ParameterSpace, sum_of_squares

ROWS = 256  # of an identity that a quantised layer is applied to at once


def reference_norm(model: nn.Module, space: ParameterSpace) -> float:
    """||w_0|| [length] of the trained weights and of the frozen matrices that trained adapters are added to.

    A layer under LoRA computes with W + s B A, s = alpha / r. A begins with entries of variance 1 / (3n) and B at zero,
    so ||A, B|| says nothing of how far a step takes the model; ||W|| does. With W [m, n], A [r, n], B [m, r], a step
    of independent entries and length l in (A, B) moves W + s B A by

        l s sqrt( (m ||A||^2 + n ||B||^2) / (r (m + n)) )                                                       (17a)

    to first order: at the start l s sqrt(m / (3 (m + n))), 0.82 l for a square W and s = 2. So l over ||W, A, B|| is,
    near the start, the relative displacement of the model's own weights to within a small factor.
    """
    return math.sqrt(space.norm() ** 2 + math.fsum(_square(layer) for layer in _adapted(model)))


def _adapted(model: nn.Module) -> Iterator[Any]:
    """Layers with a frozen matrix, each once, beside which something is trained; PEFT calls them `base_layer`."""
    seen: set[int] = set()
    for module in model.modules():
        base: Any = getattr(module, "base_layer", None)
        while isinstance(getattr(base, "base_layer", None), nn.Module):  # an adapter on an adapter
            base = base.base_layer
        weight = getattr(base, "weight", None)
        if not isinstance(base, nn.Module) or not isinstance(weight, torch.Tensor) or id(weight) in seen:
            continue
        if not weight.requires_grad and any(other.requires_grad for other in module.parameters()):
            seen.add(id(weight))
            yield base


@torch.no_grad()
def _square(layer: Any) -> float:
    """||W||_F^2; of a quantised linear layer, whose numbers are codes, by what it does: the squares of W I."""
    weight = layer.weight
    if weight.is_floating_point():
        return sum_of_squares(weight.full_tensor() if is_sharded(weight) else weight)
    width, device = layer.in_features, weight.device
    start = layer(torch.zeros(1, width, device=device))
    rows = torch.arange(width, device=device).split(ROWS)
    return math.fsum(sum_of_squares(layer(nn.functional.one_hot(row, width).float()) - start) for row in rows)
