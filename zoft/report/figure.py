"""Pictures: of a run, loss above and accuracy below over the steps; of several methods, one point each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoft.errors import UsageError

Series = tuple[list[float], list[float]]  # steps, values


def series(history: Sequence[Mapping[str, Any]], key: str) -> Series:
    """The values logged under a key, with their steps; entries without the key, or without a number, are left out.

    >>> series([{"step": 1, "loss": 0.7}, {"step": 2, "eval_loss": 0.6}, {"step": 3, "loss": 0.5}], "loss")
    ([1.0, 3.0], [0.7, 0.5])
    """
    rows = [entry for entry in history if "step" in entry and isinstance(entry.get(key), (int, float))]
    return [float(row["step"]) for row in rows], [float(row[key]) for row in rows]


def plot_run(history: Sequence[Mapping[str, Any]], path: str | Path, title: str = "") -> Path:
    """Writes a PNG of a run from Trainer's ``state.log_history`` and returns its path.

    Args:
        history: entries with ``step`` and any of ``loss``, ``eval_loss``, ``eval_accuracy``.
        path: where the PNG goes; an existing file is replaced.
        title: a line above the picture.

    Raises:
        UsageError: the history holds none of these, so there is nothing to draw.
    """
    losses = {"training": series(history, "loss"), "held out": series(history, "eval_loss")}
    accuracy = series(history, "eval_accuracy")
    if not accuracy[0] and not any(steps for steps, _ in losses.values()):
        raise UsageError("nothing to draw: no entry of the history has step and one of loss, eval_loss, eval_accuracy")

    # Figure and canvas by hand: pyplot would keep the figure in a global list and choose the process's backend.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for name, (steps, values) in losses.items():
        if steps:
            upper.plot(steps, values, label=name, marker="o" if name == "held out" else None, markersize=3)
    if upper.lines:
        upper.legend()
    upper.set_ylabel("loss")
    lower.plot(*accuracy, marker="o", markersize=3)
    lower.set(xlabel="step", ylabel="held-out accuracy", ylim=(0, 1.02))
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=120)
    return Path(path)


def plot_methods(results: Mapping[str, Sequence[float]], path: str | Path) -> Path:
    """Writes a PNG with the mean and standard deviation (n - 1) of each method's results, and the results as dots."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.5 + 0.35 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row, values in enumerate(results.values()):
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        axes.errorbar(statistics.fmean(values), row, xerr=spread, fmt="o", capsize=4)
        axes.plot(values, [row] * len(values), ".", color="black", markersize=3)
    axes.set(yticks=range(len(results)), yticklabels=list(results), xlabel="after training, on the test split")
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    return Path(path)
