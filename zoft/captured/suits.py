"""What an optimizer must be so that its step can be captured: said before anything runs."""

from __future__ import annotations

from zoft.backends.triton import TritonBackend
from zoft.distributed import world_size
from zoft.errors import UsageError
from zoft.optimizer import ZOOptimizer
from zoft.perturb import ReadOnly

WHY = "a captured step makes no decision on the host"


def check_suits(optimizer: ZOOptimizer) -> None:
    """Raises UsageError: the message names the setting, why it cannot be captured and what to take instead."""
    space, source = optimizer.space, optimizer.source
    wrong = {
        "stability=off": optimizer.governor is not None,
        "perturbation=read_only and zo_panels=jit": type(optimizer.perturbation) is not ReadOnly,
        "zo_estimator=two_point": optimizer.estimator.name != "two_point",
        "zo_rule=sgd": optimizer.rule.name != "sgd",
        "weight_decay=0": float(optimizer.param_groups[0]["weight_decay"]) != 0.0,
        "dense directions of all layers": source.shaped,
        "zo_distribution=rademacher or gaussian": source.sphere,
        "a constant zo_directions": len(set(optimizer.schedule.counts)) > 1,
        "one process": world_size() > 1,
        "a model that is neither streamed nor sharded": space.sharded or space.streamed is not None,
    }
    needed = [what for what, not_so in wrong.items() if not_so]
    if needed:
        raise UsageError(f"{WHY}, so it needs {', '.join(needed)}; set that, or take ordinary steps")


def check_in_place(optimizer: ZOOptimizer) -> None:
    """Raises UsageError: weights that kernels do not write where they are."""
    space = optimizer.space
    if type(space.backend) is not TritonBackend:
        raise UsageError(
            "a captured step needs the triton backend, which works on CUDA tensors, but the "
            f"{space.backend.name} backend computes here: bring the model to a GPU before the optimizer is made, or take "
            "ordinary steps"
        )
    devices = {weight.device for weight in optimizer.model.parameters()}
    if len(devices) > 1:
        raise UsageError(
            f"a captured step runs on one device, but the model is on {', '.join(sorted(map(str, devices)))}"
        )
    for slot in space.slots:
        if not slot.weight.is_contiguous():
            raise UsageError(
                f"a captured step writes weights where they are, but {slot.name} is not contiguous in memory"
            )
