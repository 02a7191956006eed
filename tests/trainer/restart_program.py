"""Run by test_restart.py under torchrun: trains with light checkpoints; rank 1 dies once, in the middle of a step."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

DIES_AT = 6


def counted(name: str, seen: list[int]):
    collective = getattr(dist, name)

    def call(tensor, *args, **kwargs):
        seen.append(tensor.nbytes if isinstance(tensor, torch.Tensor) else sum(part.nbytes for part in tensor))
        return collective(tensor, *args, **kwargs)

    return call


def main(folder: str, accumulation: str) -> None:
    torch.set_num_threads(1)
    seen: list[int] = []
    for name in ("broadcast", "all_gather", "all_reduce", "all_gather_into_tensor", "scatter"):
        setattr(dist, name, counted(name, seen))
    result = train(folder, int(accumulation))
    rank = os.environ.get("RANK", "0")
    Path(folder, f"rank{rank}.json").write_text(json.dumps({**result, "largest": max(seen, default=0)}))


def train(folder: str, accumulation: int) -> dict[str, Any]:
    """The run of one process; what came of it."""
    from transformers import OPTConfig, OPTForCausalLM

    from zoft.trainer import ZOConfig, ZOTrainer

    rank, starts = int(os.environ.get("RANK", "0")), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    torch.manual_seed(0)
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=50, hidden_size=64, ffn_dim=128, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=32, word_embed_proj_dim=64,
        )
    ).to(torch.bfloat16)  # fmt: skip
    ids = torch.randint(4, 50, (64, 12), generator=torch.Generator().manual_seed(1))
    config = ZOConfig(
        output_dir=folder, max_steps=9, per_device_train_batch_size=4, gradient_accumulation_steps=accumulation,
        learning_rate=1e-3, lr_scheduler_type="linear", save_strategy="steps", save_steps=2, report_to=[], use_cpu=True,
        disable_tqdm=True, zo_rule="momentum", stability_every=2, zo_light_checkpoints=True, weight_rounding="residual16",
    )  # fmt: skip
    trainer = ZOTrainer(model, config, train_dataset=[{"input_ids": row, "labels": row} for row in ids])
    taken: list[int] = []
    trainer.create_optimizer()
    trainer.zo.observers.append(lambda step: taken.append(step.index))
    if rank == 1 and starts == 0:
        trainer.zo.observers.append(lambda step: step.index == DIES_AT and os.kill(os.getpid(), signal.SIGKILL))
    trainer.train()
    return {
        "print": trainer.zo.space.fingerprint(), "rule": trainer.zo.rule_state, "starts": starts, "taken": taken,
        "weights": sum(w.nbytes for w in model.parameters()),
    }  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
