"""What a step should cost at most, and how far each cell is from it.

Those of `bars` are for the shape of OPT-125M on two cores, those of `gpu_bars` for a large GPU: a step that costs its own two
forwards, beside MeZO's step in the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]  # of `Cell.table_rows`


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure beside what is wanted of it."""

    what: str
    figure: float
    wanted: float
    at_most: bool  # or at least

    @property
    def holds(self) -> bool:
        return self.figure <= self.wanted if self.at_most else self.figure >= self.wanted

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{'holds' if self.holds else 'FAILS'}  {self.what}: {self.figure:.3f} (wanted {sign} {self.wanted:g})"


def bars(rows: Sequence[Row]) -> Iterator[Bar]:
    """The bars of one cell for which its rows have figures, by wall time and by processor time.

    >>> row = {"contestant": "in_place", "dtype": "float32", "batch": "1x512", "to_forwards_wall": "1.040",
    ...        "to_forwards_cpu": "", "mezo_over_it_wall": "1.500", "mezo_over_it_cpu": ""}
    >>> for bar in bars([row]):
    ...     print(bar)
    holds  in_place / its two forwards, wall: 1.040 (wanted <= 1.05)
    FAILS  MeZO / in_place, wall: 1.500 (wanted >= 1.7)
    """
    for row in rows:
        name, narrow = row["contestant"], row["dtype"] != "float32"
        mode, passes, label = (
            name.removesuffix("_passes").removesuffix("_label"),
            name.endswith("_passes"),
            name.endswith("_label"),
        )
        if mode not in ("in_place", "read_only", "lockstep"):
            continue
        to_forwards = 1.05 if mode == "in_place" else 1.08 if row["batch"] == "16x64" else 1.15
        rival = "MeZO's harness" if label else "MeZO's passes" if passes else "MeZO"
        factor = (
            (7.0 if narrow else 4.5) if label else (100.0 if narrow else 50.0) if passes else (3.0 if narrow else 1.7)
        )
        for clock in ("wall", "cpu"):
            if row[f"to_forwards_{clock}"] and not (label or passes):
                yield Bar(f"{name} / its two forwards, {clock}", float(row[f"to_forwards_{clock}"]), to_forwards, True)
            if row[f"mezo_over_it_{clock}"]:
                yield Bar(f"{rival} / {name}, {clock}", float(row[f"mezo_over_it_{clock}"]), factor, False)


def gpu_bars(rows: Sequence[Row], stored: int) -> Iterator[Bar]:
    """The bars of one cell on a GPU, in bfloat16; `stored` bytes are the weights.

    >>> row = {"contestant": "read_only", "batch": "16x64", "model": "opt-13b", "to_forwards_wall": "1.300",
    ...        "mezo_over_it_wall": "3.500", "peak_MB": "150.0"}
    >>> for bar in gpu_bars([row], stored=25_000_000_000):
    ...     print(bar)
    holds  read_only / its two forwards: 1.300 (wanted <= 1.45)
    FAILS  MeZO / read_only: 3.500 (wanted >= 3.8)
    >>> print(*gpu_bars([{**row, "contestant": "captured", "model": "opt-125m", "to_forwards_wall": ""}], stored=1))
    FAILS  MeZO / captured: 3.500 (wanted >= 10)
    """
    for row in rows:
        name, batch = row["contestant"], row["batch"]
        if name.startswith(("forwards", "mezo")):
            continue
        thin = name.startswith("low_rank")
        at_most = 1.10 if thin else {"16x64": 1.45, "16x256": 1.15, "16x512": 1.08}.get(batch)
        small = row["model"] == "opt-125m"  # bound by launches, of which a graph makes one
        at_least = 10.0 if small and name == "captured" else 0.0 if small else 5.0 if thin else 3.8
        if at_most and row["to_forwards_wall"]:
            yield Bar(f"{name} / its two forwards", float(row["to_forwards_wall"]), at_most, True)
        if at_least and batch == "16x64" and row["mezo_over_it_wall"]:
            yield Bar(f"MeZO / {name}", float(row["mezo_over_it_wall"]), at_least, False)
        if batch == "16x50" and row["peak_MB"]:
            yield Bar(f"peak of {name} / stored weights", 1 + 1e6 * float(row["peak_MB"]) / stored, 1.02, True)
