"""A step of zoft beside its own two forwards and beside MeZO's step, all interleaved in one run.

    python benchmarks/step.py                             OPT-125M, 16 x 64 and 1 x 512, float32 and bfloat16
    python benchmarks/step.py --dtypes bfloat16 --batches 1x512 --only forwards,mezo,in_place
    python benchmarks/step.py --shape opt-13b --dtypes bfloat16 --batches 16x64 --device cuda

Rows go to benchmarks/results/step.csv; every contestant is explained in zoft/bench/contestants.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from zoft.bench import rows, step
from zoft.bench.contestants import MODES, PLAIN
from zoft.bench.shapes import random_model

RESULTS = Path(__file__).resolve().parent / "results" / "step.csv"
DEFAULT = (*PLAIN, "read_only", "in_place", "in_place_passes", "read_only_label", "in_place_label")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a step.")
    parser.add_argument("--shape", default="opt-125m")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--batches", default="16x64,1x512", help="rows x tokens")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--only", default=",".join(DEFAULT), help=f"of: {', '.join([*PLAIN, *MODES])}, …_passes, …_label"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peaks", action="store_true")
    parser.add_argument("--csv", default=str(RESULTS))
    asked = parser.parse_args()
    for dtype in asked.dtypes.split(","):
        model = random_model(asked.shape, getattr(torch, dtype), asked.device)
        for batch in asked.batches.split(","):
            count, length = map(int, batch.split("x"))
            cell = step.run(model, asked.shape, count, length, asked.only.split(","), asked.rounds, asked.peaks)
            found = cell.table_rows()
            print(
                f"\n{asked.shape}, {dtype}, {batch} tokens, median of {asked.rounds} rounds\n{step.text(found)}",
                flush=True,
            )
            if asked.csv:
                rows.append(asked.csv, [{**rows.circumstances(asked.device), **row} for row in found])


if __name__ == "__main__":
    main()
