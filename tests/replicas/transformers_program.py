"""Run by test_sharded_by_transformers.py: one process, then two that hold parts of every weight, as Transformers cuts them."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

CASES = {  # fsdp: 51 rows among two, and a group of the head and the norm; tied: one weight in two groups
    "fsdp": {"sharding": {"fsdp_size": 2}, "vocab_size": 51, "tied": False, "dtype": "bfloat16"},
    "tied": {"sharding": {"fsdp_size": 2}, "vocab_size": 52, "tied": True, "dtype": "float32"},
    "tp": {"sharding": {"tp_size": 2}, "vocab_size": 51, "tied": False, "dtype": "float32"},
}


def save_base(folder: Path, case: dict[str, Any]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=case["vocab_size"], hidden_size=16, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=case["tied"],
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def train(model: Any, folder: Path, accumulation: int, dtype: str, resume: Path | None = None) -> dict[str, Any]:
    from zoft.trainer import ZOConfig, ZOTrainer

    ids = torch.randint(4, 50, (64, 12), generator=torch.Generator().manual_seed(1))
    rows = [{"input_ids": row, "labels": row} for row in ids]
    config = ZOConfig(
        output_dir=str(folder), max_steps=6, per_device_train_batch_size=4, gradient_accumulation_steps=accumulation,
        learning_rate=1e-2, lr_scheduler_type="linear", save_strategy="steps", save_steps=3, eval_strategy="steps",
        eval_steps=3, report_to=[], use_cpu=True, disable_tqdm=True, zo_rule="momentum", stability_every=2, zo_check_every=2,
        zo_light_checkpoints=True, weight_rounding="residual16" if dtype == "bfloat16" else "nearest",
    )  # fmt: skip
    trainer = ZOTrainer(model, config, train_dataset=rows, eval_dataset=rows[:8])
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(str(folder / "model"))
    log = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.zo is not None and trainer.zo.last is not None
    held = sum(slot.weight.numel() for slot in trainer.zo.space.slots)
    return {
        "print": trainer.zo.space.fingerprint(),
        "loss": trainer.zo.last.estimate.loss,
        "eval": log,
        "held": held,
        "all": trainer.zo.space.elements,
    }


def part(rank: int, port: int, folder: Path, name: str) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank),
        "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    from accelerate import ParallelismConfig, PartialState

    from zoft.models import load_model

    torch.set_num_threads(1)  # a forked pool is of no use: made anew here, or the threads that load weights race for it
    ParallelismConfig._validate_accelerator = lambda *_: None  # accelerate wants devices for tensor parallelism
    PartialState(cpu=True)
    case = CASES[name]

    def load() -> Any:
        return load_model(str(folder / "base"), dtype=case["dtype"], sharding=case["sharding"])

    accumulation = 1 if name != "tp" else 2
    found = {"whole": train(load(), folder / "run", accumulation, case["dtype"])}
    found["resumed"] = train(load(), folder / "run", accumulation, case["dtype"], folder / "run" / "checkpoint-3")
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def main(name: str) -> None:
    torch.set_num_threads(1)
    for case in CASES:
        folder = Path(name) / case
        save_base(folder / "base", CASES[case])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("fork")
        ranks = [context.Process(target=part, args=(r, port, folder, case)) for r in range(2)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(300)
            rank.kill()
    from zoft.models import load_model
    from zoft.trajectory import TrajectoryLog, replay

    for case, settings in CASES.items():
        folder = Path(name) / case
        model = load_model(str(folder / "base"), dtype=settings["dtype"])
        alone = train(model, folder / "alone", 2, settings["dtype"])
        base = load_model(str(folder / "base"), dtype=settings["dtype"])
        alone["replayed"] = replay(base, TrajectoryLog.read(folder / "run" / "trajectory.zoft")).space.fingerprint()
        saved = load_model(str(folder / "run" / "model"))
        alone["saved"] = all(torch.equal(a, b) for a, b in zip(saved.parameters(), base.parameters(), strict=True))
        (folder / "alone.json").write_text(json.dumps(alone))


if __name__ == "__main__":
    main(*sys.argv[1:])
