"""Stability: closed forms (`theory`), what was measured (`Reading`), and what follows for the learning rate.

`StabilityMonitor` bounds or chooses the learning rate, `Guard` refuses steps, `govern` puts both on an optimizer.
"""

from zoft.stability.guard import Guard
from zoft.stability.monitor import StabilityMonitor, Surroundings
from zoft.stability.reading import Reading
from zoft.stability.settings import StabilitySettings
from zoft.stability.steering import Steering, govern
from zoft.stability.theory import critical_lr

__all__ = [
    "Guard",
    "Reading",
    "StabilityMonitor",
    "StabilitySettings",
    "Steering",
    "Surroundings",
    "critical_lr",
    "govern",
]
