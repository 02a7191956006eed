"""May the points of a step share one batch, as zo_panels=lockstep lets them?"""

from __future__ import annotations

from typing import Any

from zoft.errors import UsageError
from zoft.trainer.objective_trainer import ObjectiveTrainer


def check_apart(trainer: Any) -> None:
    """Raises UsageError: the trainer's losses are not those of an objective that keeps the rows of its examples apart."""
    objective = getattr(trainer, "objective", None)
    instead = "use zo_panels=jit"
    if objective is None:
        raise UsageError(
            "zo_panels=lockstep needs the losses of the examples, and a model's own loss is one number for a batch: give "
            f"ZOTrainer an objective (objective=zoft.objectives.LanguageModelling(), say), or {instead}"
        )
    if not getattr(objective, "rows_apart", False):
        raise UsageError(
            f"zo_panels=lockstep puts all points of a step into one batch, and {type(objective).__name__} does not say that "
            f"the loss of an example depends on its own rows alone: set rows_apart = True in the objective if it "
            f"does, or {instead}"
        )
    if type(trainer).compute_loss is not ObjectiveTrainer.compute_loss:
        raise UsageError(
            f"zo_panels=lockstep takes the objective's losses, and {type(trainer).__name__} has a compute_loss of its own, "
            f"which would be left out; {instead}"
        )
