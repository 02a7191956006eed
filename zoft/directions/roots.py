"""Square roots that are rounded once, on every device."""

from __future__ import annotations

import numpy as np
import torch


def root(x: torch.Tensor) -> torch.Tensor:
    """sqrt(x) of float32 or float64 that is not negative, rounded as IEEE asks.

    GPUs do that. torch's root on CPUs (MKL's) is a unit of the last place off for one in five float32, and otherwise for the
    few at the end of a tensor, so that the bits of an element would depend on the panel that it is computed in.

    >>> root(torch.tensor([0.25, 2.0]))
    tensor([0.5000, 1.4142])
    """
    if x.device.type != "cpu":
        return torch.sqrt(x)
    return torch.from_numpy(np.asarray(np.sqrt(x.detach().numpy())))
