"""Everything that a machine with a GPU should be asked once: are the kernels right, how near the limit, what a step costs.

    python benchmarks/gpu.py                                  all of it in ten minutes; rows go to benchmarks/results/
    python benchmarks/gpu.py --minutes 30 --only kernels      `axpby_` against the copy bandwidth of the same run
    python benchmarks/gpu.py --shapes opt-125m --batches 16x64
    python benchmarks/gpu.py --dry-run                        the same commands, tiny and on the CPU: do they run at all?

Each part is a process of its own with a share of the time, so that a kernel that fails, or hangs, costs its own part only: it
is recorded in gpu.csv, and the next part begins. Rows are written as soon as they are measured. At the end the bars are listed
once more, with what failed; the status is 1 if a kernel was wrong or a part failed. A missed bar is a figure, not a failure.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from zoft.backends import Move, Rounding, Target, Term, backend
from zoft.bench import rows
from zoft.bench.bars import Bar
from zoft.bench.timing import CALLS_GPU, Spread, interleave, once, ratio, repeated
from zoft.directions import Direction, Distribution, Window

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("test_axpby", "test_sweep", "test_population_kernels", "test_custom_ops", "test_captured")
ELEMENTS = (65536, 4096)  # 0.5 GB in bfloat16: larger than any cache
WANTED = {Distribution.RADEMACHER: 0.85, Distribution.GAUSSIAN: 0.70}  # of the copy bandwidth, in bfloat16
CONTESTANTS = "forwards,mezo,read_only,lockstep,in_place,low_rank,low_rank_lockstep,captured"
PEAK_BATCH = "16x50"
COLUMNS = ("dtype", "op", "rounds", "tb_per_s", "of_copy", "q1", "q3", "error")


def kernels(dtype: torch.dtype, rounds: int, device: str, elements: tuple[int, int]) -> list[dict[str, str]]:
    """`axpby_` in each way beside a copy that reads and writes as many bytes, interleaved; what fails is left out and told."""
    ops, name = backend("triton" if device == "cuda" else "auto", device), str(dtype).removeprefix("torch.")
    weight = torch.randn(elements, device=device).mul_(0.02).to(dtype)
    out, window = torch.empty_like(weight), Window.whole(5, weight.shape)
    work: dict[str, Callable[[], object]] = {"copy": lambda: out.copy_(weight)}
    for law in Distribution:
        move = [Move((Term(Direction(1, 2, 0, law), 2.0**-10),), rounding_key=(1, 2))]
        for way in [Rounding.NEAREST, *([Rounding.STOCHASTIC] if dtype.itemsize == 2 else [])]:
            work[f"{law.value} {way.value}"] = lambda m=move, w=way: ops.axpby_(Target(weight, window), m, w)
    found = []
    for op, run in list(work.items()):
        try:
            once(run, device)  # compiles
        except Exception as error:
            found.append(failed(name, op, error))
            del work[op]
    samples = interleave({op: repeated(run, CALLS_GPU) for op, run in work.items()}, rounds, device, warm=2)
    moved = 2 * weight.numel() * weight.element_size()
    for op, taken in samples.items():
        rate = Spread.of([moved / sample.wall / 1e12 for sample in taken])
        of_copy = ratio(samples, "copy", op)
        found.append(dict(zip(COLUMNS, (name, op, str(rounds), f"{rate.median:.3f}", f"{of_copy.median:.3f}",
                                        f"{of_copy.low:.3f}", f"{of_copy.high:.3f}", ""), strict=True)))  # fmt: skip
    return found


def failed(dtype: str, op: str, error: object) -> dict[str, str]:
    """The row of what gave no figure."""
    return {**dict.fromkeys(COLUMNS, ""), "dtype": dtype, "op": op, "error": " ".join(str(error).split())[:300]}


def kernel_part(asked: argparse.Namespace, told: dict[str, str]) -> None:
    """The child process that times the kernels in one dtype."""
    device, elements = ("cpu", (256, 64)) if asked.dry_run else ("cuda", ELEMENTS)
    found = kernels(getattr(torch, asked.part), asked.rounds, device, elements)
    rows.append(Path(asked.results) / "gpu.csv", [{**told, **row} for row in found])
    for row in found:
        print(f"{row['dtype']:<9} {row['op']:<22} {row['tb_per_s']} TB/s  {row['of_copy']} of the copy {row['error']}")
        law = next((law for law in Distribution if row["op"] == f"{law.value} nearest"), None)
        if law and asked.part == "bfloat16" and row["of_copy"]:
            print(Bar(f"axpby_ {law.value}, share of the copy bandwidth", float(row["of_copy"]), WANTED[law], False))
        if row["error"]:
            print(f"FAILS  axpby_ {row['op']}, {row['dtype']}: {row['error']}")


class Run:
    """One evening with the machine: child processes within the time, and what they said."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.end = asked, time.monotonic() + 60 * asked.minutes
        self.told = rows.circumstances("cpu" if asked.dry_run else "cuda")
        self.bars: list[str] = []
        self.broken: list[str] = []

    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def children(self, commands: dict[str, list[str]], seconds: float) -> None:
        """Run them side by side, tell what they print, and stop them after `seconds`."""
        threads = [threading.Thread(target=self._child, args=(*item, seconds)) for item in commands.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _child(self, title: str, command: list[str], seconds: float) -> None:
        if seconds < 5:
            return self._broke(title, "no time was left")
        path = os.pathsep.join([str(ROOT), str(ROOT / "kernels" / "torch-ext"), os.environ.get("PYTHONPATH", "")])
        more = {"TRITON_INTERPRET": "1"} if self.asked.dry_run else {}  # `captured` is of the triton backend alone
        child = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 text=True, env={**os.environ, **more, "PYTHONPATH": path})  # fmt: skip
        stop = threading.Timer(seconds, child.kill)
        stop.start()
        last = ""
        assert child.stdout is not None
        for line in child.stdout:
            print(f"[{title}] {line}", end="", flush=True)
            last = line.strip() or last
            if line.startswith(("holds", "FAILS")):
                self.bars.append(f"{title}: {line.strip()}")
        code = child.wait()
        late = not stop.is_alive()
        stop.cancel()
        if code:
            self._broke(title, f"stopped after {seconds:.0f} s" if late else f"status {code}: {last}")

    def _broke(self, title: str, why: str) -> None:
        self.broken.append(f"{title}: {why}")
        rows.append(Path(self.asked.results) / "gpu.csv", [{**self.told, **failed("", title, why)}])

    def tests(self) -> None:
        """The kernels against the reference on this GPU, a process a file, or three."""
        # Each file compiles 40 to 150 kernels, which take one or two seconds
        beside = ["-n", "3"] if importlib.util.find_spec("xdist") else []
        extra = ["--collect-only"] if self.asked.dry_run else ["-p", "no:cacheprovider", *beside]
        files = TESTS[:1] if self.asked.dry_run else TESTS
        commands = {name: ["-m", "pytest", "-q", *extra, f"tests/kernels/{name}.py"] for name in files}
        self.children(commands, 0.4 * self.left())

    def kernels(self) -> None:
        for number, dtype in enumerate(("bfloat16", "float16", "float32")):
            command = ["benchmarks/gpu.py", "--part", dtype, "--results", self.asked.results, "--rounds",
                       str(self.asked.rounds), *(["--dry-run"] if self.asked.dry_run else [])]  # fmt: skip
            self.children({f"kernels {dtype}": command}, self.left() / (6 - number))

    def steps(self) -> None:
        shapes = self.asked.shapes.split(",")
        for number, shape in enumerate(shapes):
            share = self.left() / (len(shapes) - number)
            command = ["benchmarks/step.py", "--shape", shape, "--dtypes", "bfloat16", "--batches", self.asked.batches,
                       "--device", "cpu" if self.asked.dry_run else "cuda", "--only", CONTESTANTS, "--peaks", "--survive",
                       "--rounds", str(self.asked.rounds), "--minutes", f"{0.6 * share / 60:.2f}",
                       "--csv", str(Path(self.asked.results) / "step.csv")]  # fmt: skip
            self.children({f"step {shape}": command}, share)


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check and time the kernels and the step on a GPU.")
    parser.add_argument("--only", default="tests,kernels,steps")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all of it")
    parser.add_argument("--rounds", type=int, default=9, help="of each figure, at most")
    parser.add_argument("--shapes", default="opt-13b,opt-125m,opt-1.3b,llama-3-8b")
    parser.add_argument("--batches", default=f"16x64,{PEAK_BATCH},16x256,16x512")
    parser.add_argument("--results", default="", help="folder of the CSV files")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU, into a temporary folder")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)  # a dtype: the child process of its kernels
    asked = parser.parse_args()
    if asked.dry_run:
        asked.shapes, asked.batches, asked.rounds = "tiny", "2x8", 1
    results = tempfile.mkdtemp() if asked.dry_run else str(ROOT / "benchmarks" / "results")
    asked.results = asked.results or results
    return asked


def main() -> int:
    asked = settings()
    if not asked.dry_run and not torch.cuda.is_available():
        print("this needs a CUDA device; --dry-run shows whether it would run", file=sys.stderr)
        return 2
    if asked.part:
        kernel_part(asked, rows.circumstances("cpu" if asked.dry_run else "cuda"))
        return 0
    run = Run(asked)
    for part in ("tests", "kernels", "steps"):
        if part in asked.only.split(","):
            getattr(run, part)()
    print("\nBars:", *run.bars, sep="\n  ")
    print("\nBroken:", *(run.broken or ["nothing"]), sep="\n  ")
    print(f"\nRows: {asked.results}")
    return 1 if run.broken else 0


if __name__ == "__main__":
    sys.exit(main())
