"""What came of a run: numbers for the program, a table and a picture for the person."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoft.config import RunConfig

if TYPE_CHECKING:
    from zoft.finetune.materials import Materials
    from zoft.trainer import ZOTrainer


@dataclass(frozen=True)
class Summary:
    """The result of one fine-tuning, also kept as summary.json."""

    recipe: str | None
    metric: str
    before: float  # of `metric` on the test split
    after: float
    steps: int
    steps_per_second: float  # of training, evaluations included
    skipped_steps: int
    best_step: int | None  # the step whose weights are kept; None: the last
    folder: str
    official: dict[str, tuple[float, float]] = field(default_factory=dict)  # other metrics, before and after

    @classmethod
    def of(
        cls,
        config: RunConfig,
        trainer: ZOTrainer,
        training: dict[str, float],
        before: dict[str, float],
        after: dict[str, float],
    ) -> Summary:
        """From the metrics of Trainer."""
        found = [key for key in after if key.startswith("test_") and key not in _NOT_METRICS]
        metric = found[0] if found else "test_loss"
        return cls(
            recipe=config.recipe,
            metric=metric.removeprefix("test_"),
            before=before[metric],
            after=after[metric],
            official={key.removeprefix("test_"): (before[key], after[key]) for key in found[1:]},
            steps=trainer.state.global_step,
            steps_per_second=training["train_steps_per_second"],
            skipped_steps=trainer.zo_skipped_steps,
            best_step=trainer.zo_best_step,
            folder=trainer.args.output_dir or "",
        )


KEPT = {"log": "trajectory.zoft", "metrics": "trainer_state.json"}  # what it is: file
_NOT_METRICS = {
    "test_loss",
    "test_runtime",
    "test_samples_per_second",
    "test_steps_per_second",
    "test_model_preparation_time",
}


def closing_words(summary: Summary, trainer: ZOTrainer, materials: Materials, compare: bool) -> str:
    """The closing table, with summary.json and the picture written on the way.

    Args:
        compare: the quickstart: measure the memory of one zeroth-order and of one AdamW step on this model and say both,
            and what the run shows.
    """
    from zoft.report.figure import plot_run
    from zoft.report.table import aligned
    from zoft.stability import Steering
    from zoft.stability.words import rows as monitor_rows

    folder = Path(summary.folder)
    (folder / "summary.json").write_text(json.dumps(asdict(summary), indent=1))
    rows = [
        (f"test {summary.metric} before", f"{summary.before:.3f}"),
        (f"test {summary.metric} after", f"{summary.after:.3f}"),
        *((f"test {name}", f"{a:.3f} before, {b:.3f} after") for name, (a, b) in summary.official.items()),
        ("steps", f"{summary.steps}, {summary.steps_per_second:.1f} a second"),
    ]
    if summary.best_step is not None:
        rows.append(("best step", f"{summary.best_step}, whose weights were loaded at the end and are kept"))
    if summary.skipped_steps:
        rows.append(("steps skipped", str(summary.skipped_steps)))
    steering = getattr(trainer.zo, "governor", None)  # MeZO has none
    if isinstance(steering, Steering) and steering.monitor is not None and steering.monitor.steps:
        rows += monitor_rows(steering.monitor)
    if compare:
        rows += _memory_rows(trainer, materials)
    rows.append(("model", str(folder)))
    if any("loss" in entry or "eval_loss" in entry for entry in trainer.state.log_history):
        picture = plot_run(trainer.state.log_history, folder / "run.png", title=summary.recipe or "")
        rows.append(("picture", str(picture)))
    rows += [(what, str(folder / name)) for what, name in KEPT.items() if (folder / name).is_file()]
    lines = ["", aligned(rows)]
    if compare:
        from zoft.quickstart.task import WHAT_IT_SHOWS

        lines += ["", textwrap.fill(WHAT_IT_SHOWS, 100)]
    return "\n".join(lines)


def _memory_rows(trainer: ZOTrainer, materials: Materials) -> list[tuple[str, str]]:
    """Peak bytes of tensors in one step on this model and batch size, both measured now."""
    from zoft.report.memory import adamw_step_bytes, weight_bytes, zo_step_bytes
    from zoft.report.table import human_bytes

    size = trainer.args.per_device_train_batch_size
    batch: Any = materials.collator(materials.train[:size])
    batch = {name: value.to(trainer.args.device) for name, value in batch.items()}

    def loss(model: Any) -> Any:
        return materials.objective(model, batch)

    weights, zo, adamw = (
        weight_bytes(materials.model),
        zo_step_bytes(materials.model, loss),
        adamw_step_bytes(materials.model, loss),
    )
    return [
        ("peak memory, a step", f"{human_bytes(zo)}, of which the weights are {human_bytes(weights)}"),
        (
            "peak memory, an AdamW step",
            f"{human_bytes(adamw)} on the same model and batch, {adamw / zo:.1f} times as much",
        ),
    ]
