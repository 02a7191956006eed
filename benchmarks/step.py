"""A step of zoft beside its own two forwards and beside MeZO's step, all interleaved in one run.

    python benchmarks/step.py                             OPT-125M, 1 x 512 and 16 x 64, bfloat16 and float32
    python benchmarks/step.py --minutes 30                the same with more time: all rounds even on a slow machine
    python benchmarks/step.py --dtypes bfloat16 --batches 1x512 --only forwards,mezo,in_place
    python benchmarks/step.py --shape opt-13b --dtypes bfloat16 --batches 16x64 --device cuda

Rows go to benchmarks/results/step.csv as soon as their cell (dtype and batch) is done; the bars are printed below it. A cell
may take an equal share of the minutes that are left, so the quick ones come first and leave theirs to the slow ones.
Every contestant is explained in zoft/bench/contestants.py. All of them run with `zoft.keep_freed_memory`, as zoft's commands
do: otherwise each depends on how large the blocks were that the one before it had freed.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path

import torch

from zoft.bench import rows, step
from zoft.bench.bars import bars, gpu_bars
from zoft.bench.contestants import CAPTURED, MODES, PLAIN
from zoft.bench.shapes import random_model, stored_bytes
from zoft.freed_memory import keep_freed_memory

RESULTS = Path(__file__).resolve().parent / "results" / "step.csv"
DEFAULT = (
    *(name for name in PLAIN if name != "forwards_torch"),
    *("read_only", "lockstep", "in_place", "in_place_passes", "read_only_label", "in_place_label"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a step.")
    parser.add_argument("--shape", default="opt-125m")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--batches", default="1x512,16x64", help="rows x tokens")
    parser.add_argument("--rounds", type=int, default=9, help="of each cell, at most")
    parser.add_argument("--minutes", type=float, default=15.0, help="for all cells together; then fewer rounds are run")
    parser.add_argument(
        "--only", default=",".join(DEFAULT), help=f"of: {', '.join([*PLAIN, *MODES, CAPTURED])}, …_passes, …_label"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peaks", action="store_true")
    parser.add_argument("--survive", action="store_true", help="leave out, and tell, a contestant that fails")
    parser.add_argument("--csv", default=str(RESULTS))
    asked = parser.parse_args()
    keep_freed_memory()
    told = rows.circumstances(asked.device)  # before a row is written: it changes the tree
    cells = [(dtype, batch) for dtype in asked.dtypes.split(",") for batch in asked.batches.split(",")]
    end = time.perf_counter() + 60 * asked.minutes
    model, held = None, ""
    for number, (dtype, batch) in enumerate(cells):
        title = f"{asked.shape}, {dtype}, {batch} tokens"
        if dtype != held:
            model, held = None, dtype  # the old one is let go first
            model = random_model(asked.shape, getattr(torch, dtype), asked.device)
        count, length = map(int, batch.split("x"))
        share = (end - time.perf_counter()) / (len(cells) - number)
        cell = step.run(
            model, asked.shape, count, length, asked.only.split(","), asked.rounds, asked.peaks,
            seconds=share, tell=lambda line, title=title: print(f"{title}: {line}", file=sys.stderr, flush=True),
            survive=asked.survive,
        )  # fmt: skip
        found = cell.table_rows()
        if asked.csv:
            rows.append(asked.csv, [{**told, **row} for row in found])
        print(f"\n{title}, median of {found[0]['rounds']} rounds\n{step.text(found)}", flush=True)
        if asked.shape == "opt-125m" and asked.device == "cpu":
            print(*bars(found), sep="\n", flush=True)
        if asked.device != "cpu":
            print(*gpu_bars(found, stored_bytes(asked.shape, getattr(torch, dtype))), sep="\n", flush=True)
        del cell  # with the models of its contestants, before the next cell makes its own
        gc.collect()  # they are in cycles, which else wait for a collection that counts objects, not bytes


if __name__ == "__main__":
    main()
