"""`zoft evaluate` and `seeds=`: the same numbers as a run's own, every way of asking, selection on dev alone."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from zoft.cli import main
from zoft.evaluate import evaluate
from zoft.finetune.seeds import Spread, table
from zoft.objectives.base import Objective, Scored
from zoft.tasks.encoded import Encoded, EncodedDataset, TokenRow


@pytest.fixture
def settings(tiny_folder, data_file, tmp_path):
    """`settings(key=value)`: of a tiny run on SST-2."""

    def made(**changes):
        given = {
            "model": tiny_folder("opt"), "task": "sst2", "train_file": data_file("sst2", 60), "num_train": 20,
            "num_dev": 10, "num_test": 16, "zo_distribution": "rademacher", "perturbation": "read_only",
            **changes,
        }  # fmt: skip
        return [f"{key}={value}" for key, value in given.items()]

    return made


@pytest.fixture
def asked(settings, tmp_path):
    """`asked(key=value)`: what `zoft evaluate` writes."""

    def numbers(**changes):
        assert main(["evaluate", *settings(output=tmp_path / "numbers.json", **changes)]) == 0
        return json.loads((tmp_path / "numbers.json").read_text())

    return numbers


def refused(capsys, arguments):
    assert main(arguments) == 2
    return capsys.readouterr().err


class Told(Objective):
    """Scores as they are written in a table."""

    name = "told"

    def __init__(self, scores):
        self.table = torch.tensor(scores)

    def evaluate(self, model, batch):
        return Scored(torch.zeros(len(batch["index"])), self.table[batch["index"]], batch["gold"])


def test_calibration_takes_off_what_a_candidate_scores_anyway():
    items = tuple(
        Encoded((TokenRow((7,) * (n + 1), ()),), gold, n, (3, 4), index=n) for n, gold in enumerate([0, 1, 1])
    )

    def collate(batch):
        return {"gold": torch.tensor([i.gold for i in batch]), "index": torch.tensor([i.index for i in batch])}

    told = Told([[1.0, 2.0], [1.0, 2.0], [0.0, 5.0]])
    data, model = EncodedDataset(items, "causal"), torch.nn.Linear(1, 1)
    assert evaluate(model, data, told, collate, batch_size=2)["accuracy"] == pytest.approx(2 / 3)
    offsets = torch.tensor([[0.0, 1.5], [0.0, 0.5], [0.0, 1.0]])  # now only the second and third choose candidate 1
    assert evaluate(model, data, told, collate, batch_size=2, offsets=offsets)["accuracy"] == 1.0


def test_a_run_its_checkpoint_and_its_packed_log_score_as_the_run_said(settings, asked, tmp_path):
    run = tmp_path / "run"
    training = {"max_steps": 3, "learning_rate": 1e-2, "use_cpu": "true", "save_strategy": "steps", "save_steps": 3}
    assert main(["finetune", *settings(output_dir=run, **training)]) == 0
    said = json.loads((run / "summary.json").read_text())
    assert asked()["accuracy"] == said["before"]
    assert main(["pack", str(run), str(tmp_path / "packed")]) == 0
    found = [asked(model=folder) for folder in (run, run / "checkpoint-3", tmp_path / "packed")]
    for values in found:
        assert values["accuracy"] == said["after"] and values["loss"] == found[0]["loss"] and values["n"] == 16
    assert found[0]["loss"] != asked()["loss"]
    assert found[0]["settings"]["model"] == str(run)


@pytest.mark.parametrize("tuning", ["lora", "prefix", "prompt"])
def test_an_adapters_folder_scores_as_its_run_said(settings, asked, tmp_path, tuning):
    """The folder holds no model, only what was added to one; a checkpoint's folder does as well."""
    run = tmp_path / "run"
    training = {"max_steps": 3, "learning_rate": 1e-1, "use_cpu": "true", "save_strategy": "steps", "save_steps": 3}
    given = settings(output_dir=run, tuning=tuning, stability="off", guard="off", **training)
    assert main(["finetune", *given]) == 0
    said = json.loads((run / "summary.json").read_text())
    assert not (run / "model.safetensors").exists() and (run / "adapter_config.json").is_file()
    base, found = asked(), [asked(model=folder) for folder in (run, run / "checkpoint-3")]
    assert found[0]["accuracy"] == found[1]["accuracy"] == said["after"] and found[0]["loss"] == found[1]["loss"]
    assert found[0]["loss"] != base["loss"] and base["accuracy"] == (
        said["before"] if tuning == "lora" else base["accuracy"]
    )
    assert asked(model=run, demonstrations=2)["demonstrations"] == 2


