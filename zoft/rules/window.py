"""A momentum buffer as a list: the gradients of the last steps, as (address of a direction, scalar) pairs.

    m_t = sum_{k >= 0} beta^k g_{t-k}

A buffer as large as the weights would hold m_t. Here the last `window` gradients are remembered by address and drawn
again in every step, so memory is a few hundred bytes and time is one multiply-add per remembered direction. A
gradient of age `window` is forgotten; what it would still have added, beta^window / (1 - beta) of itself in all, is
added at once as it leaves. With a constant factor in front (the learning rate) every gradient therefore moves the
weights by exactly 1 / (1 - beta) of itself, as with a full buffer; only the last beta^window of that comes early. The
default window makes this share at most 1 %.

With buffer=full a rule keeps m itself, in float32 beside the weights: nothing comes early, an update draws one direction
instead of `window`, and memory grows by 4 bytes a trained weight. The buffer goes into checkpoints and is rebuilt by
replay; it is not in the log, so a log cannot begin in the middle of such a run.
"""

from __future__ import annotations

import math
from typing import Any

from zoft.backends import Term
from zoft.directions import Direction
from zoft.errors import UsageError
from zoft.estimate import Estimate

Remembered = list[list[Any]]  # one gradient: [coefficient, Direction.plain …] per direction


def default_window(beta: float, share: float = 0.01) -> int:
    """The smallest number of steps K with beta^K <= share.

    >>> default_window(0.9), default_window(0.0)
    (44, 1)
    """
    return 1 if beta <= 0.0 else max(1, math.ceil(math.log(share) / math.log(beta)))


def check_window(window: int | None, beta: float) -> int:
    """The window asked for, or the default of `beta`. Raises UsageError unless it is at least 1."""
    if window is None:
        return default_window(beta)
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise UsageError(f"window is the number of remembered steps and must be a whole number >= 1, not {window!r}")
    return window


def check_buffer(buffer: str, window: int | None) -> tuple[str, ...]:
    """The buffer as large as the weights, or none. Raises UsageError for another word, or a window beside it."""
    if buffer not in ("window", "full"):
        raise UsageError(f"zo_momentum_buffer must be window or full, not {buffer!r}")
    if buffer == "full" and window is not None:
        raise UsageError(
            f"zo_momentum_buffer=full forgets nothing, so it has no window; leave out the window of {window}"
        )
    return ("momentum",) if buffer == "full" else ()


def gradient(estimate: Estimate, share: float = 1.0) -> tuple[Term, ...]:
    """share * g as terms."""
    return tuple(Term(d, share * c) for d, c in zip(estimate.directions, estimate.coefficients, strict=True))


def remember(estimate: Estimate) -> Remembered:
    """A gradient in plain JSON values."""
    return [[c, *d.plain()] for d, c in zip(estimate.directions, estimate.coefficients, strict=True)]


def recall(remembered: Remembered) -> tuple[Term, ...]:
    """The gradient that `remember` wrote down, as terms."""
    return tuple(Term(Direction.of(plain), coefficient) for coefficient, *plain in remembered)


def weighted(
    window: list[Remembered], beta: float, size: int
) -> tuple[list[tuple[Direction, float]], list[Remembered]]:
    """m_t over a window whose newest gradient is last, and the window that stays.

    Returns:
        (direction, coefficient in m_t) pairs, oldest first, and the last `size - 1` gradients: the oldest of a full
        window leaves with its whole tail, beta^(size-1) (1 + beta + beta^2 + ...) = beta^(size-1) / (1 - beta).
    """
    pairs = []
    for age, gradient in reversed(list(enumerate(reversed(window)))):
        weight = beta**age / (1.0 - beta) if age >= size - 1 else beta**age
        pairs += [(term.direction, weight * term.scale) for term in recall(gradient)]
    return pairs, window[-(size - 1) :] if size > 1 else []
