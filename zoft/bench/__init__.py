"""`zoft bench`: what a step costs on this machine, beside its own two forwards and beside MeZO's step."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

DEFAULT = "forwards,mezo,read_only,in_place,forwards_label,read_only_label"


def main(argv: Sequence[str]) -> int:
    """zoft bench [--model NAME | --shape NAME] [--dtype D] [--batch B] [--length T] [--rounds N] [--only A,B] [--csv FILE]"""
    parser = argparse.ArgumentParser("zoft bench", description="Time a step against its own forwards and against MeZO.")
    parser.add_argument("--model", help="folder or name of a causal language model; otherwise random weights")
    parser.add_argument("--shape", default="opt-125m", help="shape of the random weights (opt-125m)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--batch", type=int, default=4, help="rows (4)")
    parser.add_argument("--length", type=int, default=64, help="tokens a row (64)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--only", default=DEFAULT, help=f"contestants ({DEFAULT})")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--peaks", action="store_true", help="measure peak memory as well")
    parser.add_argument("--csv", metavar="FILE", help="append the rows to this file")
    asked = parser.parse_args(argv)

    import torch

    from zoft.bench import rows, step
    from zoft.bench.shapes import random_model

    device = ("cuda" if torch.cuda.is_available() else "cpu") if asked.device == "auto" else asked.device
    dtype = getattr(torch, asked.dtype)
    if asked.model:
        from zoft.models import load_model

        model: Any = load_model(asked.model, dtype=asked.dtype)
        model = model.to(device).eval()
    else:
        model = random_model(asked.shape, dtype, device)
    name = asked.model or asked.shape
    cell = step.run(model, name, asked.batch, asked.length, asked.only.split(","), asked.rounds, asked.peaks)
    found = cell.table_rows()
    print(f"{name}, {asked.dtype}, {asked.batch} x {asked.length} tokens, {device}, median of {asked.rounds} rounds")
    print(step.text(found))
    if asked.csv:
        told = rows.circumstances(device)
        rows.append(asked.csv, [{**told, **row} for row in found])
    return 0
