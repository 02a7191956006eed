"""Rewards: what a run raises in place of a likelihood, and what is said of one that cannot be used."""

import json
import random
import re
import sys
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file

from zoft import from_trajectory
from zoft.cli import main as zoft
from zoft.errors import UsageError
from zoft.finetune import main
from zoft.metrics import METRICS
from zoft.rewards import Scoring, checked
from zoft.rewards.arithmetic import arithmetic
from zoft.rewards.table import OF_LABELS
from zoft.tasks.base import Example

OWN = """
import torch

asked = []

def bright(prompts, outputs, references):
    asked.append((prompts, outputs, references))
    return [float(output == reference[0]) for output, reference in zip(outputs, references)]

def odd_ones(prompts, outputs, references):
    return [None if n % 2 else float("nan") if n % 4 else len(o) for n, o in enumerate(outputs)]

def nothing(prompts, outputs, references):
    return [float("nan")] * len(prompts)

def short(prompts, outputs, references):
    return [1.0]

def broken(prompts, outputs, references):
    raise KeyError("no such thing")

def words(prompts, outputs, references):
    return outputs

def endless(prompts, outputs, references):
    return [float("inf")] * len(prompts)

def number(prompts, outputs, references):
    return 1.0

def noise(prompts, outputs, references):
    import random, numpy
    return [torch.rand(()).item() + random.random() + numpy.random.rand() for _ in prompts]

constant = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch):
    """A module `own_rewards` beside the command."""
    (tmp_path / "own_rewards.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)
    yield tmp_path
    sys.modules.pop("own_rewards", None)


@pytest.fixture
def arguments(tiny_folder, data_file, tmp_path: Path):
    def build(out: str = "out", **changes) -> list[str]:
        values = {
            "model": tiny_folder("opt"), "task": "sst2", "train_file": data_file("sst2", 40), "output_dir": tmp_path / out,
            "use_cpu": "true", "max_steps": 4, "num_train": 16, "num_dev": 8, "num_test": 8, "disable_tqdm": "true",
            "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 8, "zo_eps": 0.05,
            "learning_rate": 1e-3, **changes,
        }  # fmt: skip
        return [f"{name}={value}" for name, value in values.items()]

    return build


def history(out: Path) -> list[dict]:
    return json.loads((out / "trainer_state.json").read_text())["log_history"]


def test_arithmetic_reads_the_last_number() -> None:
    outputs = ["so 5", "0.75", "none", "1,024", "-3", "4/0", "12 or 13"]
    right = [("5",), ("3/4",), ("14",), ("1024",), ("3", "-3"), ("4",), ("12",)]
    assert arithmetic([""] * 7, outputs, right) == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0]


def test_metrics_as_rewards_are_the_metrics_themselves() -> None:
    examples = [Example("x", (" no", " yes"), gold=n % 2, row=n) for n in range(6)]
    answers = [0, 1, 1, 1, 0, 0]
    for name in METRICS:
        scoring = Scoring.of(name, generates=False)
        scores = scoring(examples, answers)
        assert len(scores) == 6 and scoring.per_example == (name not in OF_LABELS)
        if name in ("accuracy", "exact_match", "token_f1"):
            assert scores == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    assert Scoring.of("f1", generates=False)(examples, answers) == [pytest.approx(2 / 3)] * 6
    with pytest.raises(UsageError, match="free text"):
        Scoring.of("f1", generates=True)


def test_scores_are_checked() -> None:
    assert checked("mine", torch.tensor([1.0, float("nan")]), 2) == [1.0, None]  # type: ignore[arg-type]


def test_a_function_of_ones_own_is_raised_and_reported(own: Path, arguments) -> None:
    assert main(arguments(reward="own_rewards:bright", max_steps=6, zo_directions=2, stability="off")) == 0
    prompts, outputs, references = sys.modules["own_rewards"].asked[0]
    assert len(prompts) == len(outputs) == len(references) == 8
    assert all(prompt.endswith("It was") for prompt in prompts) and {*outputs} <= {"terrible", "great"}
    assert {r[0] for r in references} == {"terrible", "great"}
    steps = [entry for entry in history(own / "out") if "reward/mean" in entry]
    assert len(steps) == 6 and all(entry["loss"] == pytest.approx(-entry["reward/mean"], abs=1e-4) for entry in steps)
    assert all(0 <= entry["reward/tied"] <= 1 and entry["reward/missing"] == 0 for entry in steps)
    summary = json.loads((own / "out/summary.json").read_text())
    assert summary["metric"] == "reward" and set(summary["official"]) == {"accuracy"}
    assert summary["after"] == summary["official"]["accuracy"][1]


@pytest.mark.parametrize("reward", ["own_rewards:bright", "f1"])
def test_an_evaluation_scores_the_reward_that_it_is_given(own: Path, arguments, reward) -> None:
    assert main(arguments(reward=reward, max_steps=2)) == 0
    words = [f"model={own / 'out'}", f"reward={reward}", f"output={own / 'numbers.json'}"]
    assert zoft(["evaluate", *words]) == 0
    numbers, summary = (json.loads((own / name).read_text()) for name in ("numbers.json", "out/summary.json"))
    assert zoft(["evaluate", *words, "linear_probe=true"]) == (2 if ":" in reward else 0)
    assert next(iter(numbers)) == summary["metric"] and numbers[summary["metric"]] == summary["after"]


def test_missing_scores_are_counted(own: Path, arguments) -> None:
    assert main(arguments(reward="own_rewards:odd_ones", max_steps=2)) == 0
    steps = [entry for entry in history(own / "out") if "reward/mean" in entry]
    assert [entry["reward/missing"] for entry in steps] == [0.75, 0.75]  # odd ones None, every other even one nan


def test_both_signs_see_the_same_noise(own: Path, arguments) -> None:
    """A reward of noise alone has no slope: torch's, numpy's and Python's generators stand where they stood."""
    torch.manual_seed(0), numpy.random.seed(0), random.seed(0)
    assert main(arguments(reward="own_rewards:noise")) == 0
    steps = [entry for entry in history(own / "out") if "zo/projected_grad" in entry]
    assert len(steps) == 4 and all(entry["zo/projected_grad"] == 0.0 and entry["reward/tied"] == 1.0 for entry in steps)
    assert len({entry["reward/mean"] for entry in steps}) == 4, "and each step draws its own"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_rewards:nothing", "no score .* for any of the 8 examples"),
        ("own_rewards:short", "returned 1 scores for 8 examples"),
        ("own_rewards:broken", "raised KeyError: 'no such thing'"),
        ("own_rewards:words", "a score is a number"),
        ("own_rewards:endless", "a finite number"),
        ("own_rewards:number", "return a list with one score for each of the 8"),
        ("own_rewards:constant", "is int, not a function"),
        ("own_rewards:absent", "cannot be imported .*absent"),
        ("no_such_module:f", "cannot be imported .*no_such_module"),
        ("acuracy", "did you mean accuracy"),
    ],
)
def test_rewards_that_cannot_be_used_are_named_before_the_first_step(
    own: Path, arguments, name, message, capsys
) -> None:
    assert main(arguments(reward=name)) == 2
    assert re.search(f"reward={name}.*{message}", capsys.readouterr().err)
    assert not (own / "out/trajectory.zoft").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": "accuracy", "method": "adamw"}, "has no gradient"),
        ({"reward": "accuracy", "tuning": "head", "store_features": "true"}, "store_features"),
        ({"reward_temperature": "1"}, "set reward"),
        ({"reward": "accuracy", "reward_temperature": "1"}, "task sst2 chooses among candidates"),
        ({"reward": "accuracy", "reward_temperature": "-1"}, "must be a number >= 0"),
    ],
)
def test_settings_that_do_not_go_together(arguments, changes, message, capsys) -> None:
    wanted = arguments(**changes)
    if changes.get("method") == "adamw":
        wanted = [argument for argument in wanted if not argument.startswith("zo_eps")]
    assert main(wanted) == 2
    assert message in capsys.readouterr().err


