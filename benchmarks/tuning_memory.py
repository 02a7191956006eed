"""Memory of one zeroth-order step above the base model's weights and its own forward pass, per tuning scheme.

    PYTHONPATH=. python benchmarks/tuning_memory.py [MODEL]

Bytes of tensors, counted (`zoft.report.memory`). MODEL: a folder; default: the quickstart's.
"""

from __future__ import annotations

import copy
import sys

import torch

from zoft.models import architecture_of, load_model, load_tokenizer
from zoft.objectives import CandidateLikelihood
from zoft.optimizer import ZOOptimizer
from zoft.quickstart.model import prepare
from zoft.quickstart.task import examples
from zoft.report.memory import peak_tensor_bytes, weight_bytes
from zoft.tasks.collate import Collator
from zoft.tasks.encode import encode
from zoft.tuning.table import SCHEMES, apply_tuning

BATCH = 32


def main(argv: list[str]) -> None:
    folder = argv[0] if argv else str(prepare())
    architecture = architecture_of(folder)
    tokenizer = load_tokenizer(folder, architecture)
    base = load_model(folder, dtype="float32", tokenizer=tokenizer)
    dataset = encode(examples("train")[:BATCH], tokenizer, 128, architecture)
    batch, objective = Collator.of(dataset, tokenizer)(list(dataset)), CandidateLikelihood()
    with torch.no_grad():
        forward = peak_tensor_bytes(lambda: objective(base, batch))
    weights = weight_bytes(base)
    print(f"{folder}: weights {weights / 1e6:.3f} MB, a forward pass on {BATCH} reviews {forward / 1e6:.3f} MB\n")
    print("| tuning | trained weights | added weights, MB | step above weights and forward, MB | of the weights |")
    print("|---|---|---|---|---|")
    for name in SCHEMES:
        torch.manual_seed(0)
        model = apply_tuning(copy.deepcopy(base), tuning=name)
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        added = weight_bytes(model) - weights
        step = peak_tensor_bytes(lambda model=model: steps(model, objective, batch))
        above = added + step - forward
        print(f"| {name} | {trained:,} | {added / 1e6:.4f} | {above / 1e6:.4f} | {above / weights:.1%} |")


def steps(model: torch.nn.Module, objective: CandidateLikelihood, batch: dict[str, torch.Tensor]) -> None:
    """Two steps: the second meets every buffer that the first one made."""
    optimizer = ZOOptimizer(model, lr=0.0)
    for _ in range(2):
        optimizer.step(lambda: objective(model, batch))


if __name__ == "__main__":
    main(sys.argv[1:])
