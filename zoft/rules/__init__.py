"""Update rules: what a zeroth-order gradient is spent on."""

from zoft.rules.base import Rule, State, in_single, spend
from zoft.rules.table import RULES, rule

__all__ = ["RULES", "Rule", "State", "in_single", "rule", "spend"]
