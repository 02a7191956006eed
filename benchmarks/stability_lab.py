"""The laboratory's bars: the edge of stability under momentum, and blow-ups that a cap prevents.

    python benchmarks/stability_lab.py edge --seeds 0 1 2
    python benchmarks/stability_lab.py edge --seeds 0 1 2 --set guard=rewind
    python benchmarks/stability_lab.py blowup --lrs 0.02 --set stability=off guard=off
    python benchmarks/stability_lab.py blowup --lrs 0.02 10 1000 --seeds 0 1 2 3 4 5 6 7 8 9

Prints one JSON line per run.
"""

from __future__ import annotations

import argparse
import json
import time

from stability_grid import parsed

from zoft.stability.lab.run import Setup, experiment
from zoft.stability.lab.settings import LabSettings
from zoft.stability.settings import StabilitySettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["edge", "blowup"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--lrs", nargs="+", type=float, default=[0.02])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--set", nargs="*", default=[], help="key=value of StabilitySettings")
    options = parser.parse_args()
    for seed in options.seeds:
        for lr in [1.2e-3] if options.what == "edge" else options.lrs:
            start = time.perf_counter()
            if options.what == "edge":
                setup = Setup(lr=lr, steps=options.steps or 60_000, seed=seed)
                changes = {"stability": "report", "guard": "off", **parsed(StabilitySettings, options.set)}
                stability = StabilitySettings(**changes)
            else:
                setup = Setup(lr=lr, steps=options.steps or 20_000, rule="sgd", seed=seed)
                stability = StabilitySettings(**parsed(StabilitySettings, options.set))
            every = max(1, setup.steps // 60)
            outcome = experiment(setup, LabSettings(eos_measure_every=every), stability, top=False)
            last = outcome.rows[-1] if outcome.rows else None
            record = {"what": options.what, "lr": lr, "seed": seed, "blown": outcome.blown}
            if last is not None:
                record |= {"loss": last.loss, "lr_used": last.lr, "trace": last.trace, "s": outcome.mean_ratio()}
                record["s_over_time"] = [round(row.ratio, 3) for row in outcome.rows[::6]]
                record["losses"] = [float(f"{row.loss:.3g}") for row in outcome.rows[::6]]
            record["rewinds"] = outcome.rewinds
            keep = ("stability/guarded", "stability/trace_held")
            record |= {name: outcome.metrics[name] for name in keep if name in outcome.metrics}
            print(json.dumps({**record, "seconds": round(time.perf_counter() - start, 1)}), flush=True)


if __name__ == "__main__":
    main()
