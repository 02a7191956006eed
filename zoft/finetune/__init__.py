"""`zoft finetune recipe=NAME|PATH key=value …`: from a recipe to a fine-tuned model.

Everything that can be wrong with the settings is found before torch or Transformers is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from zoft.config import load_config
from zoft.config.console import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one fine-tuning; returns the exit code, 2 for wrong input."""
    return guarded(_run, sys.argv[1:] if argv is None else argv)


def _run(argv: Sequence[str]) -> None:
    config = load_config(argv)
    if config.run.task == "eos":  # the edge-of-stability laboratory
        from zoft.stability.lab.run import run

        run(config)
        return
    from zoft.finetune.session import finetune

    finetune(config)
