"""ZOTrainer and ZOCallback behave as a Trainer does, without a gradient anywhere."""

import math

import pytest
import torch
from torch import nn

from zoft.config import load_config
from zoft.errors import UsageError
from zoft.objectives import LanguageModelling
from zoft.optimizer import ZOOptimizer
from zoft.trainer import ZOCallback, ZOConfig, ZOTrainer
from zoft.trajectory import TrajectoryLog


def trained(model, arguments, rows, **changes):
    trainer = ZOTrainer(model, ZOConfig(**{**arguments, **changes}), train_dataset=rows, eval_dataset=rows[:8])
    trainer.train()
    return trainer


def test_training_lowers_the_loss_and_logs_it(tiny_model, arguments, rows) -> None:
    trainer = trained(tiny_model(), arguments, rows[:4], max_steps=150, logging_steps=10)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.1
    entry = trainer.state.log_history[0]
    assert entry["learning_rate"] == 1e-3 and entry["zo/skipped_steps"] == 0 and entry["zo/projected_grad"] > 0
    assert "grad_norm" not in entry


def test_no_graph_is_ever_built(tiny_model, arguments, rows) -> None:
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        trainer = trained(tiny_model(), arguments, rows)
    assert not saved
    assert all(p.grad is None and p.requires_grad for p in trainer.model.parameters())


def test_one_callback_makes_a_stock_trainer_train_the_same_way(tiny_model, arguments, rows) -> None:
    from transformers import Trainer, TrainingArguments

    changes = {"gradient_accumulation_steps": 2, "weight_decay": 0.1, "lr_scheduler_type": "cosine"}
    expected = trained(tiny_model(), arguments, rows, **changes)
    stock = Trainer(
        tiny_model(), TrainingArguments(**{**arguments, **changes}), train_dataset=rows, callbacks=[ZOCallback()]
    )
    stock.train()
    assert stock.zo.space.fingerprint() == expected.zo.space.fingerprint()
    attached = Trainer(tiny_model(), TrainingArguments(**{**arguments, **changes}), train_dataset=rows)
    ZOCallback().attach(attached).train()
    assert attached.zo.space.fingerprint() == expected.zo.space.fingerprint()


def test_one_callback_serves_two_trainers(tiny_model, arguments, rows) -> None:
    from transformers import Trainer, TrainingArguments

    callback = ZOCallback()
    for _ in range(2):
        trainer = Trainer(tiny_model(), TrainingArguments(**arguments), train_dataset=rows, callbacks=[callback])
        trainer.train()
        assert trainer.zo.steps == 6


def test_plain_training_arguments_are_refused(tiny_model, arguments) -> None:
    from transformers import TrainingArguments

    with pytest.raises(UsageError, match="takes a ZOConfig, but TrainingArguments was given"):
        ZOTrainer(tiny_model(), TrainingArguments(**arguments))


def test_a_checkpoint_without_optimizer_state_repeats_no_direction(tiny_model, arguments, rows, caplog) -> None:
    changes = {"save_strategy": "steps", "save_steps": 2, "save_only_model": True}
    trained(tiny_model(), arguments, rows, **changes)
    resumed = ZOTrainer(tiny_model(), ZOConfig(**{**arguments, **changes}), train_dataset=rows)
    resumed.train(resume_from_checkpoint=f"{arguments['output_dir']}/checkpoint-2")
    assert resumed.zo.last.estimate.directions[0].step == 5 and "go on from step 2" in caplog.text


def test_a_callback_added_too_late_fails_loudly(tiny_model, arguments, rows) -> None:
    from transformers import Trainer, TrainingArguments

    trainer = Trainer(tiny_model(), TrainingArguments(**arguments), train_dataset=rows)
    trainer.add_callback(ZOCallback())
    with pytest.raises(UsageError, match="after the trainer was built"):
        trainer.train()


