"""Steps of a streamed model beside those of the same model in memory, taken in turns.

    PYTHONPATH=. python benchmarks/streaming.py [--shape opt-125m] [--dtype float32] [--batch 4] [--length 128]
        [--budget 300MB] [--rounds 5] [--device cpu]

On a GPU, `--shape opt-30b --dtype bfloat16 --budget 8GB --alone` leaves the unstreamed model out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from zoft.bench.shapes import random_model
from zoft.optimizer import ZOOptimizer
from zoft.streaming.stream import stream


def main() -> None:
    parser = argparse.ArgumentParser(description="Time streamed steps beside steps in memory.")
    parser.add_argument("--shape", default="opt-125m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--budget", default="300MB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--alone", action="store_true", help="the streamed models only")
    asked = parser.parse_args()
    steps: dict[str, Callable[[], Any]] = {}
    for way in ("in memory", "disk", "memory"):
        if way == "in memory" and asked.alone:
            continue
        model = random_model(asked.shape, getattr(torch, asked.dtype), "cpu")
        if way == "in memory":
            model.to(asked.device)
        else:
            made = stream(model, asked.budget, way, device=asked.device, weight_rounding="nearest")
            model.to(asked.device)
            print("all fits, nothing is streamed" if made is None else made.words())
        steps[way] = stepper(model, asked.batch, asked.length, asked.device)
    found: dict[str, list[float]] = {way: [] for way in steps}
    for number in range(asked.rounds + 2):
        for way, step in steps.items():
            started = time.perf_counter()
            step()
            if number > 1:  # the first ones compile and are audited
                found[way].append(time.perf_counter() - started)
    tokens = asked.batch * asked.length
    first = statistics.median(next(iter(found.values())))
    for way, seconds in found.items():
        middle = statistics.median(seconds)
        print(
            f"{way:<10} {middle:8.3f} s a step  {tokens / middle:8.0f} tokens a second  {first / middle:6.1%} of the first"
        )


def stepper(model: Any, batch: int, length: int, device: str) -> Callable[[], Any]:
    """One zeroth-order step on random tokens; the two losses come back to the CPU, so all of it has run."""
    ids = torch.randint(0, model.config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(0)).to(
        device
    )
    optimizer = ZOOptimizer(model, lr=1e-7)
    return lambda: optimizer.step(lambda: model(input_ids=ids, labels=ids).loss)


if __name__ == "__main__":
    main()
