"""What cannot go in lockstep is found, and says so, before a step is spent on it."""

from typing import Any

import pytest
import torch
from torch import nn

import zoft
from tests.streaming.conftest import decoder, least
from zoft.errors import UnsupportedModuleError, UsageError
from zoft.optimizer import ZOOptimizer
from zoft.trainer.settings import ZOSettings

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def lockstep(model: nn.Module, **settings: Any) -> ZOOptimizer:
    return ZOOptimizer(model, lr=0.1, panels="lockstep", **settings)


def refused(model: nn.Module, loss: Any, match: str, **settings: Any) -> None:
    """The loss raises, and nothing of it stays."""
    optimizer = lockstep(model, **settings)
    before = optimizer.space.fingerprint()
    with pytest.raises(UsageError, match=match):
        optimizer.accumulate(loss)
    assert optimizer.space.fingerprint() == before and not [m for m in model.modules() if "forward" in vars(m)]


def test_a_plain_closure() -> None:
    model = nn.Linear(4, 2)
    refused(model, lambda: model(X).square().mean(), r"a plain closure cannot give: pass zoft\.BatchLoss")


@pytest.mark.parametrize("reduced", [True, False])
def test_a_loss_that_is_no_loss_of_each_example(reduced) -> None:
    model = nn.Linear(4, 2)

    def losses(batch):
        values = model(batch["x"]).square()
        return values.mean() if reduced else values

    refused(model, zoft.BatchLoss(losses, {"x": X}), r"so they must come one for each example \[2 x B\]")


def test_a_loss_that_couples_rows() -> None:
    model = nn.Linear(4, 2)

    def contrast(batch):
        y = model(batch["x"])
        return torch.logsumexp(y @ y.t(), dim=1)

    refused(model, zoft.BatchLoss(contrast, {"x": X}), "couples the rows of a batch")


def test_a_loss_that_draws() -> None:
    model = nn.Linear(4, 2)
    loss = zoft.BatchLoss(lambda batch: model(batch["x"] + torch.randn_like(batch["x"])).square().mean(1), {"x": X})
    refused(model, loss, "the loss draws random numbers")


class TimeFirst(nn.Module):
    """Rows of the batch in the second dimension, as in older recurrent models."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


class RelativePlaces(nn.Module):
    """Attention's bias from a table that is asked for pairs of places, not for rows of a batch, as T5's."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.bias = nn.Linear(4, 2), nn.Embedding(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[1])
        return self.inner(x) + self.bias((places[:, None] - places[None, :]).abs()).mean(0)


@pytest.mark.parametrize("kind", [TimeFirst, RelativePlaces])
@pytest.mark.parametrize("length", [5, 12], ids=["odd", "as many as rows"])
def test_rows_that_are_not_in_front(kind, length) -> None:
    """Also where a dimension happens to be as long as the rows of all points (two of six)."""
    model = kind()
    x = torch.randn(6, length, 4, generator=torch.Generator().manual_seed(1))
    loss = zoft.BatchLoss(lambda batch: model(batch["x"]).square().mean((1, 2)), {"x": x})
    refused(model, loss, "cannot tell which rows are whose|no dimension of the batch in front|expanded size|match")


def test_t5() -> None:
    import transformers as hf

    torch.manual_seed(0)
    config = hf.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = hf.T5ForConditionalGeneration(config)
    ids = torch.randint(2, 40, (3, 7), generator=torch.Generator().manual_seed(1))

    def losses(batch):
        logits = model(input_ids=batch["input_ids"], labels=batch["labels"]).logits
        each = nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="none")
        return each.view(batch["labels"].shape).mean(1)

    refused(
        model, zoft.BatchLoss(losses, {"input_ids": ids, "labels": ids}), "relative_attention_bias.*use zo_panels=jit"
    )
    for name, weight in model.named_parameters():
        weight.requires_grad_("relative" not in name)
    assert lockstep(model).step(zoft.BatchLoss(losses, {"input_ids": ids, "labels": ids})) > 0


def test_a_weight_that_is_read_outside_its_module() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.inner.weight.t()

    model = Reads()
    loss = zoft.BatchLoss(lambda batch: model(batch["x"]).square().mean(1), {"x": X})
    refused(model, loss, "'inner.weight' is read by .* outside its module")


def test_a_module_with_others_inside() -> None:
    with pytest.raises(UsageError, match="'in_proj_weight' belongs to MultiheadAttention, which has others"):
        lockstep(nn.MultiheadAttention(4, 2))


def test_a_module_without_a_tensor() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.randn(6, 4))

        def forward(self, n: int) -> torch.Tensor:
            return self.rows[:n]

    model = nn.ModuleList([Table(), nn.Linear(4, 2)])
    loss = zoft.BatchLoss(lambda batch: model[1](batch["x"] + model[0](1)).square().mean(1), {"x": X})
    refused(model, loss, "'0.rows' is called without a tensor")


def test_a_forward_of_somebody_s_own_is_not_hidden() -> None:
    model = nn.Linear(4, 2)
    model.forward = lambda x: 2 * nn.Linear.forward(model, x)  # type: ignore[method-assign]
    optimizer = lockstep(model)
    with pytest.raises(UnsupportedModuleError, match="a forward of its own making"):
        optimizer.accumulate(zoft.BatchLoss(lambda batch: model(batch["x"]).square().mean(1), {"x": X}))
    assert "forward" in vars(model)


def test_autocast_and_graphs() -> None:
    model = nn.Linear(4, 2)

    def cast(batch):
        with torch.autocast("cpu", torch.bfloat16):
            return model(batch["x"]).float().square().mean(1)

    def graph(batch):
        with torch.enable_grad():
            return model(batch["x"]).square().mean(1)

    refused(model, zoft.BatchLoss(cast, {"x": X}), "under autocast")
    refused(model, zoft.BatchLoss(graph, {"x": X}), "builds no graph")


def test_an_exception_half_way_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))

    def losses(batch):
        model(batch["x"])
        raise RuntimeError("out of memory")

    optimizer = lockstep(model)
    before = optimizer.space.fingerprint()
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(zoft.BatchLoss(losses, {"x": X}))
    assert optimizer.space.fingerprint() == before and optimizer.steps == 0
    assert not [m for m in model.modules() if "forward" in vars(m)]
    assert isinstance(model[1].weight, nn.Parameter)


def test_settings_that_do_not_go_together() -> None:
    for perturbation in ("in_place", "auto"):
        with pytest.raises(UsageError, match=f"take perturbation=read_only, not {perturbation}"):
            lockstep(nn.Linear(4, 2), perturbation=perturbation)
        with pytest.raises(UsageError, match=f"take perturbation=read_only, not {perturbation}"):
            ZOSettings(zo_panels="lockstep", perturbation=perturbation)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="zo_panels 'both' does not exist; there are: jit, lockstep"):
        ZOOptimizer(nn.Linear(4, 2), lr=0.1, panels="both")
    with pytest.raises(UsageError, match="zo_row_budget=8 is of zo_panels=lockstep"):
        ZOSettings(zo_row_budget=8)
    with pytest.raises(UsageError, match="zo_row_budget must be at least 1"):
        ZOSettings(zo_panels="lockstep", zo_row_budget=0)


def test_a_streamed_model() -> None:
    model = decoder()
    zoft.stream(model, least(model))
    with pytest.raises(UsageError, match="a sharded or streamed model come and go"):
        lockstep(model)