def test_callback_inside_trl(tiny_model, arguments, tmp_path) -> None:
    """SFTTrainer wraps compute_loss and training_step; the callback trains it, and its evaluation keeps its names."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", *"abcdefghijklmnopqrstuvwxyz"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
    data = Dataset.from_list([{"text": " ".join("abcdefgh"[i % 3 :])} for i in range(16)])
    keep = {k: v for k, v in arguments.items() if k != "save_strategy"}
    config = trl.SFTConfig(**{**keep, "max_steps": 4, "bf16": False, "max_length": 16})
    with pytest.warns(UserWarning, match="_checkpointing is switched off"):
        trainer = trl.SFTTrainer(
            tiny_model(), config, train_dataset=data, processing_class=tokenizer, callbacks=[ZOCallback()]
        )
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.zo.steps == 4 and trainer.zo.skipped == 0
    assert any(not torch.equal(weight, before[name]) for name, weight in trainer.model.named_parameters())
    assert any("loss" in entry and "zo/projected_grad" in entry for entry in trainer.state.log_history)


@pytest.mark.parametrize("perturbation", ["read_only", "in_place"])
def test_resume_equals_an_uninterrupted_run(tiny_model, arguments, rows, perturbation) -> None:
    changes = {"save_strategy": "steps", "save_steps": 2, "perturbation": perturbation, "weight_decay": 0.01}
    whole = trained(tiny_model(), arguments, rows, **changes)
    resumed = ZOTrainer(tiny_model(), ZOConfig(**{**arguments, **changes}), train_dataset=rows)
    resumed.train(resume_from_checkpoint=f"{arguments['output_dir']}/checkpoint-2")
    assert resumed.zo.steps == whole.zo.steps == 6
    assert resumed.zo.space.fingerprint() == whole.zo.space.fingerprint()


def test_in_place_no_callback_and_no_override_ever_sees_a_displaced_weight(tiny_model, arguments, rows) -> None:
    from transformers import TrainerCallback

    seen: dict[str, list[str]] = {}

    def look(name: str):
        def read(self, args, state, control, **kwargs):
            seen.setdefault(name, []).append(trainer.zo.space.fingerprint())

        return read

    ends = ["on_step_begin", "on_substep_end", "on_optimizer_step", "on_step_end"]
    changes = {"perturbation": "in_place", "zo_eps": 2.0**-10, "max_steps": 3, "gradient_accumulation_steps": 2}
    changes |= {"stability": "off", "guard": "off"}  # losses that the monitor asks for would be taken at the weights
    prints, sweeps = [], []
    for before in ([], ["on_pre_optimizer_step"]):
        seen.clear()
        watcher = type("Watcher", (TrainerCallback,), {name: look(name) for name in [*ends, *before]})()
        config = ZOConfig(**{**arguments, **changes})
        trainer = ZOTrainer(tiny_model(), config, train_dataset=rows, callbacks=[watcher])
        trainer.create_optimizer()
        move_, moves_ = trainer.zo.space.move_, []
        trainer.zo.space.move_ = lambda moves, keep=moves_, do=move_: keep.append(len(moves)) or do(moves)
        trainer.train()
        assert seen["on_optimizer_step"] == seen["on_step_end"]
        assert seen["on_step_begin"][1:] == seen["on_step_end"][:-1]
        prints.append(trainer.zo.space.fingerprint())
        sweeps.append(moves_)
        assert prints[-1] == seen["on_step_end"][-1]
    assert prints[0] == prints[1]
    assert seen["on_substep_end"] == seen["on_pre_optimizer_step"]  # two cycles on one grid: both end at the weights
    assert sweeps[0] == 3 * [1, 1, 1, 1, 1, 2] and sweeps[1] == 3 * [1] * 7


def test_in_place_takes_two_passes_a_step_where_nothing_reads_a_weight(tiny_model, arguments, rows, tmp_path) -> None:
    """Steps 2 and 4 are followed by a checkpoint or an evaluation, step 6 by the end; a callback in between makes it three."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            prints.append(trainer.zo.space.fingerprint())

    changes = {"perturbation": "in_place", "save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps"}
    changes |= {"eval_steps": 2, "logging_steps": 1, "stability": "off", "guard": "off"}
    prints, ends, sweeps = [], [], []
    for name, watchers in (("two", []), ("three", [Watcher()])):
        config = ZOConfig(**{**arguments, **changes, "output_dir": str(tmp_path / name)})
        trainer = ZOTrainer(tiny_model(), config, train_dataset=rows, eval_dataset=rows, callbacks=watchers)
        trainer.create_optimizer()
        move_, moves_ = trainer.zo.space.move_, []
        trainer.zo.space.move_ = lambda moves, keep=moves_, do=move_: keep.append(len(moves)) or do(moves)
        trainer.train()
        log = TrajectoryLog.read(tmp_path / name / "trajectory.zoft")
        assert [step.evaluations for step in log.steps] == [1] * 6
        ends.append(
            (trainer.zo.space.fingerprint(), [h["eval_loss"] for h in trainer.state.log_history if "eval_loss" in h])
        )
        sweeps.append(moves_)
    assert ends[0] == ends[1] and prints
    assert sweeps[1] == 6 * [1, 1, 2]
    assert [len([n for n in sweeps[0] if n == many]) for many in (1, 2, 3)] == [9, 3, 3]
    resumed = ZOTrainer(tiny_model(), config, train_dataset=rows, eval_dataset=rows)
    resumed.train(resume_from_checkpoint=tmp_path / "two" / "checkpoint-4")
    assert resumed.zo.space.fingerprint() == ends[0][0]


