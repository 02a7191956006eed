"""What the machine can do at best, measured in the same run: the ceilings of the roofline."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from zoft.bench.timing import once

ELEMENTS = 1 << 25  # float32: 134 MB, larger than any cache


@dataclass(frozen=True)
class Ceilings:
    """Sustained rates of plain torch."""

    bandwidth: float  # bytes a second, read and written together: w += c over a tensor larger than the caches
    flops: float  # a second, of a [1024, 1024] by [1024, 4096] product in the dtype

    @classmethod
    def measure(cls, dtype: torch.dtype, device: torch.device | str = "cpu", repeats: int = 9) -> Ceilings:
        memory = torch.zeros(ELEMENTS, device=device)
        left = torch.ones(1024, 1024, dtype=dtype, device=device)
        right = torch.ones(4096, 1024, dtype=dtype, device=device)
        seconds: dict[str, list[float]] = {"add": [], "product": []}
        for number in range(repeats + 2):
            add, product = once(lambda: memory.add_(1.0), device).wall, once(lambda: left @ right.t(), device).wall
            if number >= 2:
                seconds["add"].append(add)
                seconds["product"].append(product)
        return cls(
            8 * ELEMENTS / statistics.median(seconds["add"]),
            2 * 1024 * 1024 * 4096 / statistics.median(seconds["product"]),
        )

    def seconds(self, moved: float, operations: float) -> float:
        """The least time for so many bytes and floating-point operations, one after the other."""
        return moved / self.bandwidth + operations / self.flops