def test_f1_of_a_batch_trains_resumes_and_replays_bit_for_bit(arguments, tmp_path: Path) -> None:
    kept = {"reward": "f1", "save_strategy": "steps", "save_steps": 2, "zo_eps": 0.5}
    assert main(arguments("whole", **kept)) == 0
    assert main(arguments("part", **kept, resume_from_checkpoint=tmp_path / "whole/checkpoint-2")) == 0
    whole, part = (tmp_path / name / "model.safetensors" for name in ("whole", "part"))
    assert whole.read_bytes() == part.read_bytes()
    replayed = dict(from_trajectory(tmp_path / "whole").named_parameters())
    assert all(torch.equal(value, replayed[name]) for name, value in load_file(whole).items())
    assert any(entry.get("zo/projected_grad", 0.0) > 0.0 for entry in history(tmp_path / "whole"))


def test_an_answer_in_free_text_is_drawn_alike_for_both_signs(own: Path, arguments, tmp_path: Path) -> None:
    """At lr = 0 and a radius of almost nothing the two points write the same text, and other text in the next step."""
    rows = [{"question": f"the film was {w}", "answers": "good"} for w in ("dull", "bright", "good", "bad") * 6]
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    changes = {
        "task": "custom", "template": "{question}", "target_column": "answers", "train_file": data, "zo_eps": 1e-6,
        "learning_rate": 0.0, "reward": "own_rewards:bright", "reward_temperature": 5.0, "max_new_tokens": 6,
    }  # fmt: skip
    assert main(arguments(**changes, num_dev=4, num_test=4, stability="off", guard="off")) == 0
    written = [outputs for _, outputs, _ in sys.modules["own_rewards"].asked if len(outputs) == 8]
    _, *points = written[:9]  # the rehearsal, then two points in each of four steps
    assert len(points) == 8 and points[0::2] == points[1::2]
    assert len({tuple(outputs) for outputs in points}) == 4
