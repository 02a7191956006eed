"""First-order baselines: the same data and objective with gradients, and one table beside the zeroth-order methods."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zoft.directions import LowRank
from zoft.errors import UsageError
from zoft.estimators import ESTIMATORS
from zoft.finetune.budget import WITHOUT_END, forwards_per_step
from zoft.finetune.compare import main as compare
from zoft.finetune.comparison import read
from zoft.finetune.named import NAMED, settings_of, unit_of_rate
from zoft.methods import RULE_ROWS


@pytest.fixture
def arguments(tiny_folder, data_file, tmp_path: Path):
    def build(**changes) -> list[str]:
        values = {
            "model": tiny_folder("opt"), "task": "sst2", "train_file": data_file("sst2", 40), "output_dir": tmp_path / "out",
            "use_cpu": "true", "num_train": 16, "num_dev": 8, "num_test": 8, "disable_tqdm": "true",
            "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 4, **changes,
        }  # fmt: skip
        return [f"{name}={value}" for name, value in values.items()]

    return build


def test_one_table_at_equal_forwards(arguments, tmp_path: Path, capsys) -> None:
    asked = [
        *arguments(max_steps=6),
        "zo.learning_rate=1e-4",
        "mezo.learning_rate=1e-4",
        "adamw.learning_rate=1e-2",
        "lora-adamw.learning_rate=1e-2",
    ]
    assert compare(asked) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].strip("| ") for line in table] == [
        "method",
        "---",
        "zo",
        "mezo",
        "adamw",
        "lora-adamw",
    ]
    kept = json.loads((tmp_path / "out/compare.json").read_text())["methods"]
    runs = {name: summaries[0] for name, summaries in kept.items()}
    assert {name: run["steps"] for name, run in runs.items()} == {"zo": 6, "mezo": 6, "adamw": 4, "lora-adamw": 4}
    assert runs["mezo"]["forwards"] == 12 <= runs["zo"]["forwards"]  # the monitor takes losses of its own
    assert runs["adamw"]["forwards"] == runs["lora-adamw"]["forwards"] == 4
    assert runs["zo"]["peak_bytes"] < runs["adamw"]["peak_bytes"]
    assert runs["lora-adamw"]["peak_bytes"] < runs["adamw"]["peak_bytes"]
    assert (tmp_path / "out/lora-adamw/adapter_model.safetensors").is_file()
    assert not (tmp_path / "out/adamw/trajectory.zoft").exists()


def test_a_recipe_that_keeps_its_best_checkpoint_is_compared_by_its_last(arguments) -> None:
    asked = ["recipe=opt-125m-sst2", *arguments(methods="zo", max_steps=2)]
    assert read(asked).runs["zo"].training["load_best_model_at_end"] is False
    kept = [*asked, "eval_strategy=steps", "save_strategy=steps"]
    kept.remove("save_strategy=no")
    assert read(kept).runs["zo"].training["load_best_model_at_end"] is True
    assert read([*asked, "load_best_model_at_end=true"]).runs["zo"].training["load_best_model_at_end"] is True


def test_a_first_order_run_is_gradient_descent_on_the_objective(tiny_folder, tmp_path: Path) -> None:
    """In float64, with SGD and one batch of all examples: the weights that a loop by hand leaves, up to its rounding."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

    from zoft.finetune.task_trainer import FirstOrderTaskTrainer
    from zoft.objectives import CandidateLikelihood
    from zoft.tasks import resolve
    from zoft.tasks.collate import Collator
    from zoft.tasks.encode import encode

    folder, task, objective = tiny_folder("opt"), resolve("sst2"), CandidateLikelihood()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [{"sentence": f"the film was {word} .", "label": label} for label, word in ((0, "dull"), (1, "bright"))] * 4
    items = encode([task.example(row, n) for n, row in enumerate(rows, 1)], tokenizer, 64)
    collator = Collator.of(items, tokenizer)
    by_hand, trained = (AutoModelForCausalLM.from_pretrained(folder, dropout=0.0).double() for _ in range(2))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        objective(by_hand, collator(list(items))).backward()
        optimizer.step()
    args = TrainingArguments(
        output_dir=str(tmp_path), optim="sgd", learning_rate=0.1, lr_scheduler_type="constant", max_steps=3, max_grad_norm=0.0,
        per_device_train_batch_size=8, remove_unused_columns=False, report_to="none", use_cpu=True,
    )  # fmt: skip
    trainer = FirstOrderTaskTrainer(
        trained, args, objective=objective, data_collator=collator, train_dataset=items, metrics=("accuracy",)
    )
    trainer.train()
    assert trainer.forwards == 3
    start = AutoModelForCausalLM.from_pretrained(folder).double().state_dict()
    moved = 0.0
    for name, weight in trained.state_dict().items():
        torch.testing.assert_close(
            weight, by_hand.state_dict()[name], rtol=0.0, atol=1e-7
        )  # losses are taken in float32
        moved = max(moved, float((weight - start[name]).abs().max()))
    assert moved > 1e-4


