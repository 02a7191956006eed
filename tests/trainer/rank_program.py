"""Run by test_processes.py under a launcher: trains a tiny model and writes what each rank ended with."""

import json
import os
import sys
from pathlib import Path

import torch


def main(folder: str, accumulation: str, with_callback: str) -> None:
    from transformers import OPTConfig, OPTForCausalLM, Trainer, TrainingArguments

    from zoft.trainer import ZOCallback, ZOConfig, ZOTrainer

    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", "0"))
    torch.manual_seed(0)
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=50, hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=32, word_embed_proj_dim=16,
        )
    )  # fmt: skip
    ids = torch.randint(4, 50, (64, 12), generator=torch.Generator().manual_seed(1))
    rows = [{"input_ids": row, "labels": row} for row in ids]
    arguments = {
        "output_dir": folder, "max_steps": 5, "per_device_train_batch_size": 4, "learning_rate": 1e-3,
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "gradient_accumulation_steps": int(accumulation),
        "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "weight_decay": 0.1,
    }  # fmt: skip
    if with_callback == "first_order":
        result = first_order(model, arguments, rows)
        Path(folder, f"rank{rank}-{with_callback}.json").write_text(json.dumps(result))
        return
    if with_callback == "callback":
        trainer = Trainer(model, TrainingArguments(**arguments), train_dataset=rows, callbacks=[ZOCallback()])
    elif with_callback == "groups":
        groups = int(os.environ.get("WORLD_SIZE", "1"))
        config = ZOConfig(**arguments, zo_directions=4, zo_direction_groups=groups, zo_check_every=2)
        trainer = ZOTrainer(model, config, train_dataset=rows)
    elif with_callback == "capped":
        arguments |= {"learning_rate": 10.0, "max_steps": 12}
        trainer = ZOTrainer(model, ZOConfig(**arguments, stability_every=2), train_dataset=rows)
    else:
        trainer = ZOTrainer(model, ZOConfig(**arguments), train_dataset=rows)
    trainer.create_optimizer()
    rates: list[float] = []
    trainer.zo.observers.append(lambda step: rates.append(step.lr))
    trainer.train()
    result = {
        "print": trainer.zo.space.fingerprint(),
        "world": trainer.args.world_size,
        "loss": trainer.zo.last.estimate.loss,
        "lrs": rates,
        "stability": trainer.zo.governor.metrics(),
    }
    Path(folder, f"rank{rank}-{with_callback}.json").write_text(json.dumps(result))


def first_order(model, arguments: dict, rows: list) -> dict:
    """Gradient descent at a rate that the monitor has to lower, a reading at every step."""
    from transformers import Trainer, TrainingArguments

    from zoft.space import ParameterSpace
    from zoft.trainer import StabilityCallback

    callback = StabilityCallback(every=1, probes=1, cap=True, margin=0.2)
    arguments |= {"optim": "sgd", "learning_rate": 50.0, "weight_decay": 0.0, "ddp_backend": "gloo"}
    trainer = Trainer(model, TrainingArguments(**arguments), train_dataset=rows, callbacks=[callback])
    trainer.train()
    return {
        "print": ParameterSpace(model).fingerprint(),
        "world": trainer.args.world_size,
        "stability": callback.metrics,
    }


if __name__ == "__main__":
    from zoft.config.console import guarded

    sys.exit(guarded(lambda argv: main(*argv), sys.argv[1:]))  # which leaves the group of processes
