"""What the machine can do at best, measured in the same run: the ceilings of the roofline."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from zoft.bench.timing import CALLS_GPU, once, repeated
from zoft.products import wide_products

ELEMENTS, ELEMENTS_GPU = 1 << 25, 1 << 27  # float32: 134 MB, larger than any cache; there much more than a launch costs
PRODUCT, PRODUCT_GPU = (1024, 1024, 4096), (4096, 4096, 4096)  # rows, summed over, columns


@dataclass(frozen=True)
class Ceilings:
    """Sustained rates of plain torch, products as forward passes take them."""

    bandwidth: float  # bytes a second, read and written together: w += c over a tensor larger than the caches
    flops: float  # a second, of a product of `PRODUCT`'s sizes in the dtype

    @classmethod
    def measure(cls, dtype: torch.dtype, device: torch.device | str = "cpu", repeats: int = 9) -> Ceilings:
        on_gpu = torch.device(device).type == "cuda"
        elements, calls = (ELEMENTS_GPU, CALLS_GPU) if on_gpu else (ELEMENTS, 1)
        rows, inner, columns = PRODUCT_GPU if on_gpu else PRODUCT
        memory = torch.zeros(elements, device=device)
        left = torch.randn(rows, inner, device=device).to(dtype)  # of ones a GPU would make more a second
        right = torch.randn(columns, inner, device=device).to(dtype)
        work = {"add": lambda: memory.add_(1.0), "product": lambda: left @ right.t()}
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for number in range(repeats + 2):
            for name, run in work.items():
                with torch.no_grad(), wide_products([left]):
                    taken = once(repeated(run, calls), device).wall
                if number >= 2:
                    seconds[name].append(taken)
        return cls(
            8 * elements / statistics.median(seconds["add"]),
            2 * rows * inner * columns / statistics.median(seconds["product"]),
        )

    def seconds(self, moved: float, operations: float) -> float:
        """The least time for so many bytes and floating-point operations, one after the other."""
        return moved / self.bandwidth + operations / self.flops
