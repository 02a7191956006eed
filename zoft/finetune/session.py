"""One run, told in order: materials, trainer, before, training, after, what is kept."""

from __future__ import annotations

import json
import warnings
from dataclasses import fields
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import TrainingArguments, set_seed

from zoft.agreement import require_same_settings
from zoft.config import RunConfig
from zoft.config.load import known_settings
from zoft.config.run import FIRST_ORDER
from zoft.directions import DirectionSource
from zoft.errors import UsageError
from zoft.finetune.clock import Begun, MaxTime
from zoft.finetune.features import StoredFeatures, head_of
from zoft.finetune.folder import how_to_go_on, run_folder
from zoft.finetune.materials import QUICKSTART, Materials, gather_materials
from zoft.finetune.progress import show_briefly
from zoft.finetune.seeds import Spread, table, with_seed
from zoft.finetune.streamed import within_budget
from zoft.finetune.summary import Summary, closing_words, first_batch, step_bytes
from zoft.finetune.task_trainer import TRAINERS, TaskEvaluation
from zoft.perturb import perturbation
from zoft.rewards import RewardObjective
from zoft.space import ParameterSpace
from zoft.trainer import ZOConfig
from zoft.trajectory.publish import START

# Each machine may have its own
PATHS = {"model", "tokenizer", "train_file", "validation_file", "test_file", "runs_dir", "output_dir"}


def finetune(config: RunConfig, measured: bool = False, on_dev: bool = False) -> Summary:
    """Run `config` and return what came of it.

    Args:
        measured: take two more steps on a copy of the model at the end, to measure the peak memory of one.
        on_dev: evaluate on the dev split instead of the test split: for choosing settings.

    Raises:
        UsageError: wrong input, found before training starts.
    """
    args = _arguments(config)
    _check_same_command(config)
    args.output_dir = str(run_folder(config))
    set_seed(args.seed)
    with PartialState().local_main_process_first():  # one process downloads or builds, the others find it made
        materials = gather_materials(config.run)
    streams = within_budget(config, materials.model)
    _rehearse(config, materials)
    trainer = _trainer(config, args, materials)
    show_briefly(trainer)
    begun = Begun()
    trainer.add_callback(begun)
    first_score = _rehearse_reward(trainer, materials)
    folder = Path(args.output_dir)
    speak = trainer.is_world_process_zero()
    if speak:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.json").write_text(json.dumps(config.settings(), indent=1))
        print(opening_words(config, trainer, materials))
        if streams is not None:
            print(streams)
        if first_score is not None:
            print(f"reward={config.run.reward}: {first_score:.3f} on a first batch")
        if materials.own_start and not (folder / START).is_dir():  # a resumed run began where it began
            materials.model.save_pretrained(folder / START)  # type: ignore[operator]

    if on_dev and not len(materials.dev):
        raise UsageError("settings are chosen on the dev split, and there is none; set num_dev, or name a dev_file")
    held_out = materials.dev if on_dev else materials.test
    before = trainer.evaluate(held_out, metric_key_prefix="test")  # type: ignore[arg-type]
    if config.run.store_features:
        trainer.objective = StoredFeatures(trainer.model, materials.train, materials.collator, args.eval_batch_size)
    try:
        result = trainer.train(resume_from_checkpoint=_checkpoint(config))
    except KeyboardInterrupt:
        if speak:
            print(how_to_go_on(config, folder, trainer.state.global_step))
        raise
    after = trainer.evaluate(held_out, metric_key_prefix="test")  # type: ignore[arg-type]
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card(
        tags=["zoft"] if config.run.method in FIRST_ORDER else ["zoft", "zeroth-order"],
        dataset=materials.task.hub and materials.task.hub.repository,
        tasks=materials.task.name,
    )
    peak = step_bytes(config.run.method, trainer, materials) if measured else None
    summary = Summary.of(config, trainer, begun.step, result.metrics, before, after, peak)
    # The comparison takes a step, and with several processes a step needs all of them
    plain = config.run.method == "zo" and config.run.memory_budget is None  # a streamed model cannot be copied
    compare = config.run.model == QUICKSTART and plain and trainer.args.world_size == 1
    if speak:
        _say_which_step(folder / "README.md", summary)
        print(closing_words(summary, trainer, materials, compare=compare))
    return summary


def finetune_seeds(config: RunConfig, measured: bool = False) -> list[Summary]:
    """One run for each of `seeds`, each in a folder of its own below one; the metrics' mean and spread at the end.

    Raises:
        UsageError: as `finetune`.
    """
    seeds = config.run.seeds or []
    state = PartialState()  # starts the processes' group, so that all agree on the folder
    parent = run_folder(config)
    summaries = [finetune(with_seed(config, seed, str(parent / f"seed-{seed}")), measured) for seed in seeds]
    metric = summaries[0].metric
    columns = {
        f"{metric} before": Spread(tuple(summary.before for summary in summaries)),
        f"{metric} after": Spread(tuple(summary.after for summary in summaries)),
    }
    for name in summaries[0].official:
        columns[f"{name} after"] = Spread(tuple(summary.official[name][1] for summary in summaries))
    if state.is_main_process:
        plain = {name: column.plain() for name, column in columns.items()}
        (parent / "seeds.json").write_text(json.dumps({"seeds": seeds, **plain}, indent=1))
        print(f"\n{table(seeds, columns)}\nkept in {parent}")
    return summaries


