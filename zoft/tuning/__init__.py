"""Which weights of a model are trained: all, a part of them, or an adapter beside them (through PEFT).

`zoft.tuning.table.apply_tuning` does it; importing this package loads neither torch nor PEFT.
"""

from zoft.tuning.settings import TuningSettings

__all__ = ["TuningSettings"]
