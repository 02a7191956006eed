"""What rules keep beside the weights: tensors as large as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from zoft.errors import UsageError

BEGIN = {"momentum": 0.0, "square": 0.0, "curvature": 1.0}  # kinds, and what their elements are at first
PANEL = 1 << 22  # elements that are in float64 at once


def wide(weight: torch.Tensor) -> torch.dtype:
    """The accumulator's type."""
    return torch.float64 if weight.dtype is torch.float64 else torch.float32


def zeros_like(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Zeros of a weight's shape, where it is."""
    return torch.zeros(weight.shape, dtype=dtype, device=weight.device)


class Buffers(dict[str, torch.Tensor]):
    """By parameter's name for a momentum, by "kind of name" for others: 4 bytes a weight (8 for float64 weights).

    >>> Buffers(["momentum", "curvature"], {"w": torch.zeros(2)})
    {'w': tensor([0., 0.]), 'curvature of w': tensor([1., 1.])}
    """

    def __init__(
        self,
        kinds: Sequence[str],
        weights: Mapping[str, torch.Tensor],
        zeros: Callable[[torch.Tensor, torch.dtype], torch.Tensor] = zeros_like,
    ) -> None:
        """
        Args:
            kinds: of `BEGIN`.
            weights: by canonical name.
            zeros: makes what lies beside a weight.
        """
        super().__init__()
        for kind in kinds:
            for name, weight in weights.items():
                buffer = self[_key(kind, name)] = zeros(weight, wide(weight))
                if BEGIN[kind]:
                    buffer.fill_(BEGIN[kind])

    def of(self, kinds: Sequence[str], name: str) -> list[torch.Tensor]:
        """The buffers of a parameter. Raises UsageError: they are not kept."""
        keys = [_key(kind, name) for kind in kinds]
        if any(key not in self for key in keys):
            raise UsageError(
                f"this move goes through buffers, and the space was made without; pass buffers={tuple(kinds)}"
            )
        return [self[key] for key in keys]

    def beside(self, name: str) -> Iterator[torch.Tensor | None]:
        """All buffers of a parameter, the first of which is its momentum, or None."""
        yield self.get(name)
        yield from (self[key] for kind in BEGIN if (key := _key(kind, name)) != name and key in self)

    def begin(self) -> None:
        """Let all begin anew."""
        for key, buffer in self.items():
            buffer.fill_(BEGIN[_kind(key)])

    @property
    def fresh(self) -> bool:
        """Is every buffer as it begins."""
        return all(bool((buffer == BEGIN[_kind(key)]).all()) for key, buffer in self.items())

    def load(self, buffers: Mapping[str, torch.Tensor]) -> None:
        """Put back those of a checkpoint. Raises UsageError: they belong to other parameters, or another rule."""
        if {n: m.shape for n, m in self.items()} != {n: m.shape for n, m in buffers.items()}:
            raise UsageError("the checkpoint's momentum buffers do not match this model's weights")
        for name, buffer in buffers.items():
            self[name].copy_(buffer)

    @property
    def stretch(self) -> float:
        """Root mean square of an element of a direction: 1, or of 1 / sqrt(h) where a curvature h scales it."""
        scales = [buffer for key, buffer in self.items() if _kind(key) == "curvature"]
        if not scales:
            return 1.0
        panels = (panel for h in scales for panel in h.reshape(-1).split(PANEL))
        total = math.fsum(float(panel.to(torch.float64).reciprocal().sum()) for panel in panels)
        return math.sqrt(total / sum(h.numel() for h in scales))


def _key(kind: str, name: str) -> str:
    return name if kind == "momentum" else f"{kind} of {name}"


def _kind(key: str) -> str:
    kind, of, _ = key.partition(" of ")
    return kind if of else "momentum"
