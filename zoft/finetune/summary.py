"""What came of a run: numbers for the program, a table and a picture for the person."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoft.config import RunConfig
from zoft.config.run import FIRST_ORDER

if TYPE_CHECKING:
    from zoft.finetune.materials import Materials
    from zoft.finetune.task_trainer import TaskEvaluation


@dataclass(frozen=True)
class Summary:
    """The result of one fine-tuning, also kept as summary.json."""

    recipe: str | None
    metric: str
    before: float  # of `metric` on the test split
    after: float
    steps: int
    steps_per_second: float  # of those taken in this process, evaluations included
    skipped_steps: int
    best_step: int | None  # the step whose weights are kept; None: the last
    folder: str
    seconds: float  # of training, evaluations included
    forwards: int  # losses of micro-batches taken in training on one process
    peak_bytes: int | None = None  # of tensors in one step, on the device; None: not measured
    official: dict[str, tuple[float, float]] = field(default_factory=dict)  # other metrics, before and after

    @property
    def lower_is_better(self) -> bool:
        """Whether `before` and `after` are losses: all metrics grow with what is right."""
        return self.metric == "loss"

    @classmethod
    def of(
        cls,
        config: RunConfig,
        trainer: TaskEvaluation,
        begun: int,
        training: dict[str, float],
        before: dict[str, float],
        after: dict[str, float],
        peak_bytes: int | None = None,
    ) -> Summary:
        """From the metrics of Trainer, whose own steps a second are the steps asked for by the time of those taken.

        Args:
            begun: the step at which this process began: that of the checkpoint that it went on from, or 0.
        """
        taken = trainer.state.global_step - begun
        found = [key for key in after if key.startswith("test_") and key not in _NOT_METRICS]
        metric = found[0] if found else "test_loss"
        return cls(
            recipe=config.recipe,
            metric=metric.removeprefix("test_"),
            before=before[metric],
            after=after[metric],
            official={key.removeprefix("test_"): (before[key], after[key]) for key in found[1:]},
            steps=trainer.state.global_step,
            steps_per_second=taken / training["train_runtime"] if taken else 0.0,
            skipped_steps=getattr(trainer, "zo_skipped_steps", 0),  # a first-order trainer skips none
            best_step=_best_step(trainer),
            folder=trainer.args.output_dir or "",
            seconds=training["train_runtime"],
            forwards=trainer.forwards,
            peak_bytes=peak_bytes,
        )


KEPT = {"log": "trajectory.zoft", "metrics": "trainer_state.json"}  # what it is: file
_NOT_METRICS = {
    "test_loss",
    "test_runtime",
    "test_samples_per_second",
    "test_steps_per_second",
    "test_model_preparation_time",
}


def _best_step(trainer: TaskEvaluation) -> int | None:
    """The step whose weights load_best_model_at_end loaded."""
    if hasattr(trainer, "zo_best_step"):
        return trainer.zo_best_step  # type: ignore[attr-defined]
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    return None if best is None else int(best.rpartition("-")[2])


def closing_words(summary: Summary, trainer: TaskEvaluation, materials: Materials, compare: bool) -> str:
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
    rate = summary.steps_per_second  # 0: a run that had ended before
    rows = [
        (f"test {summary.metric} before", f"{summary.before:.3f}"),
        (f"test {summary.metric} after", f"{summary.after:.3f}"),
        *((f"test {name}", f"{a:.3f} before, {b:.3f} after") for name, (a, b) in summary.official.items()),
        ("steps", f"{summary.steps}" + (f", {rate:.1f} a second" if rate else ", all of them before")),
    ]
    if summary.best_step is not None:
        rows.append(("best step", f"{summary.best_step}, whose weights were loaded at the end and are kept"))
    if summary.skipped_steps:
        rows.append(("steps skipped", str(summary.skipped_steps)))
    steering = getattr(getattr(trainer, "zo", None), "governor", None)  # the other methods have none
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


def _memory_rows(trainer: TaskEvaluation, materials: Materials) -> list[tuple[str, str]]:
    """Peak bytes of tensors in one step on this model and batch size, both measured now."""
    from zoft.limits import human_bytes
    from zoft.report.memory import weight_bytes

    weights = weight_bytes(materials.model)
    zo, adamw = (step_bytes(method, trainer, materials) for method in ("zo", "adamw"))
    return [
        ("peak memory, a step", f"{human_bytes(zo)}, of which the weights are {human_bytes(weights)}"),
        (
            "peak memory, an AdamW step",
            f"{human_bytes(adamw)} on the same model and batch, {adamw / zo:.1f} times as much",
        ),
    ]


def step_bytes(method: str, trainer: TaskEvaluation, materials: Materials) -> int:
    """Peak bytes of tensors in one step of `method` on this model, its trained weights, and the first training batch."""
    from zoft.report.memory import adamw_step_bytes, mezo_step_bytes, zo_step_bytes

    batch = first_batch(trainer, materials)
    aim = materials.objective if method in FIRST_ORDER else materials.aim

    def loss(model: Any) -> Any:
        return aim(model, batch)

    if method == "zo":
        arguments: Any = trainer.args  # a ZOConfig, whose settings these are
        settings = arguments.zo_settings().optimizer_settings
        if settings["panels"] == "lockstep":
            return zo_step_bytes(materials.model, materials.objective.losses, as_set=True, batch=batch, **settings)
        return zo_step_bytes(materials.model, loss, as_set=True, **settings)
    return (mezo_step_bytes if method == "mezo" else adamw_step_bytes)(materials.model, loss, as_set=True)


def first_batch(trainer: TaskEvaluation, materials: Materials) -> dict[str, Any]:
    """The first training examples as training will read them, on the device."""
    batch: Any = materials.collator(materials.train[: trainer.args.per_device_train_batch_size])
    return {name: value.to(trainer.args.device) for name, value in batch.items()}
