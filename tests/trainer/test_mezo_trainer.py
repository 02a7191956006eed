"""`method=mezo` is `zoft.mezo.MeZO` inside the trainer: its steps, its schedule, its checkpoints; nothing ignored."""

import pytest
import torch

from zoft.errors import UsageError
from zoft.mezo import MeZO
from zoft.trainer import MeZOTrainer, ZOConfig


def trained(model, arguments, rows, resume=None, **changes):
    trainer = MeZOTrainer(model, ZOConfig(**{**arguments, **changes}), train_dataset=rows)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def equal(one, other) -> bool:
    return all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_trainer_takes_mezos_steps(tiny_model, arguments, rows, dtype) -> None:
    """Against the optimizer alone on the same batches, which the trainer shows to its loss in order."""
    batches = []

    class Watched(MeZOTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            batches.append({name: value.clone() for name, value in inputs.items()})
            return super().compute_loss(model, inputs, *args, **kwargs)

    args = ZOConfig(**{**arguments, "lr_scheduler_type": "linear", "weight_decay": 0.1, "zo_eps": 1e-3})
    trainer = Watched(tiny_model(dtype), args, train_dataset=rows)
    trainer.train()
    model = tiny_model(dtype).train()
    mezo = MeZO(model, lr=1e-3, eps=1e-3, weight_decay=0.1, seed=args.seed)
    assert len(batches) == 12
    for step in range(6):
        mezo.param_groups[0]["lr"] = 1e-3 * (6 - step) / 6
        mezo.step(lambda batch=batches[2 * step]: model(**batch).loss)
    assert equal(trainer.model, model)
    assert trainer.zo is not None and trainer.zo.last == mezo.last
    assert trainer.state.log_history[0]["zo/projected_grad"] > 0
    assert all(weight.requires_grad and weight.grad is None for weight in trainer.model.parameters())


def test_resume_equals_an_uninterrupted_run(tiny_model, arguments, rows) -> None:
    changes = {"save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}
    whole = trained(tiny_model(), arguments, rows, **changes)
    resumed = trained(tiny_model(), arguments, rows, resume=f"{arguments['output_dir']}/checkpoint-2", **changes)
    assert resumed.zo.steps == 6 and equal(whole.model, resumed.model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zo_directions": 2}, "zo_directions=2 cannot be had with method=mezo"),
        ({"zo_rule": "momentum"}, "set zo_rule=sgd"),
        ({"weight_rounding": "residual8"}, "set weight_rounding=nearest"),
        ({"stability_probes": 2}, "leave stability_probes out"),
        ({"guard": "rewind"}, "guard=rewind"),
    ],
)
def test_settings_it_cannot_honour_are_refused(tiny_model, arguments, rows, changes, message) -> None:
    with pytest.raises(UsageError, match=message):
        MeZOTrainer(tiny_model(), ZOConfig(**{**arguments, **changes}), train_dataset=rows)
