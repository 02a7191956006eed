"""What a step costs beside its own two forwards and beside MeZO's, as a picture or a table, from benchmarks/results/step.csv.

    python benchmarks/plot.py             draws docs/figures/step.svg
    python benchmarks/plot.py --table     prints the table of the README

Of each contestant in each cell (model, dtype, batch, device) the newest row is taken. What is shown are the ratios of that row,
which were taken round by round within its own run: rows of several runs stand beside each other and are never divided by one
another.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from zoft.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
NAMES = {
    "mezo": "MeZO",
    "read_only": "read-only",
    "lockstep": "read-only, lockstep",
    "in_place": "in place",
    "low_rank": "low rank",
    "low_rank_lockstep": "low rank, lockstep",
}
COLORS = dict(zip(NAMES, ("#9a9a9a", "#4c78a8", "#7aa6d1", "#59a14f", "#e39c37", "#efc07d"), strict=True))
Cell = tuple[str, str, str, str]  # model, dtype, batch (rows x tokens), device
Ratios = dict[Cell, dict[str, dict[str, float]]]  # cell -> contestant -> to_forwards, mezo_over_it


def latest(path: Path) -> Ratios:
    """The newest ratios of every contestant that has a name here.

    Raises:
        UsageError: no such file, or nothing in it that can be shown.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist; `python benchmarks/step.py` writes it")
    found: Ratios = {}
    with open(path, newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):  # the file only grows: later rows are newer
            if row["contestant"] in NAMES and row["to_forwards_wall"]:
                cell = (row["model"], row["dtype"], row["batch"], row["device"])
                figures = {
                    key: float(row[f"{key}_wall"]) for key in ("to_forwards", "mezo_over_it") if row[f"{key}_wall"]
                }
                found.setdefault(cell, {})[row["contestant"]] = figures
    if not found:
        raise UsageError(f"{path} has no step beside its two forwards; `python benchmarks/step.py` measures some")
    return found


def draw(found: Ratios, path: Path) -> None:
    """One group of bars a cell: times as multiples of the two forwards that each step consists of.

    Raises:
        UsageError: matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("a picture needs matplotlib: pip install matplotlib; --table needs nothing") from error
    shown = [name for name in NAMES if any(name in cell for cell in found.values())]
    figure = Figure(figsize=(8, 0.9 + 0.3 * sum(len(cell) + 1 for cell in found.values())), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    at, places = 0.0, []
    for cell, contestants in found.items():
        first = at
        for name in shown:
            if name in contestants:
                ratio = contestants[name]["to_forwards"]
                axes.barh(at, ratio, color=COLORS[name], label=NAMES[name])
                axes.text(ratio, at, f" {ratio:.2f}", va="center", fontsize=8)
                at += 1
        places.append(((first + at - 1) / 2, f"{cell[0]}, {cell[1]}\n{cell[2]} tokens\n{cell[3]}"))
        at += 1
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks([place for place, _ in places], [text for _, text in places], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("time of a step / time of its own two forwards (line: the forwards alone)")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), fontsize=8, frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "zoft"}):  # the same figures give the same file
        figure.savefig(path, metadata={"Date": None})


def table(found: Ratios) -> str:
    """Markdown: a row a cell (with its device, where there are several), a column a mode; in brackets MeZO's step beside it."""
    told = 4 if len({cell[3] for cell in found}) > 1 else 3
    shown = [name for name in NAMES if any(name in cell for cell in found.values())]
    heads = ["shape, weights, rows x tokens", *(NAMES[name] for name in shown)]
    lines = [heads, ["---"] * len(heads)]
    for cell, contestants in found.items():
        line = [", ".join(cell[:told])]
        for name in shown:
            figures = contestants.get(name, {})
            rival = f" ({figures['mezo_over_it']:.1f})" if "mezo_over_it" in figures else ""
            line.append(f"{figures['to_forwards']:.2f}{rival}" if figures else "")
        lines.append(line)
    return "\n".join("".join(f"| {cell} " if cell else "| " for cell in line) + "|" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw what a step costs.")
    parser.add_argument("--csv", default=str(ROOT / "benchmarks" / "results" / "step.csv"))
    parser.add_argument("--out", default=str(ROOT / "docs" / "figures" / "step.svg"))
    parser.add_argument("--table", action="store_true", help="print a table and draw nothing")
    asked = parser.parse_args()
    try:
        found = latest(Path(asked.csv))
        if asked.table:
            print(table(found))
        else:
            draw(found, Path(asked.out))
            print(asked.out)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
