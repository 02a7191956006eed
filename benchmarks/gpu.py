"""Everything that a machine with a GPU should be asked once: are the kernels right, how near the limit, what a step costs.

    python benchmarks/gpu.py                      all of it; rows go to benchmarks/results/
    python benchmarks/gpu.py --only kernels       correctness, then axpby_ against the copy bandwidth of the same run
    python benchmarks/gpu.py --shapes opt-125m --batches 16x64

Ends with status 1 if a kernel is wrong: then nothing is timed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from zoft.backends import Move, Rounding, Target, Term, backend
from zoft.bench import rows
from zoft.bench.timing import Spread, interleave, ratio
from zoft.directions import Direction, Distribution, Window

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ELEMENTS = (65536, 4096)  # 0.5 GB in bfloat16: larger than any cache
WANTED = {Distribution.RADEMACHER: 0.85, Distribution.GAUSSIAN: 0.70}  # of the copy bandwidth, in bfloat16


def correct() -> bool:
    """The tests of the kernels, on this GPU."""
    return (
        subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/kernels"], cwd=ROOT, check=False).returncode == 0
    )


def kernels(dtype: torch.dtype, rounds: int) -> list[dict[str, str]]:
    """`axpby_` in each way beside a copy that reads and writes as many bytes, interleaved."""
    ops = backend("triton", "cuda")
    weight = torch.randn(ELEMENTS, device="cuda").mul_(0.02).to(dtype)
    out, window = torch.empty_like(weight), Window.whole(5, weight.shape)
    work: dict[str, Callable[[], object]] = {"copy": lambda: out.copy_(weight)}
    for law in Distribution:
        move = [Move((Term(Direction(1, 2, 0, law), 2.0**-10),), rounding_key=(1, 2))]
        ways = [Rounding.NEAREST, *([Rounding.STOCHASTIC] if dtype.itemsize == 2 else [])]
        for way in ways:
            work[f"{law.value} {way.value}"] = lambda m=move, w=way: ops.axpby_(Target(weight, window), m, w)
    samples = interleave(work, rounds, "cuda", warm=3)
    moved = 2 * weight.numel() * weight.element_size()
    found = []
    for name, taken in samples.items():
        rate = Spread.of([moved / sample.wall / 1e12 for sample in taken])
        of_copy = ratio(samples, "copy", name)
        found.append({
            "dtype": str(dtype).removeprefix("torch."), "op": name, "rounds": str(rounds), "tb_per_s": f"{rate.median:.3f}",
            "of_copy": f"{of_copy.median:.3f}", "q1": f"{of_copy.low:.3f}", "q3": f"{of_copy.high:.3f}",
        })  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Check and time the kernels and the step on a GPU.")
    parser.add_argument("--only", default="kernels,steps")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--shapes", default="opt-125m,opt-1.3b,llama-3-8b,opt-13b")
    parser.add_argument("--batches", default="16x64,16x256,16x512")
    parser.add_argument("--results", default=str(RESULTS), help="folder of the CSV files")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("this needs a CUDA device", file=sys.stderr)
        return 2
    if not correct():
        print("a kernel is wrong on this GPU: nothing was timed", file=sys.stderr)
        return 1
    if "kernels" in asked.only:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            found = kernels(dtype, asked.rounds)
            for row in found:
                law = next((law for law in Distribution if row["op"] == f"{law.value} nearest"), None)
                bar = f"  (wanted: {WANTED[law]})" if law and dtype is torch.bfloat16 else ""
                print(f"{row['dtype']:<9} {row['op']:<22} {row['tb_per_s']} TB/s  {row['of_copy']} of the copy{bar}")
            rows.append(Path(asked.results) / "gpu.csv", [{**rows.circumstances("cuda"), **row} for row in found])
    if "steps" in asked.only:
        for shape in asked.shapes.split(","):
            command = [sys.executable, "benchmarks/step.py", "--shape", shape, "--dtypes", "bfloat16", "--batches",
                       asked.batches, "--device", "cuda", "--csv", str(Path(asked.results) / "step.csv")]  # fmt: skip
            subprocess.run(command, cwd=ROOT, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
