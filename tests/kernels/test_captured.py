"""A captured step is the ordinary one, bit for bit, and needs the host for nothing."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from zoft.backends import Rounding
from zoft.captured import CapturedStep
from zoft.captured.watch import NoHost
from zoft.errors import UsageError
from zoft.estimate import Flag
from zoft.objectives.language_modelling import LanguageModelling
from zoft.optimizer import ZOOptimizer
from zoft.trajectory import attach
from zoft.trajectory.log import TrajectoryLog
from zoft.trajectory.replay import replay
from zoft_kernels import key_of

pytestmark = pytest.mark.gpu
RATES = (1e-3, 0.0, 2e-3)


class Tied(nn.Module):
    """A language model without attention, whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(60, 24), nn.LayerNorm(24)
        self.inner, self.head = nn.Linear(24, 24), nn.Linear(24, 60, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        return self.head(x + functional.gelu(self.inner(self.norm(x))))


def model_on(device: str, dtype: torch.dtype = torch.float32) -> Tied:
    torch.manual_seed(0)
    model = Tied()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.1)
    with torch.no_grad():
        model.inner.bias[:8] = -0.0  # a weight whose bits a move by nothing would change
    return model.to(device, dtype)


def batch_of(number: int, device: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(0, 60, (2, 6), generator=generator)
    return {"ids": ids.to(device), "scale": torch.tensor(1.0 + number, device=device)}


def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(batch["ids"]).float()
    return batch["scale"] * functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["ids"][:, 1:].flatten())


def optimizer_of(model: nn.Module, **settings) -> ZOOptimizer:
    return ZOOptimizer(model, lr=RATES[0], **{"seed": 7, "backend": "triton", "eps": 1e-3, **settings})


def captured_of(optimizer: ZOOptimizer, device: str) -> CapturedStep:
    return CapturedStep(optimizer, lambda batch: loss_of(optimizer.model, batch), batch_of(0, device))


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    def parts(model: nn.Module) -> list[torch.Tensor]:
        return [w.detach().contiguous().view(torch.uint8) for w in model.parameters()]

    return all(map(torch.equal, parts(one), parts(other)))


CASES = [
    (torch.float32, Rounding.NEAREST, 1, "rademacher"),
    (torch.float32, Rounding.NEAREST, 3, "rademacher"),
    (torch.float32, Rounding.NEAREST, 1, "gaussian"),
    (torch.float64, Rounding.NEAREST, 1, "rademacher"),
    (torch.bfloat16, Rounding.STOCHASTIC, 1, "rademacher"),
    (torch.bfloat16, Rounding.RESIDUAL16, 2, "gaussian"),
    (torch.float16, Rounding.STOCHASTIC, 1, "rademacher"),
]


@pytest.mark.parametrize(("dtype", "rounding", "q", "law"), CASES)
def test_equal_to_ordinary_steps(device, dtype, rounding, q, law) -> None:
    """Over steps with other batches and rates, against the kernels and the reference: weights, residual bits, records."""
    settings = {"directions": q, "distribution": law, "weight_rounding": rounding}
    names, found = ("captured", "reference", *(["triton"] if dtype is torch.bfloat16 else [])), {}
    for name in names:
        model = model_on(device, dtype)
        optimizer = optimizer_of(model, **settings, backend="reference" if name == "reference" else "triton")
        records: list = []
        optimizer.observers.append(records.append)
        captured = captured_of(optimizer, device) if name == "captured" else None
        for number, rate in enumerate(RATES):
            optimizer.param_groups[0]["lr"] = rate
            batch = batch_of(number, device)
            if captured is not None:
                captured(batch)
            else:
                optimizer.step(lambda model=model, batch=batch: loss_of(model, batch))
        optimizer.settle()
        found[name] = model, dict(optimizer.space.residuals()), records
    mine = found["captured"]
    assert len(mine[2]) == len(RATES) and not same_bits(mine[0], model_on(device, dtype))
    for name in names[1:]:
        model, residuals, records = found[name]
        assert records == mine[2], name
        assert same_bits(mine[0], model), name
        assert all(torch.equal(residuals[key], mine[1][key]) for key in residuals), name


def test_what_differs_between_steps_is_read_from_tensors(device) -> None:
    """The captured function, run with a seed, a step and a rate that it was not made with, is the ordinary step at those."""
    optimizer = optimizer_of(model_on(device))
    captured = captured_of(optimizer, device)
    captured._fill(batch_of(5, device))
    captured._given.copy_(torch.tensor([key_of(123456789, 2**32 - 1), 0, 1]))
    captured._given[1:2].view(torch.float64).copy_(torch.tensor([0.02], dtype=torch.float64))
    captured._repeat()

    other = ZOOptimizer(model_on(device), lr=0.02, seed=123456789, eps=1e-3, backend="reference")
    other.steps = 2**32 - 1
    other.step(lambda: loss_of(other.model, batch_of(5, device)))
    assert same_bits(optimizer.model, other.model) and not same_bits(optimizer.model, model_on(device))
    assert other.last is not None and captured._found[2].item() == other.last.estimate.coefficients[0]


