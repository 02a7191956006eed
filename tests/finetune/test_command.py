"""The command as a user meets it: bad input is refused in one message, a run can be resumed and stopped by the clock."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from zoft.finetune import main
from zoft.optimizer import ZOOptimizer


@pytest.fixture
def arguments(tiny_folder, data_file, tmp_path: Path):
    """Arguments of a small run; keyword arguments change them, None leaves one out."""

    def build(**changes) -> list[str]:
        values = {
            "model": tiny_folder("opt"), "task": "sst2", "train_file": data_file("sst2", 40), "output_dir": tmp_path / "out",
            "use_cpu": "true", "max_steps": 4, "learning_rate": 1e-3, "num_train": 16, "num_dev": 8, "num_test": 8,
            "disable_tqdm": "true", "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 4, **changes,
        }  # fmt: skip
        return [f"{name}={value}" for name, value in values.items() if value is not None]

    return build


def refused(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """The one message with which the command leaves with code 2."""
    assert main(argv) == 2
    error = capsys.readouterr().err
    messages = [line for line in error.splitlines() if line.startswith("zoft: ")]
    assert len(messages) == 1, error
    return messages[0]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_run_leaves_model_log_picture_and_summary(arguments, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert main(arguments()) == 0
    out = tmp_path / "out"
    assert {"summary.json", "settings.json", "run.png", "trainer_state.json", "model.safetensors"} <= {
        p.name for p in out.iterdir()
    }
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.generate(**tokenizer("the film was", return_tensors="pt"), max_new_tokens=2).shape[1] > 3


def test_two_runs_with_one_seed_give_the_same_weights(arguments, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main(arguments(output_dir=tmp_path / name)) == 0
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_auto_perturbs_in_place_where_that_restores(arguments, tmp_path: Path) -> None:
    for perturbation in ("auto", "in_place"):
        assert main(arguments(perturbation=perturbation, output_dir=tmp_path / perturbation)) == 0
    assert (tmp_path / "auto/model.safetensors").read_bytes() == (tmp_path / "in_place/model.safetensors").read_bytes()


def test_each_run_gets_a_new_folder(arguments, tmp_path: Path) -> None:
    for _ in range(2):
        assert main(arguments(output_dir=None, runs_dir=tmp_path / "runs", max_steps=1)) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_an_earlier_run_is_not_written_over(arguments, tmp_path: Path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious").write_text("x")
    assert "holds files already" in refused(capsys, arguments())
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["precious"]


def test_what_another_process_tries_in_the_folder_is_no_earlier_run(arguments, tmp_path: Path) -> None:
    (tmp_path / "out/.zoft-of-another-rank").mkdir(parents=True)
    assert main(arguments()) == 0


def test_resume_goes_on_where_the_checkpoint_was(arguments, tmp_path: Path) -> None:
    assert main(arguments(output_dir=tmp_path / "whole", save_strategy="steps", save_steps=2)) == 0
    checkpoint = tmp_path / "whole/checkpoint-2"
    changes = {"output_dir": tmp_path / "part", "save_strategy": "steps", "save_steps": 2}
    assert main(arguments(**changes, resume_from_checkpoint=checkpoint)) == 0
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "part/model.safetensors").read_bytes()
    assert _taken(tmp_path / "whole") == pytest.approx(4) and _taken(tmp_path / "part") == pytest.approx(2)


def _taken(folder: Path) -> float:
    """Steps of a run by its rate and its time."""
    summary = json.loads((folder / "summary.json").read_text())
    return summary["steps_per_second"] * summary["seconds"]


def test_max_time_stops_the_run(arguments, tmp_path: Path) -> None:
    assert main(arguments(max_steps=100_000, max_time="1s")) == 0
    steps = json.loads((tmp_path / "out/summary.json").read_text())["steps"]
    assert 1 <= steps < 100_000 and _taken(tmp_path / "out") == pytest.approx(steps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "stt2"}, "did you mean sst2"),
        ({"fp16": "true"}, "fp16"),
        ({"deepspeed": "ds.json"}, "DeepSpeed"),
        ({"train_file": "/nowhere.jsonl"}, "does not exist"),
        ({"resume_from_checkpoint": "/nowhere"}, "does not exist"),
        ({"resume_from_checkpoint": "true"}, "there is no checkpoint in"),
        ({"resume_from_checkpoint": "true", "output_dir": None}, "name that, or the checkpoint"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be a number >= 0"),
        ({"max_steps": "many"}, "max_steps must be a whole number"),
        ({"num_test": 0}, "no example is left to test on"),
        ({"num_dev": 10_000}, "too few to train on and to hold some out"),
        ({"load_best_model_at_end": "true", "eval_strategy": "no"}, "makes none"),
        ({"load_best_model_at_end": "true", "eval_strategy": "steps", "save_strategy": "epoch"}, "training settings: "),
        ({"zo_eps": "big"}, "zo_eps"),
        ({"learnin_rate": 1}, "did you mean learning_rate"),
        ({"method": "mezo", "stability": "cap"}, "stability=cap cannot be had with method=mezo"),
        ({"method": "mezo", "zo_distribution": "rademacher"}, "set zo_distribution=gaussian"),
        ({"method": "mezo", "learning_rate": "auto"}, "give a number"),
        ({"perturbation": "in_place", "dtype": "bfloat16", "zo_distribution": "gaussian"}, "drifts"),
    ],
)
def test_bad_settings(arguments, changes, message, capsys, tmp_path: Path) -> None:
    assert message in refused(capsys, arguments(**changes))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_checkpoint(arguments, capsys, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    message = refused(capsys, arguments(resume_from_checkpoint=tmp_path / "photos"))
    assert "photos is no checkpoint (no trainer_state.json in it)" in message and not (tmp_path / "out").exists()
    (tmp_path / "photos/checkpoint-7").mkdir()  # looks like one
    assert "no checkpoint in" in refused(
        capsys, arguments(resume_from_checkpoint="true", output_dir=tmp_path / "photos")
    )
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["checkpoint-7"]


@pytest.mark.parametrize("where", ["output_dir", "runs_dir"])
def test_a_folder_that_cannot_be_made_is_said_before_anything_is_loaded(
    arguments, capsys, tmp_path: Path, where
) -> None:
    (tmp_path / "file").touch()
    message = refused(capsys, arguments(**{"output_dir": None, where: tmp_path / "file/run"}))
    assert "the run cannot be kept in" in message and "Not a directory; name another folder" in message
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("seeds", [None, "3,4"])
def test_a_run_that_is_stopped_says_how_it_goes_on(
    arguments, capsys, monkeypatch, tmp_path: Path, seeds: str | None
) -> None:
    def interrupt(self, step, **more):
        apply(self, step, **more)
        if self.steps == 3:
            raise KeyboardInterrupt

    apply = ZOOptimizer.apply
    words = arguments(save_strategy="steps", save_steps=2, max_steps=5, seeds=seeds)
    folder = tmp_path / ("out/seed-3" if seeds else "out")
    with monkeypatch.context() as patched:
        patched.setattr(ZOOptimizer, "apply", interrupt)
        assert main(words) == 130
    out, err = capsys.readouterr()
    assert err.endswith("zoft: stopped by Ctrl-C\n")
    hint = f"{'seeds=none seed=3 ' if seeds else ''}output_dir={folder} resume_from_checkpoint=true"
    assert f"with {hint} goes on from step 2" in out
    assert main([*words, *hint.split()]) == 0
    assert json.loads((folder / "summary.json").read_text())["steps"] == 5


def test_a_misspelt_recipe(capsys) -> None:
    assert "did you mean quickstart" in refused(capsys, ["recipe=quikstart"])


@pytest.fixture(scope="session")
def int8_folder(tiny_folder, tmp_path_factory) -> Path:
    """The tiny OPT with a base of 8-bit integers, as bitsandbytes saves it."""
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    path = tmp_path_factory.mktemp("int8")
    asked = BitsAndBytesConfig(load_in_8bit=True)
    AutoModelForCausalLM.from_pretrained(tiny_folder("opt"), quantization_config=asked).save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_folder("opt")).save_pretrained(path)
    return path


def test_full_training_of_an_int8_base(arguments, int8_folder, capsys, tmp_path: Path) -> None:
    message = refused(capsys, arguments(model=int8_folder))
    assert "tuning=full" in message and "use tuning=lora" in message and not (tmp_path / "out").exists()
    from transformers import AutoModelForCausalLM

    from zoft import ZOConfig, ZOTrainer

    model = AutoModelForCausalLM.from_pretrained(int8_folder)
    with pytest.raises(ValueError, match="quantized"):
        ZOTrainer(model, ZOConfig(output_dir=str(tmp_path / "out"), use_cpu=True, report_to=[]))
    assert not (tmp_path / "out").exists()


def test_bad_data(arguments, capsys, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert "empty" in refused(capsys, arguments(train_file=empty))
    odd = write(tmp_path / "odd.jsonl", [{"sentence": "a film", "label": 7}])
    message = refused(capsys, arguments(train_file=odd))
    assert "row 1" in message and "7" in message
    lacking = write(tmp_path / "lacking.jsonl", [{"text": "a film", "label": 1}])
    assert "sentence" in refused(capsys, arguments(train_file=lacking))
    template = {"task": "custom", "template": "{headline} It was", "label_words": "{0: bad, 1: good}"}
    assert "headline" in refused(capsys, arguments(**template))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["task=sst3"], "task 'sst3' does not exist; did you mean sst"),
        (["task=custom"], "task custom needs template and label_words or target_column"),
        ([], "no task was given: name one, as task=sst2"),
        (["task=quickstart", "template={text}"], "template: task=quickstart is an offline world"),
    ],
)
@pytest.mark.parametrize("command", ["finetune", "evaluate", "probe", "compare"])
def test_a_task_that_cannot_be_is_said_before_anything_heavy_is_imported(command, settings, message) -> None:
    heavy = ("transformers", "peft", "accelerate", *(["torch"] if command != "compare" else []))
    script = f"import sys; from zoft.cli import main; main({[command, 'model=m', 'max_steps=3', *settings]!r});"
    script += f"print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert message in done.stderr and done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train_file", "reviews.csv"), ("validation_file", "reviews.csv"), ("test_file", "reviews.csv"),
        ("template", "{text}"), ("label_words", "{0: bad, 1: good}"), ("label_column", "stars"), ("target_column", "text"),
        ("max_new_tokens", 3), ("examples_per_label", 3), ("split_seed", 1),
    ],
)  # fmt: skip
def test_an_offline_world_refuses_data_of_ones_own(setting, value, capsys, tmp_path: Path) -> None:
    if value == "reviews.csv":
        value = tmp_path / value
        value.write_text("text,label\nfine,1\npoor,0\n")
    argv = ["recipe=quickstart", f"{setting}={value}", f"output_dir={tmp_path / 'out'}", "max_steps=1"]
    message = refused(capsys, argv)
    assert message.startswith(f"zoft: {setting}: task=quickstart") and "model=FOLDER-OR-HUB-NAME task=sst2" in message
    assert not (tmp_path / "out").exists()


def test_own_data_by_template(arguments, tmp_path: Path) -> None:
    rows = [
        {"text": f"the plot was {word}", "stars": stars} for word, stars in (("dull", "low"), ("bright", "high"))
    ] * 20
    own = write(tmp_path / "own.jsonl", rows)
    changes = {"task": "custom", "train_file": own, "template": "{text} . It was", "label_column": "stars"}
    assert main(arguments(**changes, label_words="{low: bad, high: good}")) == 0


def test_mezo_is_another_run_than_zo(arguments, tmp_path: Path) -> None:
    for name, changes in (
        ("zo", {"zo_distribution": "gaussian"}),
        ("mezo", {"method": "mezo"}),
        ("again", {"method": "mezo"}),
    ):
        assert main(arguments(output_dir=tmp_path / name, **changes)) == 0
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("zo", "mezo", "again")}
    assert weights["mezo"] == weights["again"] != weights["zo"]
    assert not (tmp_path / "mezo/trajectory.zoft").exists() and (tmp_path / "zo/trajectory.zoft").exists()


def test_a_run_in_lockstep_ends_with_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The memory of a step, measured at the end, is that of all points' rows at once."""
    peaks = []
    for panels in ("jit", "lockstep"):
        words = ["recipe=quickstart", "use_cpu=true", "eval_strategy=no", "max_steps=2", "stability=off", "guard=off"]
        assert main([*words, f"zo_panels={panels}", "disable_tqdm=true", f"output_dir={tmp_path / panels}"]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("peak memory, a step")]
        peaks.append(float(line.split()[4]))
    assert 1.3 * peaks[0] < peaks[1] < 3 * peaks[0]
