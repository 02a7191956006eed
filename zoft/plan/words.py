"""The plan for a person."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.plan.ways import Plan, Way


def text(plan: Plan) -> str:
    """What is asked, on what, and a line a way."""
    config, setup = plan.config, plan.setup
    head = [
        "way",
        "a device",
        "s a step",
        *([] if plan.steps is None else [f"{plan.steps:,} steps"]),
        "mostly",
        "fits",
        "set",
    ]
    lines = [head, *(_line(plan, way) for way in plan.ways)]
    device = plan.device
    rates = ", ".join(f"{dtype} products {device.flops[dtype] / 1e12:.3g} TFLOP/s" for dtype in _told(plan))
    first = plan.ways[0].memory
    return "\n".join([
        f"{config.recipe or 'run'}: {config.run.model}, {amount(plan.sizes.parameters)} weights, {setup.dtype}, "
        f"tuning={setup.tuning}" + ("" if setup.quantization == "none" else f", quantization={setup.quantization}"),
        f"a step: {plan.forwards:.4g} forwards of {setup.rows} x {setup.tokens} tokens",
        f"on {device.name}: {plan.limit / 1e9:.4g} GB, {device.bandwidth / 1e9:,.0f} GB/s, {rates}",
        *config.remarks,
        "",
        _table(lines),
        "",
        f"as asked for: weights {gigabytes(first.weights)}, beside them {gigabytes(first.beside)}, copies "
        f"{gigabytes(first.scratch)}, activations {gigabytes(first.activations)}",
        f"computed: memory, bytes and operations; rates {'' if device.measured else 'stated, not '}measured: {device.source}",
        "a device's own runtime (0.5 GB or so on a GPU) is not counted; what overlaps is taken to overlap whole",
    ])  # fmt: skip


def _told(plan: Plan) -> list[str]:
    """The dtypes whose products the ways take."""
    return [dtype for dtype in dict.fromkeys((plan.setup.dtype, "bfloat16")) if dtype in plan.device.flops]


def refusal(plan: Plan) -> str:
    """Why the run cannot be, and what could."""
    first = plan.ways[0]
    others = [way for way in plan.ways[1:] if plan.fits(way)]
    could = "; ".join(f"{way.name}: {gigabytes(way.needed)} a device ({way.settings})" for way in others)
    need = f"a step needs {gigabytes(first.needed)}, and a device has {gigabytes(plan.limit)}"
    return f"{plan.config.recipe or plan.config.run.model}: {need}; " + (
        f"what fits: {could}"
        if could
        else "none of the ways above fits; take a smaller model, or more devices (gpus=…)"
    )


def _line(plan: Plan, way: Way) -> list[str]:
    whole = [] if plan.steps is None else [duration(plan.steps * way.seconds.total)]
    fits = "yes" if plan.fits(way) else "no"
    return [way.name, gigabytes(way.needed), f"{way.seconds.total:.3g}", *whole, way.seconds.mostly, fits, way.settings]


def _table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell if place == last else f"{cell:{'<' if place == 0 else '>'}{widths[place]}}"
            for place, cell in enumerate(line)
        ).rstrip()
        for line in lines
    )


def gigabytes(count: float) -> str:
    """
    >>> gigabytes(52.2e9), gigabytes(3.1e6)
    ('52.2 GB', '0.0031 GB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e9:.2g} GB"


def amount(weights: float) -> str:
    """
    >>> amount(12.85e9), amount(112512)
    ('12.85 billion', '112,512')
    """
    if weights >= 1e9:
        return f"{weights / 1e9:.4g} billion"
    return f"{weights / 1e6:.4g} million" if weights >= 1e6 else f"{weights:,.0f}"


def duration(seconds: float) -> str:
    """
    >>> duration(40), duration(7200), duration(300000)
    ('40 s', '2.0 h', '3.5 days')
    """
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"
