"""What bounds the CPU backend's arithmetic: its inner loops alone, on data in the first-level cache.

python benchmarks/cpu_loops.py

Prints nanoseconds an element (the shortest of many short runs, so that a busy machine does little harm) and the vector
instructions an element, loads, stores and moves aside, of the loop that numba's LLVM makes for this processor.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np

LANES, ROWS, RUNS, ROUNDS = 256, 4, 100, 400


def loops() -> list[tuple[str, Any, tuple[Any, ...], int, int]]:
    """(name, function, arguments, turns of its loop, elements a turn); every address is int64."""
    from zoft.backends.cpu import bfloat, normals, random, signs
    from zoft.backends.cpu.plan import NARROW_LANES

    generator = np.random.default_rng(0)
    words = generator.integers(0, 2**32, ROWS * NARROW_LANES, dtype=np.uint32)
    z, acc = np.zeros(2 * ROWS * NARROW_LANES, np.float32), np.full(LANES, 0.02, np.float32)
    half = np.full(LANES, 0x3C80, np.uint16)  # bfloat16
    kept.extend((words, z, acc, half))
    bits, noise, single, stored = (np.int64(array.ctypes.data) for array in (words, z, acc, half))
    count, scale, odd = np.int64(LANES), np.float32(1e-3), np.int64(2 * LANES)
    address = tuple(np.int64(n) for n in (NARROW_LANES, 11, 0, LANES, 5, 7, 9, 11, 13))
    return [
        ("Philox, 8 elements a block", random.philox_row, (bits, *address), LANES, 8),
        ("normals from words", random.normal_rows, (noise, bits, count), 2 * LANES, 4),
        ("add normals, float32", normals.add_scaled, (single, noise, scale, count), LANES, 1),
        ("add normals, bfloat16", normals._add_bfloat, (stored, noise, noise + odd, scale, count), LANES // 2, 2),
        ("add signs, float32", signs.add_signs, (single, bits, np.int64(3), scale, count), LANES, 1),
        (
            "add signs, bfloat16",
            bfloat._add_signs,
            (stored, bits, bits + odd, np.int64(3), scale, count),
            LANES // 2,
            2,
        ),
    ]


kept: list[np.ndarray] = []  # what the addresses point to


def repeated(function: Any) -> Callable[[int, tuple[Any, ...], tuple[Any, ...]], None]:
    """A compiled loop of calls with two lists of arguments in turn: calls that all do the same would be made once."""
    from numba import njit

    def run(times: int, arguments: tuple[Any, ...], again: tuple[Any, ...]) -> None:
        for _ in range(times):
            function(*arguments)
            function(*again)

    return njit(run)


def instructions(function: Any, arguments: tuple[Any, ...]) -> float:
    """Vector instructions, moves aside, a turn of the loops in `function`: of blocks that jump to themselves, the widest."""
    from numba import njit, typeof

    compiled = njit(tuple(typeof(argument) for argument in arguments))(function.py_func)
    (text,) = compiled.inspect_asm().values()
    found: dict[int, float] = {}
    for label, body in re.findall(r"^(\.LBB\d+_\d+):\n(.*?)(?=^\.LBB|^\.Lfunc)", text, re.MULTILINE | re.DOTALL):
        again = re.search(rf"^(.*?)\tj\w+\t{re.escape(label)}\n", body, re.MULTILINE | re.DOTALL)
        steps = [int(step) for step in re.findall(r"\tadd[ql]\t\$(\d+), %r", again[1])] if again else []
        if again and steps:
            lines = re.findall(r"^\tv\w+.*%[xyz]mm.*", again[1], re.MULTILINE)
            vectors = sum("{%k" in line or re.match(r"\tv(mov[dua]|p?broadcast)", line) is None for line in lines)
            width = 2 if "zmm" in again[1] else int("ymm" in again[1])
            found[width] = found.get(width, 0.0) + vectors / max(steps)
    return found[max(found)] if found else float("nan")


def main() -> None:
    from zoft.backends.cpu.random import philox_row

    for name, function, arguments, turns, elements in loops():
        run, again = repeated(function), arguments
        if function is philox_row:
            again = (*arguments[:2], arguments[2] + LANES, *arguments[3:])  # other blocks
        run(1, arguments, again)
        best = float("inf")
        for _ in range(ROUNDS):
            start = time.perf_counter()
            run(RUNS, arguments, again)
            best = min(best, time.perf_counter() - start)
        counted = instructions(function, arguments) / elements
        print(
            f"{name:<28} {1e9 * best / (2 * RUNS * turns * elements):.3f} ns, {counted:.2f} instructions an element",
            flush=True,
        )


if __name__ == "__main__":
    main()
