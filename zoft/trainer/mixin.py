"""Zeroth-order training inside `transformers.Trainer`, through its public hooks; the training loop stays Trainer's own."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoft.distributed import name_the_lost
from zoft.errors import UsageError
from zoft.lockstep import BatchLoss
from zoft.optimizer import ZOOptimizer
from zoft.shards import is_sharded
from zoft.spread import Spread
from zoft.stability import Steering, govern
from zoft.trainer.apart import check_apart
from zoft.trainer.best import follow_best, mark_best
from zoft.trainer.holding import losses_follow, step_follows
from zoft.trainer.light import LightCheckpoints
from zoft.trainer.placement import check_placement, check_sharded
from zoft.trainer.recording import LOG_NAME, RecordTrajectory
from zoft.trainer.refused import check_launch, check_training_settings, last_checkpoint
from zoft.trainer.replicas import by_shards, check_same_run, watch
from zoft.trainer.restart import check_restarts, newest_of_this_run, restarted
from zoft.trainer.stateless import go_on

if TYPE_CHECKING:
    from zoft.trainer.rewinding import Rewinding


class ZOMixin(LightCheckpoints):
    """Put before a Trainer class: `class MyTrainer(ZOMixin, SFTTrainer)`. `ZOTrainer` and `ZOCallback` are made of it.

    `training_step` takes the losses of one micro-batch with forward passes alone; the update happens where Trainer calls
    `optimizer.step()`. Parameters are frozen while `train` runs, so that no graph is built and nothing waits for gradients.
    """

    zo_best_step: int | None = None  # Trainer's step at which the weights stand that load_best_model_at_end loaded
    zo_skipped_steps = 0  # of the last `train`, also behind that step
    _rewinding: Rewinding | None = None
    _resumed: str | None = None  # the checkpoint from which this call of `train` goes on

    def check_zo(self) -> None:
        """Refuse what cannot work, before anything runs.

        Raises:
            UsageError: fp16 mixed precision, DeepSpeed and others; several GPUs in one process; zo_panels=lockstep without an
                objective that keeps examples apart.
        """
        check_training_settings(vars(self.args))
        self.check_light()
        check_launch(os.environ)
        check_placement(self)
        if self.zo_settings.zo_panels == "lockstep":
            check_apart(self)
        if self.model is not None and any(is_sharded(weight) for weight in self.model.parameters()):
            check_sharded(self.model, self.args, self.zo_settings)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The zeroth-order optimizer over whatever is trainable now; from here to the end of `train` all is frozen."""
        if self.optimizer is None:
            trained: Any = self.model if model is None else model
            self._new_optimizer(trained)
            self.optimizer = self.zo
        if self.zo is None or self.optimizer is None:
            raise UsageError("zoft makes its own optimizer; pass no `optimizers` to a zeroth-order trainer")
        go_on(self.zo, self._resumed)
        for weight in self.zo.param_groups[0]["params"]:
            weight.requires_grad_(False)
        if self.args.world_size > 1:
            self._compare_ranks()
        return self.optimizer

    def _new_optimizer(self, model: nn.Module) -> None:
        """Make `zo`, and whoever watches it."""
        settings = self.zo_settings
        self.zo = ZOOptimizer(
            model,
            lr=self.args.learning_rate,
            seed=self._zo_seed,
            weight_decay=self.args.weight_decay,
            **settings.optimizer_settings,
        )
        self.zo.light = settings.zo_light_checkpoints
        self._watch(govern(self.zo, settings, batch_fraction=self._batch_fraction(), may_rewind=True))

    def _compare_ranks(self) -> None:
        assert self.zo is not None
        watch(self.zo, self.zo_settings.zo_check_every)

    @property
    def _zo_seed(self) -> int:
        """Of the directions."""
        return self.args.seed if self.zo_settings.zo_seed is None else self.zo_settings.zo_seed

    def _watch(self, steering: Steering | None) -> None:
        """The callbacks that go with a new optimizer; those of an earlier one (`model_init` makes models anew) go."""
        for earlier in (self._recording, self._rewinding):
            if earlier is not None:
                earlier.close()
                self.remove_callback(earlier)
        self._recording = self._rewinding = None
        assert self.zo is not None
        if self.zo_settings.zo_trajectory:
            self._recording = RecordTrajectory(self.zo, base=getattr(self.model, "name_or_path", ""))
            self._recording.checkpoint = self._resumed
            self.add_callback(self._recording)
        if steering is not None and self.zo_settings.guard == "rewind":
            from zoft.trainer.rewinding import Rewinding

            self._rewinding = Rewinding(self.zo, steering, self._recording)
            self.add_callback(self._rewinding)

    def _stop_watching(self) -> None:
        """At the end of `train`, also after an exception, of which Trainer tells its callbacks nothing."""
        try:
            if self._rewinding is not None:
                self._rewinding.close()
            if self.zo is not None:
                self.zo.discard()  # losses of a step that was not finished
        finally:
            if self._recording is not None:
                self._recording.close(failed=sys.exc_info()[0] is not None)

    def _batch_fraction(self) -> float:
        """Examples of one optimizer step / examples in the training set; 0 where the set's size is not known."""
        try:
            examples = len(self.train_dataset)  # type: ignore[arg-type]
        except TypeError:
            return 0.0
        shards = self._shards // self.get_tp_size()  # tensor parallel processes are given the same batch
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * shards
        return min(batch / examples, 1.0) if examples else 0.0

    @property
    def _groups(self) -> int:
        return self.zo_settings.zo_direction_groups

    @property
    def _shards(self) -> int:
        """Into how many parts a step's batch is divided."""
        return self.args.world_size // self._groups

    def get_train_dataloader(self) -> Any:
        """As `Trainer.get_train_dataloader`; with zo_direction_groups, several processes get the same batches."""
        return by_shards(super().get_train_dataloader(), Spread(self._groups))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`."""
        self.check_zo()
        check_restarts()
        check_same_run(self.args, self.zo_settings, self.train_dataset)
        if self.zo is not None:
            self.zo.discard()  # losses of an earlier call that ended half-way
        resumed = kwargs.pop("resume_from_checkpoint", args[0] if args else None)
        if resumed is True:
            resumed = last_checkpoint(self.args.output_dir)
        if restarted():
            resumed = newest_of_this_run(Path(self.args.output_dir or "")) or resumed
        if isinstance(resumed, os.PathLike):
            resumed = os.fspath(resumed)
        self._resumed = resumed if isinstance(resumed, str) else None
        if self._recording is not None:
            self._recording.checkpoint = self._resumed
        try:
            with name_the_lost(), self._without_gradients():
                result = super().train(resumed, *args[1:], **kwargs)
        finally:
            self._stop_watching()
        assert self.zo is not None
        self.zo_skipped_steps, self.zo_best_step = self.zo.skipped, None
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._follow_best(Path(self.state.best_model_checkpoint))
        return result

    def _follow_best(self, checkpoint: Path) -> None:
        """Trainer has loaded the weights of `checkpoint`; all else goes there too."""
        assert self.zo is not None
        step = checkpoint.name.rpartition("-")[2]
        self.zo_best_step = int(step) if step.isdigit() else None
        follow_best(self.zo, checkpoint)
        if self._recording is not None and self.args.should_save:
            mark_best(checkpoint, Path(self.args.output_dir or "") / LOG_NAME)

    @contextmanager
    def _without_gradients(self) -> Iterator[None]:
        """No DistributedDataParallel wrapper (it refuses frozen models and reserves gradient memory)."""
        accelerator = self.accelerator
        prepare_model = accelerator.prepare_model
        accelerator.prepare_model = functools.partial(prepare_model, evaluation_mode=True)
        try:
            yield
        finally:
            accelerator.prepare_model = prepare_model
            if self.zo is not None:
                for weight in self.zo.param_groups[0]["params"]:
                    weight.requires_grad_(True)

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The losses of one micro-batch at w + eps z and w - eps z.

        Returns:
            Their mean, scaled as Trainer scales a micro-batch's loss.
        """
        assert self.zo is not None, "training_step runs after create_optimizer"
        model.train()
        inputs = self._prepare_inputs(inputs)
        scaled = self.loss_is_scaled_for_ga
        if scaled is None:
            scaled = (
                self.model_accepts_loss_kwargs and num_items_in_batch is not None
            ) or self.compute_loss_func is not None
        per_rank = 1 if scaled else self.current_gradient_accumulation_steps
        divisor = per_rank * self._shards
        if scaled and num_items_in_batch is not None and self.args.average_tokens_across_devices:
            divisor = self.get_tp_size()  # whose processes all have the same loss
            num_items_in_batch = (
                num_items_in_batch // self._groups
            )  # Trainer counts a batch once for each of its processes

        def losses(given: dict[str, Any]) -> torch.Tensor:
            # Inputs are copied: compute_loss may take labels out of them. A loss divided by the tokens of all ranks is summed
            # over the ranks as it stands; Trainer's detour (times the number of ranks, then their mean) would round it.
            with self.compute_loss_context_manager(), _without_rank_factor(self.args):
                return self.zo_losses(model, given, num_items_in_batch)

        loss = BatchLoss(losses, inputs)
        hold = step_follows(self, ZOMixin.training_step)
        self.zo.ahead = hold and losses_follow(self, ZOMixin.log)
        value = self.zo.accumulate(loss, divisor, hold=hold)
        if loss.more:
            self.forwards += loss.more  # an ObjectiveTrainer's: `zo_losses` counted the batch once
        return torch.tensor(value * self._shards / divisor, device=self.args.device)

    def zo_losses(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """The micro-batch's loss, or where they are known the losses of its examples [B]: half-batch slopes for free."""
        return self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)  # type: ignore[return-value]

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.evaluation_loop`, at the weights."""
        if isinstance(self.zo, ZOOptimizer):  # MeZO's has its weights in place between steps
            self.zo.settle()
        return super().evaluation_loop(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As `Trainer.log`, with what the last step measured beside the loss, and the learning rate it really used."""
        if self.zo is not None and self.zo.last is not None and "loss" in logs:
            logs = {**logs, **self.zo_metrics()}
            logs.pop("grad_norm", None)  # there is none; Trainer would report 0
        super().log(logs, *args, **kwargs)

    def zo_metrics(self) -> dict[str, float]:
        """What the last step adds to the log."""
        assert self.zo is not None and self.zo.last is not None
        step = self.zo.last
        root_sum_square = sum(c * c for c in step.estimate.coefficients) ** 0.5
        return {
            "learning_rate": step.lr,
            "zo/projected_grad": root_sum_square,
            "zo/skipped_steps": float(self.zo.skipped),
            **(self.zo.governor.metrics() if self.zo.governor is not None else {}),
        }

    def floating_point_ops(self, inputs: dict[str, torch.Tensor | Any]) -> int:
        """2 N per token and each forward that the estimator asks for; Trainer counts 6 N for forward and backward."""
        forwards = 2 if self.zo is None else self.zo.forwards
        return super().floating_point_ops(inputs) * 2 * forwards // 6


@contextmanager
def _without_rank_factor(args: Any) -> Iterator[None]:
    averaged, args.average_tokens_across_devices = args.average_tokens_across_devices, False
    try:
        yield
    finally:
        args.average_tokens_across_devices = averaged