def _say_which_step(card: Path, summary: Summary) -> None:
    """Adds to the model card which step's weights lie beside it, where they are not the last one's."""
    if summary.best_step is not None and card.is_file():
        with card.open("a", encoding="utf-8") as text:
            text.write(
                f"\n\nThe weights are those after step {summary.best_step} of {summary.steps}, the best evaluation.\n"
            )


def opening_words(config: RunConfig, trainer: TaskEvaluation, materials: Materials) -> str:
    """What a run says before it starts: what it trains, on what, where, with how many processes."""
    weights = sum(weight.numel() for weight in materials.model.parameters())
    moving = sum(weight.numel() for weight in materials.model.parameters() if weight.requires_grad)
    sizes = f"{len(materials.train)} training, {len(materials.dev)} dev and {len(materials.test)} test examples"
    lines = [
        f"{config.recipe or 'run'}: {config.run.model}, {moving:,} of {weights:,} weights trained, {materials.model.dtype}",
        f"{materials.task.name}: {sizes}",
        f"{trainer.args.world_size} process(es) on {trainer.args.device}; kept in {trainer.args.output_dir}",
        *config.remarks,
        *materials.notes,
    ]
    return "\n".join(lines)


def _arguments(config: RunConfig) -> TrainingArguments:
    """Transformers' settings as given, and the zeroth-order ones where the method has such; defaults are the method's own.

    Raises:
        UsageError: settings that Transformers refuses, each alone or together.
    """
    zo = {f.name: getattr(config.zo, f.name) for f in fields(config.zo)}
    quiet = {"report_to": "none", "dataloader_pin_memory": torch.cuda.is_available()}
    try:
        if config.run.method in FIRST_ORDER:
            own = {"output_dir": config.run.runs_dir, "remove_unused_columns": False}
            return TrainingArguments(**{**own, **quiet, **config.training})
        return ZOConfig(**{"output_dir": config.run.runs_dir, **quiet, **config.training, **zo})
    except UsageError:
        raise
    except ValueError as error:  # its own checks of settings that do not go together
        raise UsageError(f"training settings: {' '.join(str(error).split())}") from error


def _check_same_command(config: RunConfig) -> None:
    """Raises UsageError, naming setting and ranks, unless all processes were given the same settings; paths may differ."""
    PartialState()  # starts the processes' group
    given = config.settings()
    require_same_settings({name: given.get(name, "its default") for name in known_settings() if name not in PATHS})


def _rehearse(config: RunConfig, materials: Materials) -> None:
    """What does not suit the model or the data is refused here, before the trainer makes the run's folder."""
    if not len(materials.test):
        raise UsageError("no example is left to test on, and a run ends with a test; set num_test, or name a test_file")
    if config.run.store_features:
        head_of(materials.model)
    if config.run.method != "zo":  # MeZO writes to any weight, in place, whatever that does to it
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said once, by the optimizer that trains
        space = ParameterSpace(materials.model, backend_name=config.zo.zo_backend, blocks=config.zo.zo_blocks)
        distribution = DirectionSource.of_law(0, config.zo.zo_distribution).distribution
        perturbation(config.zo.perturbation, space, eps=config.zo.zo_eps, distribution=distribution)


def _rehearse_reward(trainer: TaskEvaluation, materials: Materials) -> float | None:
    """The mean reward of a first batch, taken once the model is where it trains; None: there is no reward.

    Raises:
        UsageError: the reward raised, or returned what is no score.
    """
    if not isinstance(materials.aim, RewardObjective):
        return None
    return materials.aim.rehearse(materials.model, first_batch(trainer, materials))


def _trainer(config: RunConfig, args: TrainingArguments, materials: Materials) -> TaskEvaluation:
    if args.eval_strategy != "no" and not len(materials.dev):
        args.eval_strategy = "no"
    callbacks = [] if config.run.max_seconds is None else [MaxTime(config.run.max_seconds)]
    return TRAINERS[config.run.method](
        materials.model,
        args,
        objective=materials.objective if config.run.method in FIRST_ORDER else materials.aim,
        data_collator=materials.collator,
        train_dataset=materials.train,  # type: ignore[arg-type]
        eval_dataset=materials.dev if len(materials.dev) else None,  # type: ignore[arg-type]
        processing_class=materials.tokenizer,
        metrics=materials.metrics,
        greedy=materials.greedy if materials.metrics else None,
        scoring=materials.scoring,
        callbacks=callbacks,
    )


def _checkpoint(config: RunConfig) -> str | bool | None:
    """`resume_from_checkpoint` as Trainer.train takes it: a folder, True for the last one in output_dir, or None."""
    given = config.training.get("resume_from_checkpoint")
    if given is None or str(given).lower() == "false":
        return None
    return True if str(given).lower() == "true" else str(given)
