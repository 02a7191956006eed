"""`recipe=NAME|PATH key=value …`: order of precedence, inheritance, and every wrong input with its message."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from zoft.config import load_config, read_recipe
from zoft.errors import UsageError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder, as that of a user who installed zoft from a wheel."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*argv: str, **environ: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_config(argv, environ)
    return str(caught.value)


def test_the_command_line_wins_over_the_recipe_and_the_recipe_over_its_bases(folder):
    write(folder / "recipes/far.yaml", "model: far\ntask: sst2\nlearning_rate: 1e-7\nmax_steps: 3\nseed: 1\n")
    write(folder / "recipes/near.yaml", "base: far\nmax_steps: 4\nseed: 2\n")
    write(folder / "recipes/mine.yaml", "base: near\nseed: 3\n")
    config = load_config(["recipe=mine", "seed=4", "zo_eps=1e-3"], {})
    assert config.recipe == "mine" and config.run.model == "far" and config.run.task == "sst2"
    assert config.training == {"learning_rate": 1e-7, "max_steps": 4, "seed": 4}
    assert config.zo.zo_eps == 1e-3
    assert config.sources["learning_rate"] == "recipes/far.yaml"
    assert config.sources["max_steps"] == "recipes/near.yaml"
    assert config.sources["seed"] == "command line"
    assert "seed=4" in config.explain() and "# recipes/near.yaml" in config.explain()
    assert config.settings()["zo_eps"] == 1e-3 and "lora_r" not in config.settings()


def test_look_up_order_path_then_local_then_packaged(folder):
    assert load_config(["recipe=opt-125m-sst2"], {}).run.model == "facebook/opt-125m"
    write(folder / "recipes/opt-125m-sst2.yaml", "model: local\n")
    assert load_config(["recipe=opt-125m-sst2"], {}).run.model == "local"
    write(folder / "opt-125m-sst2.yaml", "model: path\n")
    assert load_config(["recipe=opt-125m-sst2.yaml"], {}).run.model == "path"
    assert load_config([f"recipe={folder / 'opt-125m-sst2.yaml'}"], {}).run.model == "path"


def test_a_base_is_looked_for_beside_its_recipe_first(folder):
    write(folder / "a/base.yaml", "model: beside\n")
    write(folder / "recipes/base.yaml", "model: elsewhere\n")
    write(folder / "a/mine.yaml", "base: base\n")
    assert load_config(["recipe=a/mine.yaml"], {}).run.model == "beside"
    write(folder / "b/mine.yaml", "base: ../a/base.yaml\n")
    assert load_config(["recipe=b/mine.yaml"], {}).run.model == "beside"
    write(folder / "b/other.yaml", "base: opt-125m-sst2\n")
    assert load_config(["recipe=b/other.yaml"], {}).run.model == "facebook/opt-125m"


def test_notes_are_not_inherited(folder):
    write(folder / "recipes/parent.yaml", "model: m\nneeds: 80 GB\nexpect: 91.4 %\n")
    write(folder / "recipes/child.yaml", "base: parent\ndescription: Small.\n")
    notes = read_recipe("child").notes
    assert notes.description == "Small." and notes.needs == "" and notes.expect == ""


def test_a_recipe_cannot_be_its_own_ancestor(folder):
    write(folder / "recipes/a.yaml", "base: b\nmodel: m\n")
    write(folder / "recipes/b.yaml", "base: a\n")
    assert "cannot inherit from itself (a.yaml -> b.yaml -> a.yaml)" in refusal("recipe=a")


def test_entries_of_a_mapping_one_by_one(folder):
    write(folder / "recipes/mine.yaml", 'model: m\ntemplate: "{text}"\nlabel_words: {0: bad, 1: good}\n')
    config = load_config(["recipe=mine", "label_words.1=Yes", "lr_scheduler_kwargs.num_cycles=2"], {})
    assert config.run.label_words == {"0": "bad", "1": "Yes"}
    assert config.training["lr_scheduler_kwargs"] == {"num_cycles": 2}
    assert "seed is a whole number, not a mapping" in refusal("recipe=mine", "seed.x=2")


def test_a_run_without_a_recipe(folder):
    config = load_config(["model=facebook/opt-125m", "task=sst2"], {})
    assert config.recipe is None and config.run.task == "sst2"
    assert "start from a recipe, as recipe=quickstart" in refusal("task=sst2")


def test_a_configuration_can_be_pickled(folder):
    config = load_config(["recipe=opt-13b-sst2-zoft"], {})
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("argument", "part"),
    [
        ("learnin_rate=1e-6", "command line: unknown setting 'learnin_rate'; did you mean learning_rate?"),
        ("lr=1e-6", "unknown setting 'lr'; did you mean learning_rate?"),
        ("methods=zo", "command line: methods: for `zoft compare` only; leave it out"),
        ("budget=time:1m", "budget: for `zoft compare` only"),
        ("adamw.learning_rate=1e-3", "adamw.learning_rate: for `zoft compare` only"),
        ("memory=24GB", "memory: for `zoft plan` only; leave it out"),
        ("fits=24GB", "fits: for `zoft recipes` only"),
        ("momentum=0.9", "unknown setting 'momentum'; did you mean zo_momentum?"),
        ("learning_rate=fast", "command line: learning_rate must be one of auto or a number, but 'fast' was given"),
        ("max_steps=1.5", "max_steps must be a whole number"),
        ("lr_scheduler_type=constnt", "did you mean constant"),
        ("dtype=fp16", "dtype must be one of auto, float32, bfloat16, float16"),
        ("zo_distribution=normal", "zo_distribution must be one of rademacher, gaussian"),
        ("zo_eps=0", "command line: zo_eps must be a positive number"),
        ("train_file=missing.csv", "train_file: missing.csv does not exist"),
        ("fp16=true", "use dtype=float16 or dtype=bfloat16"),
        ("deepspeed=ds.json", "DeepSpeed partitions gradients"),
        ("gradient_checkpointing=true", "nothing is saved"),
        ("resume_from_checkpoint=missing", "the folder missing does not exist"),
        ("base=opt-125m-sst2", "write recipe=opt-125m-sst2"),
        ("--learning_rate=1e-6", "settings are written key=value, as learning_rate=1e-6"),
        ("--learning-rate", "as learning_rate=VALUE"),
        ("opt-13b-sst2", "did you mean recipe=opt-13b-sst2?"),
        ("1e-6", "quote a value that holds spaces"),
    ],
)
def test_bad_input(folder, argument, part):
    message = refusal("recipe=opt-125m-sst2", argument)
    assert part in message and "\n" not in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("learnin_rate: 1e-6", "recipes/my.yaml: unknown setting 'learnin_rate'; did you mean learning_rate?"),
        ("learning_rate: fast", "recipes/my.yaml: learning_rate must be one of auto or a number"),
        ("zo_directions: 0", "recipes/my.yaml: zo_directions must be a whole number between"),
        ("label_words: {0: Yes, 1: No}", "recipes/my.yaml: label_words"),
        ("model: [a]", "recipes/my.yaml: model must be text"),
        ("a: b: c", "recipes/my.yaml: not valid YAML"),
        ("- a", "recipes/my.yaml: a recipe is a list of 'setting: value' lines"),
        ("base: opt-13b", "recipes/my.yaml: base: unknown recipe 'opt-13b'; did you mean opt-13b-"),
        ("base: [a, b]", "recipes/my.yaml: base must be the name or path of one recipe"),
        ("run_name: ${nothing}", "recipes/my.yaml: cannot resolve ${…}"),
    ],
)
def test_bad_recipes(folder, text, part):
    write(folder / "recipes/my.yaml", text)
    message = refusal("recipe=my")
    assert part in message and "\n" not in message


def test_unknown_recipes(folder):
    assert "unknown recipe 'opt-13b-sts2'; did you mean opt-13b-sst2" in refusal("recipe=opt-13b-sts2")
    message = refusal("recipe=zzz")
    assert "there are " in message and "llama-3-8b-sst2, minilm-sst2, opt-1.3b-sst2" in message
    assert "recipe my/own.yaml: no such file" in refusal("recipe=my/own.yaml")


def test_a_folder_that_is_no_checkpoint(folder):
    (folder / "run/checkpoint-20").mkdir(parents=True)
    message = refusal("recipe=opt-125m-sst2", "resume_from_checkpoint=run")
    assert "run is no checkpoint" in message and "did you mean run/checkpoint-20?" in message
    (folder / "run/checkpoint-20/trainer_state.json").touch()
    assert load_config(["recipe=opt-125m-sst2", "resume_from_checkpoint=run/checkpoint-20"], {})
    assert load_config(["recipe=opt-125m-sst2", "resume_from_checkpoint=true"], {})


@pytest.mark.parametrize(
    ("environ", "part"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "mixed precision fp16"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
        ({"ACCELERATE_USE_FSDP": "true"}, "use fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "offloads parameters"),
    ],
)
def test_launchers_that_cannot_be_honoured(folder, environ, part):
    assert part in refusal("recipe=opt-125m-sst2", **environ)
    assert load_config(["recipe=opt-125m-sst2"], {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})


def test_nothing_heavy_is_imported():
    script = (
        "import sys; from zoft.config import load_config; load_config(['recipe=opt-13b-sst2', 'max_time=2h']);"
        "print([m for m in ('torch', 'transformers', 'datasets', 'numba', 'triton', 'accelerate') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "setting",
    [
        "zo_panels=lockstep", "perturbation=in_place", "zo_distribution=sphere", "zo_rule=hizoo", "zo_shape=small_weights",
        "guard=rewind", "zo_direction_groups=2",
    ],
)  # fmt: skip
def test_what_a_sharded_model_cannot_have_is_said_before_it_is_loaded(folder, setting: str):
    more = ["zo_estimator=three_point", "zo_distribution=gaussian"] if "hizoo" in setting else ["zo_directions=2"]
    words = ["model=x", "task=sst2", "learning_rate=1e-6", "max_steps=3", "fsdp_size=2", *more]
    assert refusal(*words, setting).startswith(f"command line: {setting} cannot be had with fsdp_size or tp_size")


def test_lockstep_cannot_be_streamed(folder):
    words = ["model=x", "task=sst2", "learning_rate=1e-6", "max_steps=3", "memory_budget=1GB", "zo_panels=lockstep"]
    assert "zo_panels=lockstep cannot be had with memory_budget" in refusal(*words)


@pytest.mark.parametrize(
    ("words", "owner"),
    [
        (["stability=off", "stability_every=5"], "stability=cap or report, and stability=off"),
        (["stability=off", "stability_margin=none"], "stability=cap or report, and stability=off"),
        (["guard=off", "guard_threshold=5"], "guard=skip or rewind, and guard=off"),
        (["guard=off", "guard_patience=2"], "guard=skip or rewind, and guard=off"),
        (["guard_rise=2"], "guard=rewind, and guard=skip"),
        (["zo_rank=4"], "zo_shape=low_rank or subspace, and zo_shape=dense"),
        (["lora_r=4"], "tuning=lora, and tuning=full"),
        (["tuning=prefix", "lora_alpha=4"], "tuning=lora, and tuning=prefix"),
        (["tuning=head", "lora_target_modules=[q_proj]"], "tuning=lora, and tuning=head"),
        (["tuning=lora", "virtual_tokens=4"], "tuning=prefix or prompt, and tuning=lora"),
        (["tuning=bias", "virtual_init=random"], "tuning=prefix or prompt, and tuning=bias"),
        (["last_k=2"], "tuning=last_k, and tuning=full"),
        (["method=lora-adamw", "last_k=2"], "tuning=last_k, and tuning=lora"),
    ],
)
def test_a_setting_that_nothing_would_read_is_refused(folder, words, owner):
    message = refusal("recipe=quickstart", *words)
    name = words[-1].partition("=")[0]
    assert message.startswith(f"command line: {name}=") and f"is of {owner} does not read it: leave it out" in message


def test_what_a_later_layer_turns_off_takes_the_settings_of_earlier_ones_with_it(folder):
    """Also along a chain of recipes; but a recipe that says both, or a command line that adds to what is off, is refused."""
    far = "model: m\nstability_every: 9\nguard: rewind\nguard_rise: 2\nzo_rule: momentum\nzo_momentum: 0.5\n"
    write(folder / "recipes/far.yaml", far)
    write(folder / "recipes/near.yaml", "base: far\nstability: off\nguard: off\n")
    for words in (["recipe=near"], ["recipe=far", "stability=off", "guard=off"]):
        config = load_config(words, {})
        assert config.zo.stability == config.zo.guard == "off" and config.zo.guard_rise == 3.0
        assert not {"stability_every", "guard_rise"} & config.settings().keys() and config.zo.zo_momentum == 0.5
    assert load_config(["recipe=far", "zo_rule=sgd"], {}).zo.zo_momentum == 0.9
    assert refusal("recipe=near", "stability_every=9").startswith("command line: stability_every=9 is of stability=cap")
    write(folder / "recipes/both.yaml", "model: m\nguard: off\nguard_patience: 2\n")
    assert refusal("recipe=both").startswith("recipes/both.yaml: guard_patience=2 is of guard=skip")


def test_a_recipes_shape_of_an_adapter_goes_with_its_tuning(folder):
    """Whoever changes a recipe's tuning did not write what its scheme read; whoever writes both is told."""
    write(folder / "recipes/mine.yaml", "model: m\ntuning: last_k\nlast_k: 2\n")
    for words in (["tuning=full"], ["method=lora-adamw"]):
        config = load_config(["recipe=mine", *words], {})
        assert config.run.last_k == 1 and "last_k" not in config.settings()
    assert load_config(["recipe=mine", "last_k=3"], {}).run.last_k == 3
    assert load_config(["model=m", "method=lora-adamw", "lora_r=4"], {}).run.lora_r == 4
    write(folder / "recipes/low.yaml", "model: m\ntuning: lora\nlora_r: 4\n")
    assert load_config(["recipe=low", "tuning=prefix", "virtual_tokens=3"], {}).run.lora_r == 8
    assert refusal("recipe=low", "tuning=full", "lora_r=4").startswith("command line: lora_r=4 is of tuning=lora")
    write(folder / "recipes/both.yaml", "model: m\nlora_r: 4\n")
    assert refusal("recipe=both").startswith("recipes/both.yaml: lora_r=4 is of tuning=lora")


