"""The picture of a laboratory run: loss, curvature, and the learning rate between the edges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoft.stability.lab.run import Outcome


def draw_figure(outcome: Outcome, path: Path) -> None:
    """Three panels over steps: loss, with a grey line at each rewind; trace, lambda_max and where the edge would be for
    them at this learning rate; learning rate and the band around the edge of stability."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    loss, curvature, rates = figure.subplots(3, 1, sharex=True)
    rows = outcome.rows
    steps = [row.step for row in rows]
    loss.semilogy(steps, [row.loss for row in rows])
    loss.set_ylabel("loss")
    traces = [row.trace for row in rows]
    curvature.errorbar(steps, traces, [row.trace_error for row in rows], label="Tr(H)", capsize=2, linewidth=1)
    curvature.plot(steps, [row.lambda_max for row in rows], label="largest eigenvalue")
    first_order = outcome.lab.eos_first_order
    watched = [row.lambda_max if first_order else row.trace for row in rows]
    at_the_edge = [seen / row.ratio for seen, row in zip(watched, rows, strict=True)]  # s = 1
    edge = "2 (1 + beta) / learning rate" if first_order else "trace at the edge, s = 1"
    curvature.plot(steps, at_the_edge, "k--", linewidth=1, label=edge)
    curvature.set_yscale("log" if min(traces) > 0.0 else "linear")
    curvature.set_ylabel("curvature")
    curvature.legend()
    for step, _ in outcome.rewinds:
        loss.axvline(step, color="0.8", linewidth=1, zorder=0)
    low, high = [row.edge_low for row in rows], [row.edge_high for row in rows]
    name = "2 (1 + beta) / lambda_max" if first_order else "band of the edge, (6)"
    if first_order:
        rates.semilogy(steps, high, label=name)
    else:
        rates.fill_between(steps, low, high, alpha=0.3, label=name)
        rates.set_yscale("log")
    rates.plot(steps, [row.lr for row in rows], "k", label="learning rate")
    rates.set_ylabel("learning rate")
    rates.set_xlabel("step")
    rates.legend()
    setup = outcome.setup
    what = "gradient descent" if first_order else f"zeroth-order {setup.rule}"
    batch = "full batch" if setup.batch is None else f"batches of {setup.batch}"
    figure.suptitle(f"{what}, {outcome.lab.eos_loss.replace('_', ' ')} loss, {batch}, seed {setup.seed}")
    figure.savefig(path, dpi=120)
