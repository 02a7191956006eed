"""Stability: closed forms (`theory`), what was measured (`Reading`), and what follows for the learning rate."""

from zoft.stability.reading import Reading
from zoft.stability.theory import critical_lr

__all__ = ["Reading", "critical_lr"]
