"""Does variance reduction pay for a zeroth-order step? Least squares, at equal losses of single examples.

    python benchmarks/svrg.py

    plain       p_b(w; z) z                                                   2 b losses a step
    published   [p_b(w; z) - p_b(a; z)] z + G,   G = p(a; u) u with u fixed   4 b, and 2 N at an anchor a     (MeZO-SVRG)
    averaged    the same, G the mean over 16 directions                       4 b, and 32 N
    exact       [p_b(w; z) - p_b(a; z) + p(a; z)] z                           4 b + 2 N
    oracle      the same, p(a; z) for nothing                                 4 b: no variance reduction can do better

p_b(w; z) = z'grad of a batch of b, p that of all N examples: a two-point slope, exact on a quadratic. Directions are
Gaussian. Each method's learning rate falls linearly to zero from the best of a grid, by the mean final loss of the seeds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

EXAMPLES, WEIGHTS, NOISE = 512, 100, 1.0
BUDGET = 400_000  # losses of single examples
CASES = ((16, 32), (64, 8), (64, 2))  # batch, steps between anchors
RATES = np.geomspace(1e-4, 1e-1, 22)
SEEDS = 8


def problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [N, d] whose scales fall by ten, and targets [N]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(EXAMPLES, WEIGHTS)) * np.geomspace(1.0, 0.1, WEIGHTS)
    return x, x @ rng.normal(size=WEIGHTS) + NOISE * rng.normal(size=EXAMPLES)


def steps_of(method: str, batch: int, period: int) -> Iterator[bool]:
    """Whether each step that the budget pays for begins at a new anchor."""
    each = {"plain": 2 * batch, "plain, 2 b": 4 * batch, "exact": 4 * batch + 2 * EXAMPLES}.get(method, 4 * batch)
    anchor = {"published": 2 * EXAMPLES, "averaged": 32 * EXAMPLES}.get(method, 0)
    spent, step = 0, 0
    while True:
        renews = step % period == 0
        spent, step = spent + each + anchor * renews, step + 1
        if spent > BUDGET:
            return
        yield renews


def run(method: str, seed: int, batch: int, period: int) -> np.ndarray:
    """Excess of the final loss over its minimum, relative to the first, for each rate [rates]."""
    x, y = problem(seed)
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    hessian, rng = x.T @ x / EXAMPLES, np.random.default_rng(1000 + seed)
    w = np.zeros((len(RATES), WEIGHTS))
    anchor, kept = w, w
    size = 2 * batch if method == "plain, 2 b" else batch
    plan = list(steps_of(method, batch, period))
    for step, renews in enumerate(plan):
        if renews and not method.startswith("plain"):
            anchor, full = w.copy(), (w - best) @ hessian
            u = rng.normal(size=(16 if method == "averaged" else 1, WEIGHTS))
            kept = (full @ u.T) @ u / len(u)
        rows, z = rng.choice(EXAMPLES, size, replace=False), rng.normal(size=WEIGHTS)
        along = x[rows] @ z / size
        slope = (w @ x[rows].T - y[rows]) @ along
        if not method.startswith("plain"):
            slope = slope - (anchor @ x[rows].T - y[rows]) @ along
        if method in ("exact", "oracle"):
            slope = slope + ((anchor - best) @ hessian) @ z
        move = slope[:, None] * z
        if method in ("published", "averaged"):
            move = move + kept
        with np.errstate(over="ignore", invalid="ignore"):
            w = w - RATES[:, None] * (1.0 - step / len(plan)) * move
    with np.errstate(over="ignore", invalid="ignore"):
        excess = np.einsum("ri,ij,rj->r", w - best, hessian, w - best)
    return np.nan_to_num(excess / (best @ hessian @ best), nan=np.inf, posinf=np.inf)


def main() -> None:
    """Prints a Markdown table."""
    print("| batch, period | method | steps | best rate | excess loss left, mean +- s.e. |\n|---|---|---|---|---|")
    for batch, period in CASES:
        for method in ("plain", "plain, 2 b", "published", "averaged", "exact", "oracle"):
            found = np.array([run(method, seed, batch, period) for seed in range(SEEDS)])
            chosen = int(found.mean(0).argmin())
            left = found[:, chosen]
            error = left.std(ddof=1) / np.sqrt(SEEDS)
            count = sum(1 for _ in steps_of(method, batch, period))
            rate = f"{RATES[chosen]:.1e}"
            print(f"| {batch}, {period} | {method} | {count:,} | {rate} | {left.mean():.4f} +- {error:.4f} |")


if __name__ == "__main__":
    main()
