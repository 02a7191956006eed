"""Update rules: what a zeroth-order gradient is spent on."""

from zoft.rules.base import Rule, State, spend
from zoft.rules.table import RULES, rule

__all__ = ["RULES", "Rule", "State", "rule", "spend"]