def test_mezo_means_what_it_needs_and_says_what_it_left_out(folder):
    """Of a recipe; what the same words ask for is refused, also where a recipe says both."""
    config = load_config(["recipe=opt-13b-sst2", "method=mezo"], {})
    assert config.remarks == ("method=mezo is MeZO's own step, which has no stability=report: left out of the recipe",)
    assert "stability" not in config.settings() and config.settings()["guard"] == "off"
    assert load_config(["recipe=opt-13b-sst2", "method=mezo", "stability=off"], {}).remarks == ()
    for words in (["stability=report"], ["zo_directions=2"], ["zo_panels=lockstep"]):
        assert f"{words[0]} cannot be had with method=mezo" in refusal("recipe=opt-13b-sst2", "method=mezo", *words)
    write(folder / "recipes/mine.yaml", "base: opt-13b-sst2-zoft\nmethod: mezo\n")
    left = load_config(["recipe=mine"], {}).remarks[0]
    assert all(f" {name}=" in left for name in ("zo_distribution", "perturbation", "stability", "guard"))
    write(folder / "recipes/mine.yaml", "base: opt-13b-sst2\nmethod: mezo\nguard: skip\n")
    assert refusal("recipe=mine").startswith("recipes/mine.yaml: guard=skip cannot be had with method=mezo")
