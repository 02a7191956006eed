"""Nanoseconds an element of the ops on weights, against the machine's read-modify-write limit measured in the same run.

python benchmarks/ops.py                              float32 and bfloat16; rows go to benchmarks/results/ops.csv
python benchmarks/ops.py --dtypes float16 --csv ""    nothing is written
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from zoft.bench import ops, rows

RESULTS = Path(__file__).resolve().parent / "results" / "ops.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the ops on weights.")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="words that an op's name must have one of")
    parser.add_argument("--csv", default=str(RESULTS))
    asked = parser.parse_args()
    words = [word for word in asked.only.split(",") if word]
    told = rows.circumstances(asked.device)  # before a row is written: it changes the tree
    for dtype in asked.dtypes.split(","):
        found = ops.run(
            getattr(torch, dtype), asked.device, rounds=asked.rounds, backend_name=asked.backend, only=words,
            tell=lambda line, dtype=dtype: print(f"{dtype}: {line.partition(':')[0]}", file=sys.stderr, flush=True),
        )  # fmt: skip
        for row in found:
            print(
                f"{dtype:<9} {row['op']:<34} {row['ns_per_element']} ns ({row['q1']} to {row['q3']})  x {row['to_limit']}"
            )
        if asked.csv:
            rows.append(asked.csv, [{**told, **row} for row in found])


if __name__ == "__main__":
    main()