def test_settings_of_one_method_and_of_all(arguments) -> None:
    asked = read([*arguments(max_steps=6), "methods=zo,adamw", "zo.zo_directions=3", "adamw.learning_rate=0.5"])
    assert list(asked.runs) == ["zo", "adamw"]
    assert asked.runs["zo"].zo.zo_directions == 3 and asked.runs["adamw"].training["learning_rate"] == 0.5
    assert [forwards_per_step(run) for run in asked.runs.values()] == [6, 3]
    assert [run.training["max_steps"] for run in asked.runs.values()] == [2, 4]
    steps = read([*arguments(max_steps=6), "methods=zo,adamw", "equal=steps"])
    assert [run.training["max_steps"] for run in steps.runs.values()] == [6, 6]


def test_a_budget_in_forwards_or_in_time_and_methods_by_name(arguments) -> None:
    """Each named method's steps cost what the budget allows; its settings may be overridden."""
    given = ["learning_rate=auto", "budget=forwards:360", "fzoo.zo_directions=5"]
    asked = read([*arguments(), f"methods={','.join(NAMED)},zo", *given])
    for run in asked.runs.values():
        each = forwards_per_step(run)
        assert 360 - each < run.training["max_steps"] * each <= 360
    assert asked.runs["fzoo"].zo.zo_directions == 5
    assert asked.runs["zo"].training["max_steps"] == 180 and asked.runs["lozo"].zo.form == LowRank("low_rank", 2, 50)
    timed = read([*arguments(), "methods=zo,mezo", "budget=time:10m"])
    assert {run.run.max_seconds for run in timed.runs.values()} == {600.0} and timed.equal == "time"


def test_the_unit_of_a_learning_rate_follows_from_estimator_and_rule(arguments) -> None:
    for name in NAMED:
        zo = read([*arguments(max_steps=200), f"methods={name}", "learning_rate=auto"]).runs[name].zo
        in_weights = ESTIMATORS[zo.zo_estimator].normalised or zo.zo_rule in (
            "adam",
            "full_adam",
            "adamezo",
            "muon",
            "sign",
        )
        known = in_weights or zo.zo_rule in ("sgd", "momentum")
        unit = "weights" if in_weights else "weights^2 / loss" if known else RULE_ROWS[zo.zo_rule].unit
        assert unit_of_rate(vars(zo)) == unit, name
    for given in (
        ["methods=fzoo,es,adam", "learning_rate=1e-3"],  # one number in one unit
        ["methods=zo,mezo", "learning_rate=1e-3"],
        ["methods=zo,adamw", "zo.zo_rule=adam", "learning_rate=1e-3"],
        ["methods=zo,fzoo", "learning_rate=1e-6", "fzoo.learning_rate=1e-3"],
    ):
        assert read([*arguments(max_steps=9), *given]).runs
    assert unit_of_rate({"method": "adamw", "optim": "sgd"}) == unit_of_rate({"method": "mezo"}) == "weights^2 / loss"


def test_a_recipes_rate_is_in_the_recipes_unit() -> None:
    words = ["recipe=quickstart", "methods=zo,mezo"]
    assert read(words).runs["mezo"].training["learning_rate"] == 3e-4
    for more, name in ((["zo_rule=adam", "methods=zo"], "zo"), (["methods=zo,adamw"], "adamw")):
        with pytest.raises(
            UsageError, match=rf"learning_rate=0.0003 is in units of weights\^2 / loss.*set {name}.learning"
        ):
            read(["recipe=quickstart", *more])


def test_every_micro_batch_counts(arguments) -> None:
    """A step that accumulates four batches costs four times the forwards, and a forward of half the rows a half."""
    given = ["methods=zo,fzoo,adamw", "learning_rate=auto", "adamw.learning_rate=1e-3", "budget=forwards:1440"]
    steps = [run.training["max_steps"] for run in read([*arguments(), *given]).runs.values()]
    assert steps == [720, 160, 480]
    many = read([*arguments(), *given, "gradient_accumulation_steps=4"]).runs
    assert [run.training["max_steps"] for run in many.values()] == [180, 40, 120]
    assert [forwards_per_step(run) for run in many.values()] == [8, 36, 12]
    one = read([*arguments(), *given, "adamw.gradient_accumulation_steps=4", "fzoo.per_device_train_batch_size=2"]).runs
    assert [run.training["max_steps"] for run in one.values()] == [720, 320, 120]
    by_steps = read(
        [
            *arguments(max_steps=6),
            "methods=zo,mezo",
            "gradient_accumulation_steps=4",
            "mezo.gradient_accumulation_steps=1",
        ]
    )
    assert [run.training["max_steps"] for run in by_steps.runs.values()] == [6, 24]


