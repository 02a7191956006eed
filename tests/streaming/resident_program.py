"""Train, evaluate, save and resume a model of a folder in a process of its own; print how far its resident set rose.

python resident_program.py MODEL WAY BUDGET OUT: WAY is plain, disk or memory. One line of JSON.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from zoft.bench.peak import RESET, resident
from zoft.optimizer import ZOOptimizer
from zoft.streaming.stream import stream
from zoft.trajectory import TrajectoryLog, attach, replay


def train(model: torch.nn.Module, steps: int, folder: Path) -> tuple[list[float | None], str]:
    """The steps' losses, and a hash of the weights that they lead to."""
    optimizer = ZOOptimizer(model, lr=1e-4, seed=1)
    recorder = attach(optimizer, folder / "log")
    ids = torch.randint(0, 60, (2, 16), generator=torch.Generator().manual_seed(2))
    losses = [optimizer.step(lambda: model(input_ids=ids, labels=ids).loss) for _ in range(steps)]
    recorder.checkpoint(folder)
    recorder.close()
    return losses, optimizer.space.fingerprint()


def main(source: str, way: str, budget: str, out: Path) -> None:
    out.mkdir()
    (out / "first").mkdir()
    small = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 60,
    }
    train(LlamaForCausalLM(LlamaConfig(**small)), 2, out / "first")  # compiles and loads what any run needs
    with open(RESET, "w", encoding="ascii") as file:
        file.write("5")
    before = resident("VmRSS")

    def opened() -> torch.nn.Module:
        model = AutoModelForCausalLM.from_pretrained(source)
        if way != "plain":
            stream(model, budget, way, folder=out)
        return model

    model = opened()
    losses, trained = train(model, 2, out)
    model.save_pretrained(out / "saved")
    del model
    gc.collect()
    replayed = replay(opened(), TrajectoryLog.read(out / "log")).space.fingerprint()
    peak = resident("VmHWM") - before
    print(json.dumps({"peak": peak, "losses": losses, "fingerprints": [trained, replayed]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