def test_a_loss_that_is_no_number_moves_nothing(device) -> None:
    """Not even the sign of a zero; the next step goes on, and replay does the same."""
    optimizer = optimizer_of(model_on(device))
    captured = captured_of(optimizer, device)
    bad = {**batch_of(1, device), "scale": torch.tensor(math.inf, device=device)}
    captured(batch_of(0, device))
    captured.finish()
    before = copy.deepcopy(optimizer.model)
    captured(bad)
    captured.finish()
    assert same_bits(before, optimizer.model) and optimizer.skipped == 1
    assert optimizer.last is not None and optimizer.last.flags == Flag.NONFINITE
    captured(batch_of(2, device))
    captured.finish()
    assert optimizer.steps == 3 and optimizer.skipped == 1 and not same_bits(before, optimizer.model)


def test_replay_rebuilds_the_weights(device, tmp_path) -> None:
    base = model_on(device, torch.bfloat16)
    optimizer = optimizer_of(copy.deepcopy(base), weight_rounding="residual8")
    recorder = attach(optimizer, tmp_path / "trajectory.zoft")
    captured = captured_of(optimizer, device)
    for number in range(3):
        captured({**batch_of(number, device), **({"scale": torch.tensor(math.nan)} if number == 1 else {})})
    optimizer.settle()
    recorder.close()
    assert optimizer.steps == 3
    replayed = replay(base, TrajectoryLog.read(tmp_path / "trajectory.zoft"), backend="reference")
    assert replayed.steps == 3 and same_bits(base, optimizer.model)


def test_steps_are_told_one_behind(device) -> None:
    """At once to whoever reads weights; all of them before the state is read, or an ordinary step is taken."""
    optimizer = optimizer_of(model_on(device))
    captured, told = captured_of(optimizer, device), []
    late = told.append

    class Late:
        reads_weights = False

        def __call__(self, step) -> None:
            late(step.index)

    optimizer.observers.append(Late())
    captured(batch_of(0, device))
    assert told == [0]  # the first one is compared with an ordinary step
    assert captured(batch_of(1, device)) is not None and told == [0] and optimizer.space.torn
    captured(batch_of(2, device))
    assert told == [0, 1] and optimizer.steps == 2
    assert optimizer.state_dict()["zoft"]["steps"] == 3 and told == [0, 1, 2] and not optimizer.space.torn
    captured(batch_of(3, device))
    optimizer.step(lambda: loss_of(optimizer.model, batch_of(4, device)))
    assert told == [0, 1, 2, 3, 4]
    optimizer.observers.append(lambda step: told.append(-step.index))
    captured(batch_of(5, device))
    assert told[-2:] == [5, -5]

    ordinary = optimizer_of(model_on(device), backend="reference")
    for number in range(6):
        ordinary.step(lambda number=number: loss_of(ordinary.model, batch_of(number, device)))
    assert same_bits(ordinary.model, optimizer.model)


def losses_by_example(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(batch["ids"]).float()
    each = functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["ids"][:, 1:].flatten(), reduction="none")
    return each.view(2, -1).mean(dim=1)


def test_losses_of_examples_are_averaged(device) -> None:
    mine, theirs = optimizer_of(model_on(device)), optimizer_of(model_on(device), backend="reference")
    captured = CapturedStep(mine, lambda batch: losses_by_example(mine.model, batch), batch_of(0, device))
    for number in range(2):
        captured(batch_of(number, device))
        theirs.step(lambda number=number: losses_by_example(theirs.model, batch_of(number, device)))
    captured.finish()
    assert same_bits(mine.model, theirs.model) and mine.last == theirs.last


BAD = {
    "_local_scalar_dense": lambda loss: loss * (2.0 if loss > 0 else 1.0),
    "nonzero": lambda loss: loss * loss.view(1).nonzero().shape[0],
    "lift_fresh": lambda loss: loss * torch.tensor(2.0, device=loss.device),
    "index picks": lambda loss: loss.view(1)[loss.view(1) > 0].sum(),
    "_to_copy has tensors on two devices": lambda loss: loss * (1 + loss.to("meta").ndim),
    "masked_select": lambda loss: loss.view(1).masked_select(loss.view(1) > 0).sum(),
}


@pytest.mark.parametrize("operation", BAD)
def test_a_loss_that_needs_the_host_is_refused_by_name(device, operation) -> None:
    optimizer = optimizer_of(model_on(device))
    before = copy.deepcopy(optimizer.model)
    name = "_to_copy" if operation == "lift_fresh" and device == "cuda" else operation  # torch brings it there first
    with pytest.raises(UsageError, match=rf"{name}.* at test_captured.py:\d+"):
        CapturedStep(optimizer, lambda batch: BAD[operation](loss_of(optimizer.model, batch)), batch_of(0, device))
    assert same_bits(before, optimizer.model)


