"""`zoft methods`: what each estimator and each rule costs, what its learning rate means, what bounds it, where it is from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from zoft.errors import UsageError
from zoft.estimators import ESTIMATORS
from zoft.rules import RULES


@dataclass(frozen=True, slots=True)
class EstimatorRow:
    """A row; every estimator keeps 0 extra bytes a weight."""

    forwards: str  # of one step with q directions
    sweeps: str  # writes of all weights in one step and micro-batch: read_only / in_place
    mean: str  # of the estimate, over z
    unit: str  # of the learning rate
    bound: str  # what the stability monitor compares the learning rate with
    paper: str


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A row."""

    draws: str  # directions drawn per weight in one update
    extra: str  # bytes a weight
    unit: str  # of the learning rate
    bound: str
    paper: str


@dataclass(frozen=True, slots=True)
class ShapeRow:
    """A row: what a direction Z is on a matrix [N, K]; vectors are dense."""

    form: str
    drawn: str  # random numbers a direction and matrix
    extra: str  # bytes a matrix
    fourth: str  # E(w'z)^4 / ||w||^4 at most, for normals
    bound: str
    paper: str


@dataclass(frozen=True, slots=True)
class WayRow:
    """A row: what else a step may be, whatever its estimator, rule and shape."""

    moves: str
    cost: str  # beside a step of the estimator
    mean: str  # of the estimate
    bound: str
    paper: str


RAW, WEIGHTS, OF_ESTIMATOR = "weights^2 / loss", "weights", "the estimator's"
FROM_STEP = "no closed form: see below"
ESTIMATOR_ROWS = {
    "two_point": EstimatorRow("2q", "1 / 2q+1", "gradient, smoothed", RAW, "2q/Tr", "Spall 1992; Malladi 2023"),
    "three_point": EstimatorRow("2q+1", "1 / 2q+1", "gradient, smoothed", RAW, "2q/Tr", "Zhao 2024 (HiZOO)"),
    "one_sided": EstimatorRow(
        "q+1", "1 / q+1", "gradient, smoothed", RAW, "2q/Tr; settles higher", "Nesterov & Spokoiny 2017"
    ),
    "conservative": EstimatorRow(
        "2q+1", "1 / 2q+1", "large slopes only", RAW, "2q/Tr, safe", "after Zhang et al. 2024"
    ),
    "fzoo": EstimatorRow("q+1", "1 / q+1", "rho x unit gradient", WEIGHTS, FROM_STEP, "Dang et al. 2025"),
    "es_zscore": EstimatorRow("2q", "1 / 2q+1", "rho x unit gradient", WEIGHTS, FROM_STEP, "Qiu et al. 2025"),
    "es_rank": EstimatorRow("2q", "1 / 2q+1", "rho x unit gradient", WEIGHTS, FROM_STEP, "Salimans et al. 2017"),
}
RULE_ROWS = {
    "sgd": RuleRow("q", "0", OF_ESTIMATOR, "2q/Tr", "Spall 1992"),
    "momentum": RuleRow("44q; full: q", "0; full: 4", OF_ESTIMATOR, "2q(1-beta)/Tr", "Polyak 1964"),
    "adam": RuleRow("44q; full: q", "0; full: 4", WEIGHTS, "2q sqrt(v)/Tr", "Kingma & Ba 2015"),
    "full_adam": RuleRow("q", "8", WEIGHTS, "2q sqrt(2 v/pi)/Tr, safe", "Kingma & Ba 2015; Malladi 2023"),
    "adamezo": RuleRow("44q", "0", WEIGHTS, "2q sqrt(2 v/pi)/Tr, safe", "Cai 2026"),
    "hizoo": RuleRow("q", "4", "estimator's times h", "2q/Tr(H/h)", "Zhao 2024"),
    "muon": RuleRow("44q, thin", "0", WEIGHTS, "2q rms(m)(1-beta)/Tr, safe", "Jordan 2024; ZO-Muon"),
    "sign": RuleRow("1 (q = 1)", "0", WEIGHTS, "2 mean(abs p)/Tr, its plateau", "Bernstein 2018; Liu 2019"),
}


SHAPE_ROWS = {
    "dense": ShapeRow("Z", "N K", "0", "3", "2q/Tr", "Malladi 2023"),
    "low_rank": ShapeRow(
        "U V' / sqrt(r)", "(N + K) r", "0", "3 + 6/r", "2q/(Tr (q+2+6/r)), safe", "Chen 2024 (LOZO); EGGROLL 2025"
    ),
    "subspace": ShapeRow(
        "sqrt(N K)/r P S Q'",
        "r^2",
        "4 (N + K) r",
        "m = 3 (1+2/r)^2 NK/((N+2)(K+2)), r <= N, K",
        "2q/(Tr (m+q-1)), safe",
        "Yu 2024 (SubZero)",
    ),
    "random_mask": ShapeRow(
        "M * Z, M by address", "N K, and M", "0", "3", "2q/Tr of what moves", "Zhang 2024 (ZO-Bench)"
    ),
    "small_weights": ShapeRow("Z where abs w <= t", "N K", "8", "3", "2q/Tr of what moves", "Liu 2024 (Sparse MeZO)"),
}
WAY_ROWS = {
    "zo_blocks=n": WayRow(
        "one of n runs of layers",
        "less: others are left alone",
        "1/n gradient",
        "2q/Tr of the block",
        "Wang 2024 (LeZO)",
    ),
    "zo_distribution=sphere": WayRow(
        "all, z of length sqrt(d)", "z drawn once more", "gradient, smoothed", "2q/Tr", "Flaxman 2005; Shamir 2017"
    ),
    "zo_directions_schedule": WayRow(
        "all, q by step", "forwards of that q", "gradient, smoothed", "2q/Tr with that q", "Yang 2024 (AdaZeta)"
    ),
}


def methods(argv: Sequence[str]) -> int:
    """Prints the tables. Raises UsageError: anything was asked for."""
    if argv:
        raise UsageError(f"zoft methods takes no arguments, but {' '.join(argv)} was given")
    print(tables())
    return 0


def tables() -> str:
    """The tables as Markdown: the ones of docs/methods.md."""
    first = [
        ("zo_estimator", "forwards", "weight sweeps", "mean", "unit of lr", "bound", "source"),
        *((name, *astuple(ESTIMATOR_ROWS[name])) for name in ESTIMATORS),
    ]
    second = [
        ("zo_rule", "draws a weight", "extra bytes a weight", "unit of lr", "bound", "source"),
        *((name, *astuple(RULE_ROWS[name])) for name in RULES),
    ]
    third = [
        ("zo_shape", "direction of a matrix", "random numbers", "extra bytes", "fourth moment", "bound", "source"),
        *((name, *astuple(row)) for name, row in SHAPE_ROWS.items()),
    ]
    fourth = [
        ("setting", "what a step moves", "cost beside", "mean", "bound", "source"),
        *((name, *astuple(row)) for name, row in WAY_ROWS.items()),
    ]
    return "\n\n".join(map(_markdown, (first, second, third, fourth)))


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
