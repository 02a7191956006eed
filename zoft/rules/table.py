"""Rules by name."""

from __future__ import annotations

from typing import Any

from zoft.errors import UsageError
from zoft.rules.adam import Adam
from zoft.rules.adamezo import AdaMeZO
from zoft.rules.base import Rule
from zoft.rules.full_adam import FullAdam
from zoft.rules.hizoo import HiZOO
from zoft.rules.momentum import Momentum
from zoft.rules.muon import Muon
from zoft.rules.sgd import SGD
from zoft.rules.sign import Sign

RULES: dict[str, type[Rule]] = {made.name: made for made in (SGD, Momentum, Adam, FullAdam, AdaMeZO, HiZOO, Muon, Sign)}


def rule(name: str, **settings: Any) -> Rule:
    """The rule `name` with its hyper-parameters.

    >>> rule(**rule("momentum", beta=0.8).settings()).settings() == rule("momentum", beta=0.8).settings()
    True

    Raises:
        UsageError: no such rule, a setting that it does not have, or a value out of range.
    """
    if name not in RULES:
        raise UsageError(f"rule {name!r} does not exist; there are: {', '.join(RULES)}")
    try:
        return RULES[name](**settings)
    except TypeError as error:
        raise UsageError(f"rule {name!r} cannot take the settings {settings}: {error}") from error