class Seen(TorchDispatchMode):
    """Operations that are really made."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("copy_to", [lambda x: x.to("meta"), lambda x: torch.empty_like(x, device="meta").copy_(x)])
def test_a_copy_to_another_device_is_refused_before_it_is_made(device, copy_to) -> None:
    """Made inside a capture, it would end the capture with CUDA's error, which names no line."""
    x = torch.ones(3, device=device)
    with Seen() as seen, pytest.raises(UsageError, match="has tensors on two devices"), NoHost():
        copy_to(x)
    assert not {"_to_copy", "copy_"} & set(seen.names)
    with NoHost():  # within the device
        torch.empty_like(x).copy_(x.to(device, torch.float64))


def test_other_losses_and_batches_are_refused(device) -> None:
    optimizer = optimizer_of(model_on(device))
    with pytest.raises(UsageError, match="draws random numbers"):
        noisy = lambda batch: loss_of(optimizer.model, batch) + torch.rand((), device=device)  # noqa: E731
        CapturedStep(optimizer, noisy, batch_of(0, device))
    with pytest.raises(UsageError, match="not float"):
        CapturedStep(optimizer, lambda batch: 0.5, batch_of(0, device))  # type: ignore[arg-type,return-value]
    with pytest.raises(UsageError, match="'rows' is a int"):
        CapturedStep(optimizer, lambda batch: 0.5, {"rows": 2})  # type: ignore[arg-type,dict-item,return-value]
    captured = captured_of(optimizer, device)
    with pytest.raises(UsageError, match="captured for a batch of"):
        captured({**batch_of(0, device), "ids": torch.zeros(2, 7, dtype=torch.long, device=device)})
    moved = next(optimizer.model.parameters())
    moved.data = moved.detach().clone()
    with pytest.raises(UsageError, match="somewhere else in memory"):
        captured(batch_of(0, device))


def test_a_step_that_differs_from_an_ordinary_one_is_found(device) -> None:
    optimizer = optimizer_of(model_on(device))
    captured = captured_of(optimizer, device)
    for sweep in captured._backend._sweeps.values():
        for _, rows in sweep:
            rows.zero_()  # of an update; so nothing is written
    with pytest.raises(UsageError, match=r"other bits in embedding\.weight"):
        captured(batch_of(1, device))
    optimizer.settle()
    assert optimizer.steps == 0 and optimizer.space.torn

    optimizer, calls = optimizer_of(model_on(device)), iter(range(100))
    changing = CapturedStep(
        optimizer, lambda batch: loss_of(optimizer.model, batch) * (1.0 + 0.01 * next(calls)), batch_of(0, device)
    )
    with pytest.raises(UsageError, match="rounding explains"):
        changing(batch_of(0, device))


REFUSED = {
    "perturbation=read_only": {"perturbation": "in_place", "eps": 2.0**-10},
    "two_point": {"estimator": "one_sided"},
    "sgd": {"rule": "momentum"},
    "weight_decay=0": {"weight_decay": 0.1},
    "zo_panels=jit": {"panels": "lockstep"},
    "rademacher or gaussian": {"distribution": "sphere"},
    "the triton backend": {"backend": "reference"},
}


@pytest.mark.parametrize("word", REFUSED)
def test_settings_that_decide_on_the_host_are_refused(device, word) -> None:
    with pytest.raises(UsageError, match=word):
        captured_of(optimizer_of(model_on(device), **REFUSED[word]), device)


@pytest.mark.parametrize(("family", "objective"), [("opt", False), ("llama", True)])
def test_a_transformer_can_be_captured(device, family, objective, monkeypatch) -> None:
    """Transformers asks whether a graph is being captured, and then reads no values: told so here, on a CPU."""
    transformers = pytest.importorskip("transformers")
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    if family == "opt":
        config = transformers.OPTConfig(**sizes, ffn_dim=32, word_embed_proj_dim=32, max_position_embeddings=16)
    else:
        config = transformers.LlamaConfig(**sizes, intermediate_size=32, max_position_embeddings=16)
    torch.manual_seed(0)
    start = transformers.AutoModelForCausalLM.from_config(config).to(device)
    ids = torch.randint(4, 40, (2, 8), generator=torch.Generator().manual_seed(1)).to(device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    def loss(model, given):
        return LanguageModelling().losses(model, given) if objective else model(**given, use_cache=False).loss

    mine, theirs = (optimizer_of(copy.deepcopy(start), backend=name) for name in ("triton", "reference"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captured = CapturedStep(mine, lambda given: loss(mine.model, given), batch)
        for _ in range(2):
            captured(batch)
            theirs.step(lambda: loss(theirs.model, batch))
    captured.finish()
    assert mine.last is not None and theirs.last is not None
    if device == "cpu":
        assert mine.last == theirs.last and same_bits(mine.model, theirs.model)
    assert mine.last.estimate.loss == pytest.approx(theirs.last.estimate.loss, rel=1e-4)
