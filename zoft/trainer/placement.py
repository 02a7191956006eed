"""Where the model of a trainer lies: what a zeroth-order trainer cannot use is refused before anything runs."""

from __future__ import annotations

import os
from typing import Any

from zoft.errors import UsageError
from zoft.trainer.settings import ZOSettings


def check_placement(trainer: Any) -> None:
    """Raises UsageError for accelerate's FSDP, several GPUs in one process, and processes that know nothing of each other."""
    started = int(os.environ.get("WORLD_SIZE") or 1)
    if started > 1 and trainer.args.world_size == 1:
        raise UsageError(
            f"{started} processes were started, but each would train alone: on CPUs, set use_cpu=true, or "
            "ACCELERATE_USE_CPU=true before the launcher"
        )
    if trainer.is_fsdp_enabled:
        raise UsageError(
            "accelerate's FSDP shards the weights after the optimizer was made, so no update would reach them; leave it "
            "out of the launch file and have the model sharded where it is loaded: fsdp_size=N or tp_size=N, or in Python "
            "from_pretrained(…, distributed_config=DistributedConfig(fsdp_size=N)) (docs/scaling.md)"
        )
    gpus = trainer.args.n_gpu
    if gpus > 1:
        raise UsageError(
            f"{gpus} GPUs are visible to one process, which Trainer would drive with DataParallel; "
            f"start one process per GPU (accelerate launch --num_processes {gpus} …) "
            "or show it one (CUDA_VISIBLE_DEVICES=0)"
        )


def check_sharded(model: Any, args: Any, settings: ZOSettings) -> None:
    """Raises UsageError where a model that is cut among processes was cut by others, or would be saved with its weights."""
    if not getattr(model, "is_distributed_loading_by_transformers", False):
        raise UsageError(
            "the model is sharded, but Trainer knows only those that are sharded where they are loaded: "
            "from_pretrained(…, distributed_config=DistributedConfig(fsdp_size=N)); or train it with zoft.ZOOptimizer in a "
            "loop of your own (docs/scaling.md)"
        )
    if settings.guard == "rewind" or (args.save_strategy != "no" and not settings.zo_light_checkpoints):
        raise UsageError(
            "checkpoints of a sharded model are made without weights, from which each process catches up by base and log: "
            "set zo_light_checkpoints=true (or save_strategy=no), and guard=skip or off"
        )
