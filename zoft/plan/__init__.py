"""`zoft plan recipe=NAME key=value …`: memory and time of a step, before anything is loaded.

What is asked for is the run's own settings, as `zoft finetune` takes them, and four of the plan's own:

    memory=24GB      what a device has; else its own
    device=h100      of the table in `zoft.costs.devices`; `here`: measured now (the default); or a CSV file of `zoft bench`
    gpus=8           how many there are, for replicas and shards
    tokens=300       of an example; else 512 where a task reads a passage, and 128

Sizes come from the model's configuration or the recipe book's table, memory and operations are computed (`zoft.costs`),
rates are measured here or stated by the device's maker. A run that cannot fit is refused, with what would.
"""

from __future__ import annotations

from collections.abc import Sequence

from zoft.errors import UsageError

OWN = {"memory": "", "device": "here", "gpus": "", "tokens": ""}


def main(argv: Sequence[str]) -> int:
    """Prints the plan; returns the exit code.

    Raises:
        UsageError: wrong settings; the run as asked for does not fit.
    """
    from zoft.config import load_config
    from zoft.limits import size_in_bytes
    from zoft.plan.here import device_of
    from zoft.plan.shape import sizes_of
    from zoft.plan.ways import Plan
    from zoft.plan.words import refusal, text

    own, rest = _split(argv)
    config = load_config(rest)
    if config.run.task == "eos":
        raise UsageError("task=eos is the laboratory, a few thousand weights on a CPU; there is nothing to plan")
    sizes, dtype = sizes_of(config)
    device = device_of(own["device"], dtype)
    limit = size_in_bytes("memory", own["memory"]) if own["memory"] else device.memory
    plan = Plan.of(config, sizes, dtype, device, limit, _count(own, "gpus", 1), _count(own, "tokens", None))
    plan = plan.only(lambda way: _taken([*rest, *way.words]))
    print(text(plan))
    if not plan.fits(plan.ways[0]):
        raise UsageError(refusal(plan))
    return 0


def _taken(words: Sequence[str]) -> bool:
    """Whether a run with these settings would be begun."""
    from zoft.config import load_config

    try:
        load_config(words)
    except UsageError:
        return False
    return True


def _split(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The plan's own words (`memory=24GB`, `--memory=24GB` or `--memory 24GB`), and the run's settings."""
    own, rest, words = dict(OWN), [], list(argv)
    while words:
        word = words.pop(0)
        key, equals, value = word.partition("=")
        name = key.removeprefix("--")
        if name not in OWN:
            rest.append(word)
            continue
        if not equals:
            value = words.pop(0) if key.startswith("--") and words else ""
        if not value:
            raise UsageError(f"zoft plan: {name} needs a value, such as {name}={_example(name)}")
        own[name] = value
    return own, rest


def _example(name: str) -> str:
    return {"memory": "24GB", "device": "h100", "gpus": "8", "tokens": "300"}[name]


def _count(own: dict[str, str], name: str, default: int | None) -> int | None:
    if not own[name]:
        return default
    if not own[name].isdecimal() or not int(own[name]):
        raise UsageError(f"zoft plan: {name} must be a whole number from 1 on, but {own[name]!r} was given")
    return int(own[name])
