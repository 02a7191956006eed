"""Rules by name."""

from __future__ import annotations

from typing import Any

from zoft.errors import UsageError
from zoft.rules.base import Rule
from zoft.rules.sgd import SGD

RULES: dict[str, type[Rule]] = {"sgd": SGD}


def rule(name: str, **settings: Any) -> Rule:
    """The rule `name` with its hyper-parameters.

    Raises:
        UsageError: no such rule.
    """
    if name not in RULES:
        raise UsageError(f"rule {name!r} does not exist; there are: {', '.join(RULES)}")
    return RULES[name](**settings)