WRONG = {
    "a label never seen": ({"label_words": "{0: terrible, 2: great}"}, r"rows\.jsonl, row \d+: label 1 in column"),
    "an empty candidate": ({"task": "copa", "train_file": "copa.jsonl"}, r"copa\.jsonl, row 2: candidate 2 of 2 is empty"),
    "words that begin alike": (
        {"model": "roberta", "label_words": "{0: great plot, 1: great film}"},
        r"rows\.jsonl, row \d+: the label words ' great plot' and ' great film' begin with the same token",
    ),
    "a cut answer": (
        {"template": "{sentence} " + "It was " * 9, "max_length": 16},
        r"rows\.jsonl, row \d+: 25 tokens, of which 5 are the passage, do not fit into max_length=16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", ["evaluate", "finetune"])
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_row(settings, tiny_folder, tmp_path, capsys, case, command):
    changes, message = WRONG[case]
    copa = {"premise": "the film was dull .", "question": "cause", "choice1": "the plot", "choice2": "bad", "label": 0}
    (tmp_path / "copa.jsonl").write_text("\n".join(map(json.dumps, [copa, copa | {"choice2": " "}])))
    places = {"roberta": tiny_folder("roberta"), "copa.jsonl": tmp_path / "copa.jsonl"}
    changes = {name: places.get(value, value) for name, value in changes.items()}
    kept = {"output_dir": tmp_path / "run"} if command == "finetune" else {}
    assert re.search(message, refused(capsys, [command, *settings(**changes, **kept)]))
    assert not (tmp_path / "run").exists()


def test_every_way_of_asking(asked):
    plain = asked()
    shown = asked(demonstrations=5)
    assert shown["demonstrations"] == 5 and shown["with_fewer"] == 0 and shown["loss"] != plain["loss"]
    assert asked(demonstrations=5)["loss"] == shown["loss"] != asked(demonstrations=5, seed=1)["loss"]
    assert asked(demonstrations=20)["with_fewer"] == 16  # more than 130 positions hold
    assert asked(calibration="true")["loss"] == plain["loss"]
    assert asked(linear_probe="true")["accuracy"] == 1.0  # one word tells the labels apart
    assert asked(split="dev")["n"] == 10


def test_the_probes_choice_does_not_look_at_test(asked, data_file, tmp_path):
    rows = data_file("sst2", 16, "test.jsonl").read_text().splitlines()
    turned = [json.dumps({**row, "label": 1 - row["label"]}) for row in map(json.loads, rows)]
    (tmp_path / "turned.jsonl").write_text("\n".join(turned))
    right, wrong = (
        asked(linear_probe="true", test_file=tmp_path / name, validation_file=tmp_path / "test.jsonl")
        for name in ("test.jsonl", "turned.jsonl")
    )
    assert right["linear_probe"] == wrong["linear_probe"] and right["accuracy"] == 1.0 - wrong["accuracy"] == 1.0


def test_the_best_checkpoint_is_chosen_on_dev(settings, data_file, tmp_path):
    rows = [json.loads(row) for row in data_file("sst2", 16, "right.jsonl").read_text().splitlines()]
    turned = [json.dumps({**row, "label": 1 - row["label"]}) for row in rows]
    (tmp_path / "turned.jsonl").write_text("\n".join(turned))
    training = {
        "max_steps": 4, "learning_rate": 1e-1, "use_cpu": "true", "save_strategy": "steps", "save_steps": 1,
        "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": "true", "stability": "off", "guard": "off",
        "validation_file": data_file("sst2", 12, "dev.jsonl"),
    }  # fmt: skip
    weights = []
    for name in ("right", "turned"):
        run = settings(**training, test_file=tmp_path / f"{name}.jsonl", output_dir=tmp_path / name)
        assert main(["finetune", *run]) == 0
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_seeds_give_one_folder_each_and_a_table(settings, asked, capsys, tmp_path):
    training = {"max_steps": 2, "learning_rate": 1e-2, "use_cpu": "true", "output_dir": tmp_path / "runs"}
    assert main(["finetune", *settings(seeds="3,1", **training)]) == 0
    assert "| mean ± std | " in capsys.readouterr().out
    kept = json.loads((tmp_path / "runs/seeds.json").read_text())
    after = [json.loads((tmp_path / f"runs/seed-{s}/summary.json").read_text())["after"] for s in (3, 1)]
    assert kept["seeds"] == [3, 1] and kept["accuracy after"]["values"] == after
    alone = settings(**training | {"output_dir": tmp_path / "alone"}, seed=1)
    assert main(["finetune", *alone]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("runs/seed-1", "alone", "runs/seed-3")]
    assert weights[0] == weights[1] != weights[2]
    values = asked(seeds="0,1", demonstrations=5)["loss"]
    assert values["values"] == [asked(seed=s, demonstrations=5)["loss"] for s in (0, 1)]
    assert values["mean"] == pytest.approx(sum(values["values"]) / 2) and values["std"] > 0


def test_mean_and_spread():
    assert Spread((1.0, 2.0, 4.0)).mean == pytest.approx(7 / 3)
    assert Spread((1.0, 2.0, 4.0)).std == pytest.approx(math.sqrt(7 / 3))
    assert math.isnan(Spread((1.0,)).std) and Spread((1.0,)).plain()["std"] is None
    assert table([5], {"accuracy": Spread((0.25,))}).splitlines()[-1] == "| mean ± std | 0.250 |"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"demonstrations": -1}, "at least 0"),
        ({"demonstrations": 21}, "there are 20 training examples"),
        ({"linear_probe": "true", "demonstrations": 1}, "bare prompt"),
        ({"split": "train"}, "one of test, dev"),
        ({"split": "dev", "num_dev": 0}, "there are no dev examples"),
        ({"seeds": "1,1"}, "different whole numbers"),
    ],
)
def test_bad_settings_are_refused(settings, changes, message, capsys):
    assert message in refused(capsys, ["evaluate", *settings(**changes)])


def test_training_refuses_settings_of_evaluation(settings, capsys, tmp_path: Path):
    message = refused(capsys, ["finetune", *settings(demonstrations=3, output_dir=tmp_path / "run")])
    assert "demonstrations" in message and not (tmp_path / "run").exists()


def test_a_new_head_is_not_scored(settings, asked, tiny_folder, tmp_path, capsys):
    from transformers import RobertaModel

    folder = tmp_path / "encoder"
    RobertaModel.from_pretrained(tiny_folder("roberta")).save_pretrained(folder)
    for file in tiny_folder("roberta").glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    assert "has no classification head" in refused(capsys, ["evaluate", *settings(model=folder)])
    assert asked(model=folder, linear_probe="true")["accuracy"] == 1.0