def test_resume_is_exact_when_the_loss_draws_random_numbers(tiny_model, arguments, rows) -> None:
    class Noisy(ZOTrainer):
        drawn = ()

        def compute_loss(self, *args, **kwargs):
            self.drawn = (*self.drawn, torch.rand(()).item())
            return super().compute_loss(*args, **kwargs) * (1.0 + self.drawn[-1])

    changes = {"save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}
    whole, resumed = (Noisy(tiny_model(), ZOConfig(**{**arguments, **changes}), train_dataset=rows) for _ in range(2))
    whole.train()
    resumed.train(resume_from_checkpoint=f"{arguments['output_dir']}/checkpoint-2")
    assert len(set(whole.drawn)) == 12 and set(resumed.drawn) == set(whole.drawn[-len(resumed.drawn) :])
    assert resumed.zo.space.fingerprint() == whole.zo.space.fingerprint()


def test_resuming_with_another_seed_is_refused(tiny_model, arguments, rows) -> None:
    changes = {"save_strategy": "steps", "save_steps": 2}
    trained(tiny_model(), arguments, rows, **changes)
    other = ZOTrainer(tiny_model(), ZOConfig(**{**arguments, **changes, "zo_seed": 9}), train_dataset=rows)
    with pytest.raises(UsageError, match="seed 42, this run has 9"):
        other.train(resume_from_checkpoint=f"{arguments['output_dir']}/checkpoint-2")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_saved_model_loads_and_generates(tiny_model, arguments, rows, dtype, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    trainer = trained(tiny_model(dtype), arguments, rows)
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="auto")
    for (name, mine), (_, theirs) in zip(trainer.model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    assert loaded.generate(rows[0]["input_ids"][None, :4], max_new_tokens=3, do_sample=False).shape == (1, 7)


def test_lora_trains_the_adapter_alone(tiny_model, arguments, rows, tmp_path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = trained(model, arguments, rows)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == ("lora_" not in name), name
        assert weight.requires_grad == ("lora_" in name)
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter")
    inputs = rows[0]["input_ids"][None]
    model.eval(), loaded.eval()
    assert torch.equal(model(inputs).logits, loaded(inputs).logits)


def test_accumulation_is_one_direction_over_the_mean_loss(tiny_model, arguments, rows) -> None:
    accumulated = trained(tiny_model(), arguments, rows, gradient_accumulation_steps=4, per_device_train_batch_size=4)
    whole = trained(tiny_model(), arguments, rows, per_device_train_batch_size=16)
    for (name, one), (_, other) in zip(
        accumulated.model.named_parameters(), whole.model.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5, msg=name)


def test_weight_decay_spares_norms_and_biases(tiny_model) -> None:
    model = tiny_model()
    decaying = {slot.name for slot in ZOOptimizer(model, lr=0.0).space.slots if slot.decays}
    assert "model.decoder.layers.0.fc1.weight" in decaying and "model.decoder.embed_tokens.weight" in decaying
    assert not any("bias" in name or "norm" in name for name in decaying)


def test_weight_decay_is_decoupled() -> None:
    model = nn.Linear(3, 2)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    optimizer = ZOOptimizer(model, lr=0.5, weight_decay=0.1)
    optimizer.step(lambda: 1.0)  # a constant loss: no slope, only decay
    assert torch.equal(model.weight, weight * torch.tensor(0.95)) and torch.equal(model.bias, bias)


def test_losses_of_both_infinite_signs_are_skipped() -> None:
    optimizer = ZOOptimizer(nn.Linear(2, 2), lr=1.0)
    losses = iter([math.inf, -math.inf])
    optimizer.step(lambda: next(losses))
    assert optimizer.skipped == 1


def test_micro_batches_are_averaged() -> None:
    optimizer = ZOOptimizer(nn.Linear(2, 2), lr=0.0)
    for loss in (1.0, 3.0):
        optimizer.accumulate(lambda value=loss: value)
    assert optimizer.step() == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_with_a_non_finite_loss_moves_nothing(tiny_model, arguments, rows, bad) -> None:
    class Sometimes(ZOTrainer):
        def compute_loss(self, *args, **kwargs):
            return super().compute_loss(*args, **kwargs) * (bad if self.state.global_step == 2 else 1.0)

    trainer = Sometimes(tiny_model(), ZOConfig(**arguments), train_dataset=rows)
    prints = []
    trainer.create_optimizer()
    trainer.zo.observers.append(lambda step: prints.append((step.flags.skipped, trainer.zo.space.fingerprint())))
    trainer.train()
    assert [skipped for skipped, _ in prints] == [False, False, True, False, False, False]
    assert prints[2][1] == prints[1][1] != prints[3][1]
    assert trainer.state.log_history[1]["zo/skipped_steps"] == 1


def test_dropout_is_off_while_losses_are_taken_and_the_root_keeps_its_flag(tiny_model) -> None:
    model = tiny_model().train()
    inside, outside = [], []
    model.model.decoder.layers[0].register_forward_pre_hook(lambda module, _: inside.append(module.training))
    ids = torch.arange(8)[None]
    optimizer = ZOOptimizer(model, lr=0.0)
    state = torch.random.get_rng_state()

    def loss():
        outside.append(model.training)
        return model(ids, labels=ids).loss

    first = optimizer.step(loss)
    optimizer.steps = 0
    assert optimizer.step(loss) == first  # dropout 0.1 would differ
    assert not any(inside) and all(outside) and all(module.training for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_seed_directions_and_flops(tiny_model, arguments, rows) -> None:
    one = trained(tiny_model(), arguments, rows, max_steps=1, zo_directions=3, logging_steps=1)
    assert len(one.zo.last.estimate.coefficients) == 3
    single = trained(tiny_model(), arguments, rows, max_steps=1)
    assert one.state.total_flos == 3 * single.state.total_flos
    for name, forwards in (("one_sided", 4), ("conservative", 7), ("fzoo", 4)):
        other = trained(tiny_model(), arguments, rows, max_steps=1, zo_directions=3, zo_estimator=name)
        assert 2 * other.state.total_flos == forwards * single.state.total_flos
    inputs = {"input_ids": rows[0]["input_ids"][None]}
    assert single.floating_point_ops(inputs) == 4 * 12 * single.model.num_parameters(exclude_embeddings=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fp16": True}, "fp16"),
        ({"zo_eps": -1.0}, "zo_eps"),
        ({"zo_directions": 0}, "zo_directions"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing"),
        ({"deepspeed": "ds.json"}, "DeepSpeed"),
        ({"per_device_train_batch_size": 0}, "at least 1"),
        ({"learning_rate": math.nan}, "number >= 0"),
        ({"resume_from_checkpoint": "/nowhere"}, "does not exist"),
        ({"optim": "sgd"}, "optim=sgd: the update is zo_rule's"),
        ({"optim_args": "a=1"}, "optim_args=a=1"),
        ({"adam_beta1": 0.5}, "set zo_momentum"),
        ({"max_grad_norm": 0.3}, "no gradient to clip"),
        ({"torch_empty_cache_steps": 5}, "torch_empty_cache_steps=5"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments, changes, message) -> None:
    with pytest.raises(UsageError, match=message):
        ZOConfig(**{**arguments, **changes})


def test_columns_that_the_model_does_not_take_are_left_out_as_trainer_does(tiny_model, arguments, rows) -> None:
    """Without an objective; with one the columns are its own."""
    from datasets import Dataset

    data = Dataset.from_list([{**{k: v.tolist() for k, v in row.items()}, "text": "so it was"} for row in rows])
    trainer = ZOTrainer(tiny_model(), ZOConfig(**arguments), train_dataset=data)
    trainer.train()
    plain = trained(tiny_model(), arguments, rows)
    assert trainer.zo.steps == 6 and trainer.zo.space.fingerprint() == plain.zo.space.fingerprint()
    args = ZOConfig(**arguments)  # which one trainer after another may be given
    without = ZOTrainer(tiny_model(), args, train_dataset=data)
    with_objective = ZOTrainer(tiny_model(), args, train_dataset=data, objective=LanguageModelling())
    assert without.args.remove_unused_columns is True and with_objective.args.remove_unused_columns is False

    class Own(ZOTrainer):
        def compute_loss(self, model, inputs, *given, **named):
            return super().compute_loss(model, inputs, *given, **named)

    assert Own(tiny_model(), args, train_dataset=data).args.remove_unused_columns is False


def test_a_run_that_would_only_measure_is_refused(arguments) -> None:
    with pytest.raises(UsageError, match="max_steps=20 ends the run with them"):
        ZOConfig(**{**arguments, "learning_rate": "auto", "max_steps": 20})
    ZOConfig(**{**arguments, "learning_rate": "auto", "max_steps": 20, "stability_auto_steps": 8})
    with pytest.raises(UsageError, match="max_steps=6 ends the run with them"):
        load_config(["recipe=quickstart", "learning_rate=auto", "max_steps=6"])


def test_labels_are_not_smoothed_by_an_objective(tiny_model, arguments, rows) -> None:
    args = ZOConfig(**arguments, label_smoothing_factor=0.1)
    with pytest.raises(UsageError, match="an objective computes its own loss"):
        ZOTrainer(tiny_model(), args, train_dataset=rows, objective=LanguageModelling())
    assert ZOTrainer(tiny_model(), args, train_dataset=rows).label_smoother is not None
    with pytest.raises(UsageError, match="a task's objective"):
        load_config(["recipe=quickstart", "label_smoothing_factor=0.1"])


def test_a_launcher_that_asks_for_deepspeed_is_refused(arguments, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UsageError, match="asks for DeepSpeed"):
        ZOConfig(**arguments)


def test_training_does_not_begin_from_a_folder_that_is_no_checkpoint(tiny_model, arguments, rows, tmp_path) -> None:
    trainer = ZOTrainer(tiny_model(), ZOConfig(**arguments), train_dataset=rows)
    (tmp_path / "photos").mkdir()
    for wrong in (str(tmp_path / "photos"), True):
        with pytest.raises(ValueError, match="checkpoint"):
            trainer.train(resume_from_checkpoint=wrong)
    assert trainer.zo is None or trainer.zo.steps == 0


def test_zo_config_has_every_zeroth_order_setting() -> None:
    from dataclasses import fields

    from zoft.trainer import ZOSettings

    mine = {f.name: f for f in fields(ZOConfig)}
    for setting in fields(ZOSettings):
        assert mine[setting.name].default == setting.default, setting.name
        assert mine[setting.name].metadata["help"]
