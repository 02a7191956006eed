"""Accuracy over a grid of learning rates, with and without the stability monitor; and with learning_rate=auto.

    python benchmarks/stability_grid.py --model quickstart --task quickstart --lrs 1e-4 1e-3 1e-2 auto --seeds 0 1 2
    python benchmarks/stability_grid.py --lrs 1e-4 1e-2 --set stability=off guard=off

Prints one JSON line per run: settings, dev and test accuracy along the way, forwards, what the monitor said at the end.
Steps go through ZOOptimizer directly, the same optimizer that ZOTrainer drives.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

from zoft.config.fields import fields_of
from zoft.config.run import RunSettings
from zoft.config.values import checked, from_text
from zoft.finetune.materials import Materials, gather_materials
from zoft.optimizer import ZOOptimizer
from zoft.stability import govern
from zoft.trainer.settings import ZOSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="quickstart")
    parser.add_argument("--task", default="quickstart")
    parser.add_argument("--lrs", nargs="+", default=["auto"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--evaluations", type=int, default=6)
    parser.add_argument("--run", nargs="*", default=[], help="key=value of RunSettings")
    parser.add_argument("--set", nargs="*", default=[], help="key=value of ZOSettings")
    options = parser.parse_args()
    run = RunSettings(model=options.model, task=options.task, **parsed(RunSettings, options.run))
    for seed in options.seeds:
        for lr in options.lrs:
            print(json.dumps(one(run, lr, seed, parsed(ZOSettings, options.set), options)), flush=True)


def parsed(owner: type, pairs: list[str]) -> dict[str, Any]:
    """key=value pairs as the owner's settings."""
    known = fields_of(owner)
    split = [pair.partition("=") for pair in pairs]
    return {key: checked(known[key], from_text(known[key], text)) for key, _, text in split}


def one(run: RunSettings, lr: str, seed: int, changes: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One training run."""
    torch.manual_seed(seed)
    materials = gather_materials(run)
    settings = ZOSettings(**{"zo_seed": seed, **changes, "stability_auto": lr == "auto"})
    model = materials.model
    optimizer = ZOOptimizer(
        model, lr=1.0 if lr == "auto" else float(lr), eps=settings.zo_eps, directions=settings.zo_directions,
        distribution=settings.zo_distribution, seed=seed, rule=settings.zo_rule, rule_settings=settings.rule_settings,
        weight_rounding=settings.weight_rounding, backend=settings.zo_backend,
        estimator=settings.zo_estimator, form=settings.form,
    )  # fmt: skip
    govern(optimizer, settings, batch_fraction=options.batch / len(materials.train))
    bounds: dict[str, int] = {}
    curve, rates = [], []
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    start = time.perf_counter()
    every = max(1, options.steps // options.evaluations)
    for step in range(options.steps):
        if len(order) < options.batch:
            order = torch.randperm(len(materials.train), generator=generator).tolist()
        rows, order = order[: options.batch], order[options.batch :]
        batch = materials.collator([materials.train[i] for i in rows])
        optimizer.step(lambda: materials.objective.losses(model, batch))  # noqa: B023 - called at once
        assert optimizer.last is not None
        rates.append(optimizer.last.lr)
        monitor = getattr(optimizer.governor, "monitor", None)
        if monitor is not None:
            bounds[monitor.bound] = bounds.get(monitor.bound, 0) + 1
        if (step + 1) % every == 0:
            curve.append(round(accuracy(materials, materials.dev), 4))
    governor = optimizer.governor
    metrics = {} if governor is None else {k.removeprefix("stability/"): v for k, v in governor.metrics().items()}
    extra = 0 if monitor is None else monitor.curvature.forwards
    own = len(optimizer.estimator.population(optimizer.source.at(0, optimizer.directions)))  # forwards of a step
    return {
        "lr": lr, "seed": seed, **changes, "dev": curve, "test": round(accuracy(materials, materials.test), 4),
        "forwards": own * options.steps + extra, "extra_forwards": extra, "bounds": bounds,
        "lr_mean": [float(f"{sum(rates[i : i + every]) / every:.3g}") for i in range(0, options.steps, every)],
        "metrics": {name: float(f"{value:.4g}") for name, value in metrics.items()},
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


@torch.no_grad()
def accuracy(materials: Materials, split: Any) -> float:
    """Share of examples whose right candidate scores highest."""
    right = 0
    materials.model.eval()
    for start in range(0, len(split), 128):
        batch = materials.collator([split[i] for i in range(start, min(start + 128, len(split)))])
        scored = materials.objective.evaluate(materials.model, batch)
        right += int((scored.scores.argmax(-1) == scored.gold).sum())
    return right / len(split)


if __name__ == "__main__":
    main()