def test_equal_time_is_kept_by_the_clock_alone(tmp_path: Path, capsys) -> None:
    """quickstart stops after 400 steps by itself; here nothing but the second that it is given stops it."""
    for words in (["budget=time:10m"], ["max_time=10m"], ["equal=time", "max_time=10m"]):
        timed = read(["recipe=quickstart", "methods=zo,adamw", "adamw.learning_rate=1e-3", *words])
        assert timed.equal == "time"
        for run in timed.runs.values():
            assert run.run.max_seconds == 600.0 and run.training["max_steps"] == WITHOUT_END
            assert run.training["lr_scheduler_type"] == "constant"
    asked = [
        "recipe=quickstart",
        "methods=zo",
        "budget=time:0.2s",
        f"output_dir={tmp_path / 'out'}",
        "use_cpu=true",
        "zo.zo_eps=1e-3",
    ]
    assert compare([*asked, "num_test=64", "disable_tqdm=true"]) == 0
    run = json.loads((tmp_path / "out/compare.json").read_text())["methods"]["zo"][0]
    assert run["steps"] >= 1 and 0.2 <= run["seconds"] < 20
    assert not list((tmp_path / "out/zo").glob("checkpoint-*")), "none was asked for"


def test_a_recipes_own_limit_does_not_stop_equal_forwards(arguments, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: quickstart\nmax_time: 1h\nmax_steps: 100\n")
    runs = read([f"recipe={recipe}", "methods=zo", "budget=forwards:800"]).runs
    assert runs["zo"].run.max_time is None and runs["zo"].training["max_steps"] == 400
    assert runs["zo"].settings()["max_steps"] == 400, "and it is written down"
    assert read([f"recipe={recipe}", "methods=zo", "equal=time"]).runs["zo"].run.max_seconds == 3600.0


def test_what_makes_a_method_is_not_lost_to_a_setting_for_all(arguments) -> None:
    """Nor is the setting lost to the method: it is asked which one was meant."""
    shared = [*arguments(), "learning_rate=auto", "zo_directions=4", "methods=zo,fzoo"]
    with pytest.raises(UsageError, match=r"fzoo stands for zo_directions=8; write fzoo\.zo_directions=4"):
        read(shared)
    runs = read([*shared, "fzoo.zo_directions=6", "equal=steps"]).runs
    assert [run.zo.zo_directions for run in runs.values()] == [4, 6]
    runs = read([*arguments(), "learning_rate=auto", "zo_directions=8", "methods=zo,fzoo", "equal=steps"]).runs
    assert [run.zo.zo_directions for run in runs.values()] == [8, 8]
    assert all("=" in setting for name in NAMED for setting in settings_of(name))


def test_a_setting_for_all_that_one_method_cannot_read_is_told_with_how_to_write_it(arguments) -> None:
    asked = [*arguments(max_steps=6), "methods=zo,mezo,lora-adamw", "learning_rate=1e-3"]
    for setting, refusing, instead in (
        ("lora_r=4", "zo", "lora-adamw.lora_r=4"),
        ("zo_momentum=0.9", "mezo", "zo.zo_momentum=0.9"),
    ):
        told = f"{setting} was given for all methods, and {refusing} refuses it (command line: {setting}"
        with pytest.raises(UsageError, match=re.escape(told) + ".*" + re.escape(f"; write {instead} instead")):
            read([*asked, setting])
    with pytest.raises(UsageError, match=r"^command line: lora_r=4 is of tuning=lora"):  # nobody reads it
        read([*arguments(max_steps=6), "methods=zo,mezo", "lora_r=4"])


def test_each_method_gets_the_rate_of_its_grid_that_is_best_on_dev(
    arguments, tmp_path: Path, capsys, monkeypatch
) -> None:
    """The runs of the grid are scored on dev alone, with the first seed; the others use the choice."""
    from zoft.finetune import session

    seen, real = [], session.finetune

    def spy(config, *args, **kwargs):
        summary = real(config, *args, **kwargs)
        seen.append((config.training["learning_rate"], config.training["seed"], kwargs.get("on_dev", False)))
        score = {0.5e-3: 0.6, 1e-3: 0.9, 2e-3: 0.9}[config.training["learning_rate"]]
        return replace(summary, after=score) if kwargs.get("on_dev") else summary

    monkeypatch.setattr(session, "finetune", spy)
    asked = arguments(methods="fzoo", max_steps=9, grid="2,1,0.5", seeds="3,4")
    assert compare([*asked, "fzoo.learning_rate=1e-3", "fzoo.zo_directions=3"]) == 0
    assert seen == [(0.5e-3, 3, True), (1e-3, 3, True), (2e-3, 3, True), (1e-3, 3, False), (1e-3, 4, False)]
    assert "| fzoo | 0.001 |" in capsys.readouterr().out
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["methods=zo,adamv"], "did you mean adam"),
        (["methods=zo,zo"], "each once"),
        (["methods=zo", "adamw.learning_rate=1"], "not among methods=zo"),
        (["equal=luck"], "equal must be one of"),
        (["budget=time:10m", "max_steps=9"], "budget=time:10m and max_steps=9: a budget says alone"),
        (["max_steps=9", "budget=time:10m"], "a budget says alone"),
        (["equal=steps", "budget=forwards:100"], "budget=forwards:100 and equal=steps: a budget says alone"),
        (["budget=forwards:100", "budget=time:10m"], "budget was given twice"),
        (["max_time=10m", "max_steps=9"], "stopped by one measure"),
        (["equal=time"], "set max_time, or write budget=time"),
        (["equal=steps", "max_time=10m"], "stopped by one measure"),
        (["methods=zo,mezo", "mezo.max_steps=3"], "mezo.max_steps: what is held equal"),
        (["budget=forwards:8", "methods=fzoo", "learning_rate=auto"], "a step of fzoo takes 9 forwards, and 8 are all"),
        (
            ["budget=time:10m", "methods=zo", "lr_scheduler_type=linear"],
            "lr_scheduler_type=linear is laid out over max_steps",
        ),
        (["methods=zo,fzoo", "learning_rate=1e-3"], "set fzoo.learning_rate, or learning_rate=auto for all"),
        (["methods=zo,adamw", "learning_rate=1e-3"], "set adamw.learning_rate"),
        (["methods=zo", "learning_rate=auto", "grid=1,3"], "which is auto for zo"),
        (["budget=20000"], "forwards:20000 or time:10m"),
        (["grid=1,0"], "multiples of the learning rate"),
        (["methods=zo,fzoo"], "set fzoo.learning_rate"),
        (["method=zo"], "methods=zo"),
        (["methods=adamw", "zo_eps=1e-3"], "cannot be had with method=adamw"),
        (["methods=adamw", "learning_rate=auto"], "give a number"),
        (["methods=lora-adamw", "tuning=prefix"], "tuning=prefix cannot be had"),
    ],
)
def test_bad_comparisons(arguments, changes, message) -> None:
    with pytest.raises(UsageError, match=message):
        read([*arguments(), *changes])


