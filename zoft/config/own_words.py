"""Words that one command has for itself, beside the settings of a run: how they are written, and what they say."""

from collections.abc import Mapping
from typing import NamedTuple


class Word(NamedTuple):
    """One of them."""

    written: str
    help: str


# What `zoft compare` knows by name (`zoft.finetune.named`); the first four where nothing is said.
METHODS = (
    "zo", "mezo", "adamw", "lora-adamw", "one-sided", "conservative", "fzoo", "es", "es-rank", "momentum", "adam", "full-adam",
    "adamezo", "hizoo", "muon", "sign", "lozo", "subzero", "lezo", "sparse-mezo", "random-mask", "sphere", "eggroll",
)  # fmt: skip

# Command -> its words by name.
OWN: Mapping[str, Mapping[str, Word]] = {
    "compare": {
        "methods": Word(
            "methods=zo,mezo,adamw,lora-adamw",
            "what is compared: these four by default (zo: the settings as they are; adamw, lora-adamw: by gradients), and "
            f"{', '.join(METHODS[4:])}",
        ),
        "METHOD.key": Word("METHOD.key=value", "a setting of one method, as adamw.learning_rate=1e-3"),
        "equal": Word("equal=forwards", "what is held equal: forwards (a backward pass counts as two), steps or time"),
        "budget": Word(
            "budget=forwards:20000",
            "how much each method may use: forwards:N, or time:10m; else by max_steps of two forwards each, or by max_time",
        ),
        "grid": Word(
            "grid=0.1,0.3,1,3",
            "each method's learning rate is the best on dev of these multiples of its own; one run for each",
        ),
    },
    "plan": {
        "memory": Word("memory=24GB", "what a device has; else its own"),
        "device": Word(
            "device=here",
            "here (this machine, measured now); h200, h100, a100, 4090, laptop (as their makers state); or a CSV file of zoft "
            "bench",
        ),
        "gpus": Word("gpus=8", "how many there are, for replicas and shards; else 1"),
        "tokens": Word("tokens=300", "of an example; else 512 where a task reads a passage, and 128"),
    },
    "recipes": {
        "NAME": Word("NAME", "one recipe, with every setting"),
        "model": Word("--model NAME", "of this model, among those of the recipe book too: a part of its name"),
        "task": Word("--task NAME", "of this task"),
        "fits": Word("--fits 24GB", "whose step needs no more memory than this, as computed"),
    },
    "configs": {
        "NAME": Word("NAME", "the one whose path is printed; without it all are listed"),
    },
}


def owner_of(name: str) -> str | None:
    """The command that takes `name=…`, or settings of a method as `name.key=…`; None: none, or all that take settings.

    >>> owner_of("methods"), owner_of("memory"), owner_of("adamw.learning_rate"), owner_of("learning_rate")
    ('compare', 'plan', 'compare', None)
    """
    method, dot, _ = name.partition(".")
    if dot and method in METHODS:
        return "compare"
    return next((command for command, words in OWN.items() if name.islower() and name in words), None)
