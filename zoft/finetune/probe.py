"""`zoft probe recipe=NAME|PATH key=value …`: the curvature of a checkpoint on a task, and the learning rates it allows.

Takes the settings of a fine-tuning run; nothing is trained and nothing is written. `stability_probes` is the number of
directions (16), `per_device_train_batch_size` the batch, `stability_radius` the radius (found from rounding noise).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zoft.config import RunConfig, load_config

DEFAULT_PROBES = 16
BATCHES = 8  # slopes are compared on this many batches for each probe direction


@dataclass(frozen=True)
class Report:
    """What was measured. Curvatures in loss / length^2, learning rates for plain zeroth-order SGD."""

    trace: float
    trace_error: float
    noise: float  # delta [loss]
    radius: float
    lambda_max: tuple[float, float]  # bracket of the top eigenvalue (P7); nan without a trace
    signal: float  # sf
    signal_error: float
    edge: float  # 2 q / Tr
    descent_edge: tuple[float, float]  # 2 q sf / Tr at the lower and upper end of the errors; nan without a trace
    forwards: int

    def text(self) -> str:
        """For a person."""
        lines = [
            f"trace of the Hessian   {self.trace:.4g} +- {self.trace_error:.2g}   (radius {self.radius:.3g}, "
            f"rounding noise of a loss {self.noise:.2g})",
            f"signal fraction        {self.signal:.3f} +- {self.signal_error:.3f}   (of a batch's squared gradient)",
        ]
        if not self.trace > 0.0:
            lines.append("the trace is not positive here: it sets no edge; measure again after some steps of training")
        else:
            low, high = self.descent_edge
            lines += [
                f"largest eigenvalue     {self.lambda_max[0]:.3g} to {self.lambda_max[1]:.3g}   (by the probes' variance)",
                f"edge of stability      {self.edge:.3g}   (full batch; optimistic for mini-batches)",
                f"descent edge           {low:.3g} to {high:.3g}   (above it a step raises the expected loss)",
                f"recommended            {0.05 * low:.2g} to {0.1 * high:.2g} to begin with, less as the signal falls; "
                "learning_rate=auto does that by itself",
            ]
        return "\n".join([*lines, f"measured with {self.forwards} forward passes"])


def main(argv: Sequence[str]) -> int:
    """Measures and prints; returns the exit code."""
    config = load_config(argv)
    print(measure(config).text())
    return 0


def measure(config: RunConfig) -> Report:
    """Probe the checkpoint that `config` names, on its training data.

    Raises:
        UsageError: nothing but rounding can be seen at any radius; or the settings are wrong.
    """
    import torch

    from zoft.directions import Distribution
    from zoft.finetune.materials import gather_materials
    from zoft.stability.averages import SignalFraction
    from zoft.stability.probes import Prober
    from zoft.stability.theory import lambda_max_bracket

    materials = gather_materials(config.run)
    size = min(int(config.training.get("per_device_train_batch_size", 16)), len(materials.train))
    seed = int(config.training.get("seed", 0))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(materials.train), generator=generator).tolist()
    rows = [order[start : start + size] for start in range(0, len(order) - size + 1, size)][:BATCHES]
    device = next(materials.model.parameters()).device
    batches = []
    for chosen in rows:
        batch = materials.collator([materials.train[row] for row in chosen])
        batches.append({name: value.to(device) for name, value in batch.items()})
    examples: list[torch.Tensor] = []

    def loss() -> float:
        examples[:] = [materials.objective.losses(materials.model, batch) for batch in batches]
        return math.fsum(value for part in examples for value in part.tolist()) / (len(batches) * size)

    prober = Prober(materials.model, loss, seed=seed, backend=config.zo.zo_backend)
    radius, noise = prober.settle(config.zo.zo_eps)
    radius = config.zo.stability_radius or radius
    count = config.zo.stability_probes or DEFAULT_PROBES
    q, signal = config.zo.zo_directions, SignalFraction(size / len(materials.train))
    directions = prober.directions(count, Distribution.GAUSSIAN)  # their variance tells ||H||_F (P6)
    probes = prober.probe(directions, radius, noise)
    sides: list[list[torch.Tensor]] = []
    for direction in directions:
        for sign in (1.0, -1.0):
            prober.losses([prober.point(direction, sign * config.zo.zo_eps)])
            sides.append([part.double().cpu() for part in examples])
        for plus, minus in zip(sides[-2], sides[-1], strict=True):
            slopes = (plus - minus) / (2.0 * config.zo.zo_eps)  # [size] of the examples
            signal.add(float(slopes[0::2].mean() * slopes[1::2].mean()), float(slopes.mean() ** 2))
    sf, error = signal.read()
    trace = probes.trace
    positive = trace.value > 0.0
    bracket = (math.nan, math.nan)
    if positive:
        bracket = lambda_max_bracket(trace.value, max(probes.frobenius_squared.value, 0.0))
    ends = tuple(
        2.0 * q * min(max(fraction, 0.0), 1.0) / bound if positive and bound > 0.0 else math.nan
        for fraction, bound in ((sf - error, trace.upper(1.0)), (sf + error, max(trace.lower(1.0), 1e-9)))
    )
    return Report(
        trace=trace.value, trace_error=trace.standard_error, noise=noise, radius=radius,
        lambda_max=bracket,
        signal=sf, signal_error=error, edge=2.0 * q / trace.value if positive else math.nan,
        descent_edge=(ends[0], ends[1]), forwards=len(batches) * prober.forwards,
    )  # fmt: skip
