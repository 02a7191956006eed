"""What a reward is, and the check of what one returned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from zoft.errors import UsageError

# reward(prompts, outputs, references) -> one score an example, larger is better; None or nan: there is none for it
Reward = Callable[[Sequence[str], Sequence[str], Sequence[tuple[str, ...]]], Sequence[float | None]]


def scores_of(
    name: str, reward: Reward, prompts: Sequence[str], outputs: Sequence[str], references: Sequence[tuple[str, ...]]
) -> list[float | None]:
    """One score an example, checked.

    Args:
        prompts: what the model was asked.
        outputs: what it answered, without the blanks around it.
        references: every text that counts as right, for each example.

    Raises:
        UsageError: the reward raised, or returned what is no score; the message names the reward.
    """
    try:
        found = reward(list(prompts), list(outputs), list(references))
    except Exception as error:  # a user's own code may raise anything; what it was is said, and kept as the cause
        raise UsageError(f"reward={name} raised {type(error).__name__}: {error}") from error
    return checked(name, found, len(prompts))


def checked(name: str, found: Sequence[float | None], number: int) -> list[float | None]:
    """The scores as floats; None where there is none.

    >>> checked("mine", [1, None, float("nan")], 3)
    [1.0, None, None]

    Raises:
        UsageError: not one score an example; a score that is no number, or infinite.
    """
    try:
        scores = list(found)
    except TypeError as error:
        raise UsageError(
            f"reward={name} returned {found!r}; return a list with one score for each of the {number} examples"
        ) from error
    if len(scores) != number:
        raise UsageError(
            f"reward={name} returned {len(scores)} scores for {number} examples; return one for each, None where there is none"
        )
    return [_number(name, score, place) for place, score in enumerate(scores)]


def _number(name: str, score: object, place: int) -> float | None:
    if score is None:
        return None
    try:
        value = float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"reward={name} returned {score!r} for example {place}; a score is a number, or None"
        ) from error
    if math.isinf(value):
        raise UsageError(f"reward={name} returned {value} for example {place}; a score is a finite number, or None")
    return None if math.isnan(value) else value
