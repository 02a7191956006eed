"""Rewards: any score of what a model answers as the objective, differentiable or not."""

from zoft.rewards.base import Reward, checked
from zoft.rewards.objective import RewardObjective
from zoft.rewards.scoring import Scoring

__all__ = ["Reward", "RewardObjective", "Scoring", "checked"]
