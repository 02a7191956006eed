"""Does the perturbation reach 16-bit weights? Near a large weight their grid is coarser than the step.

A weight with |w| in [2^e, 2^(e+1)) lies on a grid of spacing 2^e finfo.eps. Rounded to it, w + s is w again when s is less
than half the spacing, and a tie when it is half: from |w| = 2 s / finfo.eps on (bfloat16: 256 s, float16: 2,048 s). Such a
weight takes no part, or a wrong one, in the losses, and still gathers the noise of every update.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

logger = logging.getLogger(__name__)
NARROW = (torch.bfloat16, torch.float16)
PANEL = 1 << 22  # elements looked at at once
TELLING = 1e-3  # share of the 16-bit weights from which a user should know: below, a few outliers


def too_large(weight: torch.Tensor, step: float) -> int:
    """How many elements of a weight a displacement of `step` moves not at all, or only by ties.

    >>> too_large(torch.tensor([0.2, 0.25, 1.0], dtype=torch.bfloat16), 2.0**-10)
    2
    """
    if weight.dtype not in NARROW:
        return 0
    edge = 2.0 * step / torch.finfo(weight.dtype).eps
    return sum(int((panel.abs() >= edge).sum()) for panel in weight.detach().reshape(-1).split(PANEL))


def report_too_large(weights: Iterable[torch.Tensor], step: float) -> float:
    """Count once, and warn if there are more than a few. Returns the share of the 16-bit weights among `weights`."""
    narrow = [weight for weight in weights if weight.dtype in NARROW]
    total = sum(weight.numel() for weight in narrow)
    if not total:
        return 0.0
    share = sum(too_large(weight, step) for weight in narrow) / total
    if share >= TELLING:
        logger.warning(
            "%.2g %% of the 16-bit weights are so large (%g or more in %s) that a step of %g to either side rounds away or is "
            "a tie: the losses do not see it. Raise zo_eps, freeze them, or use dtype=float32",
            100.0 * share, 2.0 * step / torch.finfo(narrow[0].dtype).eps, narrow[0].dtype, step,
        )  # fmt: skip
    return share