def test_where_the_score_is_a_loss_the_lowest_wins(tiny_folder, tmp_path: Path, monkeypatch) -> None:
    """task=text has no metric but its loss on dev. A rate that lost the loss altogether is the worst."""
    from zoft.finetune import session

    text = tmp_path / "lines.jsonl"
    text.write_text(
        "\n".join(json.dumps({"text": f"the film was {w} . the plot was {w}"}) for w in ("dull", "bright") * 20)
    )
    real, metrics = session.finetune, set()

    def spy(config, *args, **kwargs):
        summary = real(config, *args, **kwargs)
        metrics.add(summary.metric)
        score = {1e-4: 3.0, 2e-4: 2.5, 4e-4: float("nan")}[config.training["learning_rate"]]
        return replace(summary, after=score)

    monkeypatch.setattr(session, "finetune", spy)
    asked = [
        f"model={tiny_folder('opt')}", "task=text", f"train_file={text}", f"output_dir={tmp_path / 'out'}", "use_cpu=true",
        "num_train=16", "num_dev=8", "num_test=8", "disable_tqdm=true", "methods=zo", "budget=forwards:4", "grid=1,2,4",
        "zo.learning_rate=1e-4",
    ]  # fmt: skip
    assert compare(asked) == 0
    assert metrics == {"loss"}
    assert json.loads((tmp_path / "out/compare.json").read_text())["learning_rates"] == {"zo": 2e-4}


def test_a_share_that_only_measures_is_refused_before_anything_runs(arguments) -> None:
    words = ["methods=zo,fzoo", "learning_rate=1e-5", "fzoo.learning_rate=auto", "budget=forwards:30"]
    with pytest.raises(UsageError, match=r"^fzoo: learning_rate=auto measures in its first steps"):
        read([*arguments(), *words])
