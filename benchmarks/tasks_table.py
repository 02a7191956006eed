"""A short run of every task on its released files: does it load, fit, train and score? A Markdown table, a row a task.

    PYTHONPATH=. python benchmarks/tasks_table.py --data DATA --model MODEL

DATA is a folder with the files named below, MODEL a small causal language model. A few steps teach little: what the
table shows is that every task runs from file to score, and where a model stands that was never tuned.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zoft.finetune import main as finetune


class Files(NamedTuple):
    """Where a task's rows lie in DATA; without a second file the first is cut into train, dev and test."""

    task: str
    train: str
    held_out: str | None = None
    num_test: int = 100


RUNS = (
    Files("sst2", "sst2_glue/train.tsv", "sst2_glue/dev_glue872.tsv"),
    Files("sst5", "sst5/train.txt", "sst5/test.txt"),
    Files("agnews", "agnews/train10k.tsv", "agnews/test.csv"),
    Files("rte", "superglue/RTE/train.jsonl", "superglue/RTE/val.jsonl"),
    Files("cb", "superglue/CB/train.jsonl", "superglue/CB/val.jsonl"),
    Files("boolq", "superglue/BoolQ/val.jsonl"),
    Files("wsc", "superglue/WSC/train.jsonl", "superglue/WSC/val.jsonl"),
    Files("wic", "superglue/WiC/train.jsonl", "superglue/WiC/val.jsonl"),
    Files("multirc", "superglue/MultiRC/train.jsonl", "superglue/MultiRC/val.jsonl"),
    Files("copa", "superglue/COPA/train.jsonl", "superglue/COPA/val.jsonl"),
    Files("squad", "squad_xquad_en/xquad.en.json", num_test=32),
    Files("drop", "drop/drop_v0_dev.jsonl.gz", num_test=32),
)


def run(files: Files, data: Path, model: str, steps: int, *changes: str) -> dict:
    """The summary of one fine-tuning; `changes` are settings that replace the table's own.

    Raises:
        SystemExit: the command refused or failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"model={model}", f"task={files.task}", f"train_file={data / files.train}", f"output_dir={folder}/run",
            f"max_steps={steps}", "learning_rate=1e-5", "lr_scheduler_type=linear", "zo_eps=0.001953125",
            "per_device_train_batch_size=8", "per_device_eval_batch_size=16", "num_dev=0",
            f"num_test={files.num_test}", "stability=report", "use_cpu=true", "disable_tqdm=true",
            "save_strategy=no", "seed=0",
        ]  # fmt: skip
        if files.held_out is not None:
            settings.append(f"validation_file={data / files.held_out}")
        if finetune([*settings, *changes]):
            raise SystemExit(f"{files.task}: the run failed; its message is above")
        return json.loads((Path(folder) / "run" / "summary.json").read_text())


def row(task: str, summary: dict) -> str:
    """One line of the table."""
    scores = {summary["metric"]: (summary["before"], summary["after"]), **summary["official"]}
    cells = [", ".join(f"{name} {pair[side]:.3f}" for name, pair in scores.items()) for side in (0, 1)]
    return f"| {task} | {cells[0]} | {cells[1]} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the tasks one after the other and print the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tasks", nargs="*", default=[files.task for files in RUNS])
    chosen = parser.parse_args(argv)
    told = ["| task | zero-shot | after |", "|---|---|---|"]
    for files in (files for files in RUNS if files.task in chosen.tasks):
        told.append(row(files.task, run(files, chosen.data, chosen.model, chosen.steps)))
        print("\n".join(["", *told]), flush=True)  # all so far: what is stopped has not run for nothing


if __name__ == "__main__":
    main()
