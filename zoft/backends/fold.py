"""One order of summation for every backend and device."""

from __future__ import annotations

import torch


def fold(values: torch.Tensor) -> torch.Tensor:
    """The sum of a vector by halves: the upper half is added to the lower until one value is left.

    Every addition is one of two elements, so the bits do not depend on the device or on the number of threads.

    >>> fold(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])), fold(torch.zeros(0))
    (tensor(15.), tensor(0.))
    """
    if values.numel() == 0:
        return values.new_zeros(())
    while values.numel() > 1:
        half = (values.numel() + 1) // 2
        lower = values[:half].clone()
        lower[: values.numel() - half] += values[half:]
        values = lower
    return values.reshape(())
