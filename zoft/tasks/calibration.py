"""Surface-form calibration: what a candidate scores without the passage is not what it scores because of it.

Holtzman et al. 2021 (PMI_DC): among candidates y choose the largest ``log p(y | x) - log p(y | x without its passage)``.
Words that are likely after any text of this form ("It was great") lose that advantage.
"""

from __future__ import annotations

from dataclasses import replace

from zoft.errors import UsageError
from zoft.tasks.base import Example


def without_passage(example: Example) -> Example:
    """The question asked of nothing: its prompt from the end of the passage on.

    Raises:
        UsageError: the prompt is its passage alone or has none, so nothing would be left or nothing would change.

    >>> without_passage(Example("a dull film It was", (" bad", " good"), 0, 1, passage=(0, 11))).prompt
    'It was'
    """
    start, stop = example.passage
    rest = (example.prompt[:start] + example.prompt[stop:]).strip()
    if start == stop or not rest:
        raise UsageError(
            f"{example.where}: calibration asks the question without its passage, but this prompt "
            f"{'has none' if start == stop else 'is nothing else'}"
        )
    return replace(example, prompt=rest, passage=(0, 0))
