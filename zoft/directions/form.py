"""The forms that directions can have, by their plain values in headers and checkpoints."""

from __future__ import annotations

from typing import Any

from zoft.directions.low_rank import SHAPES, LowRank
from zoft.directions.mask import RandomMask, SmallWeights
from zoft.errors import UsageError

Form = LowRank | RandomMask | SmallWeights
NAMES = (*SHAPES, RandomMask.shape, SmallWeights.shape)


def form_of(plain: list[Any]) -> Form | None:
    """From a form's `plain`; of an empty list None, which is dense.

    >>> [form_of(form.plain()) == form for form in (LowRank("low_rank", 2), RandomMask(0.5, 10), SmallWeights(0.75))]
    [True, True, True]

    Raises:
        UsageError: no such form, or one that cannot be.
    """
    if not plain:
        return None
    name, *values = plain
    if name in SHAPES:
        return LowRank(name, *values)
    for made in (RandomMask, SmallWeights):
        if name == made.shape:
            return made(*values)
    raise UsageError(f"zo_shape {name!r} does not exist; there are: dense, {', '.join(NAMES)}")
