"""What the monitor did in a run, for a person."""

from __future__ import annotations

import math

from zoft.stability.monitor import StabilityMonitor

NAMES = {
    "curvature": "the edge of stability",
    "descent": "the descent edge",
    "drift": "the drift",
    "noise": "the cost of noise",
}


def rows(monitor: StabilityMonitor) -> list[tuple[str, str]]:
    """Names and sentences: what it cost, what the learning rate was, and where the edges were at the end."""
    found = monitor.metrics()
    own, extra = monitor.forwards, monitor.curvature.forwards
    told = [("forward passes", f"{own:,} a micro-batch, and {extra:,} of the monitor's ({extra / own:.1%} of those)")]
    held = [
        f"{NAMES[bound]} ({count:,} steps)"
        for bound, count in sorted(monitor.bounded.items(), key=lambda item: -item[1])
    ]
    asked = "chosen" if monitor.settings.stability_auto else "asked for"
    rate = f"{asked} {monitor.lr_requested:.3g}, used {monitor.lr_used:.3g} in the last step"
    if math.isnan(monitor.lr_requested):
        rate = "no step was made"
    elif monitor.measuring:
        rate = f"the first {monitor.settings.stability_auto_steps} steps measure and move nothing, and there were no others"
    elif held:
        rate += "; held back by " + " and ".join(held)
    elif monitor.settings.stability == "cap":
        rate += "; never held back"
    told.append(("learning rate", rate))
    if "stability/edge_high" in found:
        edges = f"{found['stability/edge_high']:.3g} on a full batch"
        if "stability/descent_edge" in found:
            edges += f"; the noise of mini-batches makes that optimistic: descent ends at {found['stability/descent_edge']:.3g}"
        told.append(("edge of stability", edges))
    return told
