"""`zoft evaluate model=… task=… key=value …`: how well a model does, without training it.

Takes the settings of a fine-tuning run and those of `zoft.config.evaluation`. The model may be a folder or a name on the
Hub, a run's folder, a checkpoint, an adapter's folder or a packed trajectory; a run's settings of its data are the
defaults of the evaluation of its folder (`zoft.finetune.earlier_run`). Nothing is chosen by looking at the test split: a
linear probe's penalty is chosen on dev, and everything else is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoft.config import RunConfig, is_first_process
from zoft.errors import UsageError
from zoft.finetune.asked_task import check_task
from zoft.finetune.earlier_run import EarlierRun, evaluation_config, trained_on

if TYPE_CHECKING:
    import torch

    from zoft.finetune.materials import Materials
    from zoft.tasks.encoded import EncodedDataset

EVAL_BATCH = 32


def main(argv: Sequence[str]) -> int:
    """Evaluates, prints a table, writes `output`; returns the exit code."""
    config, earlier = evaluation_config(argv)
    check_task(config.run)
    from zoft.finetune.seeds import Spread, table, with_seed
    from zoft.report.table import aligned

    told: set[str] = set()

    def say(line: str) -> None:
        if line and line not in told and is_first_process():
            print(line)
        told.add(line)

    if earlier is not None:
        say(earlier.told(config))
    seeds = config.run.seeds
    if seeds is None:
        values = measure(config, earlier, say)
        print(
            aligned(
                [(name, f"{value:.4f}" if isinstance(value, float) else str(value)) for name, value in values.items()]
            )
        )
        _keep(config, values)
        return 0
    found = [measure(with_seed(config, seed), earlier, say) for seed in seeds]
    numbers = [name for name, value in found[0].items() if isinstance(value, float)]
    columns = {name: Spread(tuple(values[name] for values in found)) for name in numbers}
    print(table(seeds, columns))
    _keep(config, {"seeds": list(seeds), **{name: column.plain() for name, column in columns.items()}, "runs": found})
    return 0


def measure(config: RunConfig, earlier: EarlierRun | None = None, say: Callable[[str], None] = print) -> dict[str, Any]:
    """The metrics and the loss (floats), their main metric first, and how they came about (`n`, `split`, …).

    Args:
        earlier: the run that made the model.
        say: takes the lines there are to say of the data.

    Raises:
        UsageError: wrong settings or data; a way of asking that the model or the task does not have.
    """
    from accelerate import PartialState

    asked = config.evaluation
    materials = loaded(config)
    for note in materials.notes:
        say(note)
    materials.model.to(PartialState().device)
    dataset = materials.test if asked.split == "test" else materials.dev
    if not len(dataset):
        raise UsageError(f"split={asked.split}: there are no {asked.split} examples; set num_{asked.split}")
    seen, warning = (0, "") if earlier is None else trained_on(earlier, config.run, materials, asked.split)
    if warning:
        say(warning)
    size = int(config.training.get("per_device_eval_batch_size", EVAL_BATCH))
    values: dict[str, Any]
    if asked.linear_probe:
        values = _by_probe(materials, dataset, size)
    else:
        values = _by_prompt(config, materials, dataset, size)
    facts = {"trained_on": seen} if seen else {}
    return {**values, **facts, "split": asked.split, "task": materials.task.name, "model": str(config.run.model)}


def loaded(config: RunConfig) -> Materials:
    """Model and data; a folder that holds a trajectory and no weights is replayed on its base."""
    from zoft.finetune.materials import gather_materials
    from zoft.finetune.streamed import within_budget

    assert config.run.model is not None, "load_config sees to it"
    packed = _packed(config.run.model)
    if packed is None:
        materials = gather_materials(config.run, tuned=False)
        within_budget(config, materials.model, "nearest")
        return materials
    from zoft.trajectory.mark import read_to_mark
    from zoft.trajectory.publish import START
    from zoft.trajectory.replay import replay

    log = read_to_mark(packed, None)
    start = packed.parent / START
    base = str(start) if start.is_dir() else log.header.base
    if not base:
        raise UsageError(f"model: the log in {packed.parent} does not name its base model; pack it with base=…")
    dtype: Any = log.header.dtype
    materials = gather_materials(replace(config.run, model=base, dtype=dtype), tuned=False)
    within_budget(config, materials.model, log.header.rounding)
    replay(materials.model, log)
    return materials


def _packed(name: str) -> Path | None:
    from zoft.trajectory.publish import LOG

    folder = Path(name).expanduser()
    whole = any((folder / file).is_file() for file in ("config.json", "adapter_config.json"))
    return folder / LOG if (folder / LOG).is_file() and not whole else None


def _by_prompt(config: RunConfig, materials: Materials, dataset: EncodedDataset, size: int) -> dict[str, Any]:
    """Zero-shot, in-context, or by a trained model: the model answers the prompt."""
    from zoft.evaluate import evaluate
    from zoft.tasks.demonstrations import demonstrated
    from zoft.tasks.prepare import encode_task
    from zoft.tasks.splits import permutation

    asked, task, collator = config.evaluation, materials.task, materials.collator
    facts: dict[str, Any] = {}
    if collator.architecture == "classifier":
        if asked.demonstrations or asked.calibration:
            raise UsageError(
                "demonstrations and calibration are for language models; a classification head has no prompt"
            )
        if _new_head(config, materials):
            raise UsageError(
                f"model {config.run.model} has no classification head, and a new one knows nothing; fine-tune it first, or "
                "set linear_probe=true"
            )
    if asked.demonstrations:
        pool = materials.train.examples
        if len(pool) < asked.demonstrations:
            raise UsageError(f"demonstrations={asked.demonstrations}, but there are {len(pool)} training examples")
        order = permutation(len(pool), int(config.training.get("seed", 0)))
        shown = [pool[number] for number in order[: asked.demonstrations]]
        length = collator.max_length or 0
        reserve = task.max_new_tokens if task.generates else 0
        examples, fewer = demonstrated(dataset.examples, shown, materials.tokenizer, length, reserve)
        dataset = encode_task(task, examples, materials.tokenizer, length, collator.architecture, training=False)
        facts = {"demonstrations": asked.demonstrations, "with_fewer": fewer}
    offsets = None
    if asked.calibration:
        offsets = _offsets(materials, dataset, size)
        facts["calibration"] = "without the passage"
    scoring = materials.scoring
    values = evaluate(
        materials.model, dataset, materials.objective, collator, size, materials.metrics, materials.greedy,
        offsets=offsets, reward=None if scoring is None or scoring.reward is None else scoring.mean,
    )  # fmt: skip
    return {**values, **facts}


def _offsets(materials: Materials, dataset: EncodedDataset, size: int) -> torch.Tensor:
    """[n, C]: what each candidate scores when the question is asked without its passage."""
    from zoft.evaluate import candidate_scores
    from zoft.tasks.calibration import without_passage
    from zoft.tasks.prepare import encode_task

    if materials.task.generates or dataset.items[0].candidates < 2:
        raise UsageError(f"calibration compares candidates, and task {materials.task.name} has none")
    length = materials.collator.max_length or 0
    bare = [without_passage(example) for example in dataset.examples]
    kinds = list({(example.prompt, example.candidates, example.suffix): example for example in bare}.values())
    encoded = encode_task(
        materials.task, kinds, materials.tokenizer, length, materials.collator.architecture, training=False
    )
    scores = candidate_scores(materials.model, encoded, materials.objective, materials.collator, size)
    row = {(example.prompt, example.candidates, example.suffix): number for number, example in enumerate(kinds)}
    return scores[[row[example.prompt, example.candidates, example.suffix] for example in bare]]


def _by_probe(materials: Materials, dataset: EncodedDataset, size: int) -> dict[str, Any]:
    import torch

    from zoft.evaluate import outcomes_of
    from zoft.linear_probe import chosen_probe, hidden_states
    from zoft.metrics import metric

    task = materials.task
    if len(task.labels) < 2:
        raise UsageError(f"linear_probe needs a task with labels, and {task.name} has none")
    if materials.scoring is not None and materials.scoring.reward is not None:
        raise UsageError(
            f"reward={materials.scoring.name} scores what the model answers, which linear_probe does not ask; leave one out"
        )

    def seen(part: EncodedDataset) -> tuple[torch.Tensor, torch.Tensor]:
        return hidden_states(materials.model, part, materials.collator, size), torch.tensor([i.gold for i in part])

    dev = seen(materials.dev) if len(materials.dev) else None
    probe, penalty = chosen_probe(seen(materials.train), dev, len(task.labels))
    states, gold = dev if dev is not None and dataset is materials.dev else seen(dataset)
    scores = probe(states)
    outcomes = outcomes_of(dataset, range(len(dataset)), scores.argmax(dim=1).tolist())
    values: dict[str, Any] = {name: metric(name)(outcomes) for name in task.metrics}
    values["loss"] = torch.nn.functional.cross_entropy(scores, gold).item()
    return {**values, "n": len(dataset), "linear_probe": f"penalty {penalty:g}", "fitted_to": len(materials.train)}


def _new_head(config: RunConfig, materials: Materials) -> bool:
    model: Any = materials.model
    replayed = _packed(str(config.run.model)) is not None
    has = "ForSequenceClassification" in " ".join(model.config.architectures or ())
    return not (has or replayed or hasattr(model, "peft_config"))


def _keep(config: RunConfig, values: dict[str, Any]) -> None:
    if config.evaluation.output is not None:
        file = Path(config.evaluation.output).expanduser()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**values, "settings": config.settings()}, indent=1))
