"""All points of a population as one batch: the losses that they have in turn, whatever the model, and the same weights."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zoft
from tests.streaming.conftest import decoder
from zoft.directions import LowRank
from zoft.errors import UsageError
from zoft.governor import Decision, Request
from zoft.lockstep.perturbation import Lockstep, shares
from zoft.objectives import CandidateLikelihood, LanguageModelling
from zoft.objectives.repeated import repeated
from zoft.optimizer import ZOOptimizer
from zoft.tasks.collate import Collator
from zoft.tasks.encoded import Encoded, EncodedDataset, TokenRow

spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parents[1] / "objectives" / "conftest.py")
assert spec is not None and spec.loader is not None
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

FAMILIES = [
    *((name, "CausalLM") for name in tiny.CAUSAL),
    *((name, "MaskedLM") for name in tiny.MASKED),
    *((name, "SequenceClassification") for name in tiny.MASKED),
]
DENSE = {"eps": 2.0**-8}
GAUSSIAN = {"eps": 2.0**-8, "distribution": "gaussian", "directions": 4}
THIN = {"eps": 2.0**-8, "form": LowRank("low_rank", 2), "directions": 4}
ROUNDING = 1e-6  # relative, of a float32 loss


def cases(kind):
    """(examples, objective) of the kinds that such a model answers."""
    if kind == "CausalLM":
        longer, one = tiny.longer_answers(), tiny.one_token_answers()
        return [(longer, CandidateLikelihood()), (longer, LanguageModelling()), (one, CandidateLikelihood())]
    masked = kind == "MaskedLM"
    items = tuple(
        Encoded(
            (TokenRow(tiny.sentence(length, length), ()),), gold=number % 2, row=number, index=number,
            choices=(7, 30) if masked else (0, 1), read_at=length // 2 if masked else -1,
        )
        for number, length in enumerate((5, 19, 11, 8))
    )  # fmt: skip
    return [(EncodedDataset(items, "masked" if masked else "classifier"), CandidateLikelihood())]


def batch_of(dataset):
    return Collator(0, dataset.max_candidates, architecture=dataset.architecture)(dataset.items)


def losses(optimizer: ZOOptimizer, loss: Any) -> list[tuple[float, float, float]]:
    """Of all points of the step to come."""
    optimizer.accumulate(loss)
    part = optimizer._parts[-1]
    return [*part.losses, *((value,) * 3 for value in part.asked)]


def both_ways(model: nn.Module, loss: Any, **settings: Any) -> tuple[list, list]:
    """The losses in turn and in lockstep; neither leaves a trace in the model."""
    found = []
    for panels in ("jit", "lockstep"):
        optimizer = ZOOptimizer(model, lr=1e-3, panels=panels, **settings)
        before = optimizer.space.fingerprint()
        found.append(losses(optimizer, loss))
        assert optimizer.space.fingerprint() == before
    assert not [m for m in model.modules() if "forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks]
    return found[0], found[1]


def assert_alike(one, other, tolerance=ROUNDING) -> None:
    assert len(one) == len(other) > 1
    for mine, theirs in zip(one, other, strict=True):
        assert theirs == pytest.approx(mine, rel=tolerance, abs=tolerance, nan_ok=True)


@pytest.mark.parametrize("settings", [DENSE, GAUSSIAN, THIN], ids=["signs", "four normals", "four thin"])
@pytest.mark.parametrize(("name", "kind"), FAMILIES, ids=["-".join(family) for family in FAMILIES])
def test_losses_of_every_family_are_those_in_turn(name, kind, settings) -> None:
    model = tiny.build(name, kind)
    for dataset, objective in cases(kind):
        loss = zoft.BatchLoss(lambda b, aim=objective: aim.losses(model, b), batch_of(dataset))
        jit, lockstep = both_ways(model, loss, **settings)
        assert_alike(jit, lockstep)
        assert len({mean for mean, _, _ in lockstep}) == len(lockstep)  # each point is another one


@pytest.mark.parametrize("settings", [DENSE, THIN], ids=["signs", "thin"])
@pytest.mark.parametrize("name", ["opt", "llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_models_with_norms_in_float32(dtype, name, settings) -> None:
    """Copies have the same bits and products are rounded once both ways: the losses differ by the products' order alone."""
    model = tiny.build(name).to(dtype)
    loss = zoft.BatchLoss(lambda b: LanguageModelling().losses(model, b), batch_of(tiny.longer_answers()))
    assert_alike(*both_ways(model, loss, **settings), tolerance=2.0**-7)


@pytest.mark.parametrize(
    "settings",
    [
        {"estimator": "one_sided", "directions": 3},
        {"estimator": "fzoo", "directions": 4},
        {"estimator": "conservative", "directions": 2},
        {"estimator": "three_point", "directions": 2, "rule": "hizoo", "distribution": "gaussian"},
        {"distribution": "sphere", "directions": 2},
        {"form": LowRank("subspace", 4), "directions": 2},
        {"blocks": zoft.directions.Blocks(2, "cyclic"), "directions": 2},
        {"form": LowRank("low_rank", 2), "estimator": "one_sided", "blocks": zoft.directions.Blocks(2, "cyclic")},
    ],
    ids=lambda s: "-".join(map(str, s.values()))[:40],
)
def test_every_population_the_centre_included(settings) -> None:
    model = tiny.build("opt")
    loss = zoft.BatchLoss(lambda b: CandidateLikelihood().losses(model, b), batch_of(tiny.one_token_answers()))
    assert_alike(*both_ways(model, loss, eps=2.0**-8, **settings))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("settings", [DENSE, THIN], ids=["dense", "thin"])
def test_adapters(name, settings) -> None:
    import peft

    model = tiny.build(name)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False))
    loss = zoft.BatchLoss(lambda b: LanguageModelling().losses(model, b), batch_of(tiny.longer_answers()))
    assert_alike(*both_ways(model, loss, **settings))


def test_experts() -> None:
    """Which tokens an expert is given differs from member to member."""
    model = decoder("Qwen3Moe").eval()
    ids = torch.randint(4, 50, (4, 9), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    loss = zoft.BatchLoss(lambda b: LanguageModelling().losses(model, b), batch)
    assert_alike(*both_ways(model, loss, **GAUSSIAN))


@pytest.mark.parametrize("trained", ["bias", "weight", "norm", "lm_head"])
def test_parts_of_a_model(trained) -> None:
    """A moved bias beside a weight that stands still, and the other way round."""
    model = tiny.build("opt", tie_word_embeddings=False)
    for name, weight in model.named_parameters():
        weight.requires_grad_(trained in name)
    loss = zoft.BatchLoss(lambda b: CandidateLikelihood().losses(model, b), batch_of(tiny.one_token_answers()))
    assert_alike(*both_ways(model, loss, **DENSE))
    assert_alike(*both_ways(model, loss, **THIN))


def test_the_governors_points_go_with_the_others() -> None:
    class Asks:
        def request(self, step: int) -> Request:
            return Request(points=((), ((0, 2.0**-7),), ((0, -(2.0**-7)),)))

        def decide(self, evidence: Any) -> Decision:
            raise NotImplementedError

    model, found, calls = tiny.build("llama"), [], []
    loss = zoft.BatchLoss(
        lambda b: calls.append(len(b["gold"])) or LanguageModelling().losses(model, b), batch_of(tiny.longer_answers())
    )
    for panels in ("jit", "lockstep"):
        optimizer = ZOOptimizer(model, lr=1e-3, panels=panels, **DENSE)
        optimizer.governor = Asks()  # type: ignore[assignment]
        found.append(losses(optimizer, loss))
    assert_alike(*found)
    assert calls[5] == 5 * calls[0]  # two points of the step and three of the governor


def test_a_row_budget_lets_parts_of_a_population_take_turns() -> None:
    model = tiny.build("opt")
    batch, seen = batch_of(tiny.one_token_answers()), []
    loss = zoft.BatchLoss(lambda b: seen.append(len(b["input_ids"])) or CandidateLikelihood().losses(model, b), batch)
    settings = {"eps": 2.0**-8, "directions": 4}
    jit, _ = both_ways(model, loss, **settings)
    optimizer = ZOOptimizer(model, lr=1e-3, panels="lockstep", row_budget=19, **settings)
    losses(optimizer, loss)
    optimizer.discard()
    seen.clear()
    assert_alike(jit, losses(optimizer, loss))
    assert seen == [16, 16]  # four points of four rows each, twice
    assert shares(5, 4, 8) == [(0, 2), (2, 4), (4, 5)] and shares(2, 100, 8) == [(0, 1), (1, 2)]


@pytest.mark.parametrize("form", [None, LowRank("low_rank", 1)], ids=["dense", "thin"])
def test_a_weight_is_read_once_for_all_points(form) -> None:
    model = tiny.build("llama")
    loss = zoft.BatchLoss(lambda b: LanguageModelling().losses(model, b), batch_of(tiny.longer_answers()))
    optimizer = ZOOptimizer(model, lr=1e-3, panels="lockstep", directions=2, form=form)
    losses(optimizer, loss)
    asked: list[tuple[str, int]] = []
    backend = optimizer.space.backend
    pair, thin = backend.panel_pair, backend.thin_linear
    backend.panel_pair = lambda target, points, *rest: (  # type: ignore[method-assign]
        asked.append(("matrix" if target.weight.ndim > 1 else "vector", len(points))) or pair(target, points, *rest)
    )
    backend.thin_linear = lambda x, *rest: asked.append(("thin", len(x))) or thin(x, *rest)  # type: ignore[method-assign]
    losses(optimizer, loss)
    layers = sum(isinstance(module, nn.Linear) for module in model.modules())
    assert len(asked) == layers + 1  # a table of fewer rows than ids; norms are made in a sweep for each point
    assert asked.count(("thin" if form else "matrix", 4)) == layers + (not form)


@pytest.mark.parametrize("q", [1, 4])
def test_the_weights_are_bitwise_those_of_the_points_in_turn_given_the_same_losses(q) -> None:
    found = []
    for panels in ("jit", "lockstep"):
        model = tiny.build("opt").to(torch.bfloat16)
        optimizer = ZOOptimizer(model, lr=1e-3, eps=2.0**-8, directions=q, panels=panels, weight_rounding="stochastic")
        loss = zoft.BatchLoss(lambda b, m=model: LanguageModelling().losses(m, b), batch_of(tiny.longer_answers()))
        steps = []
        optimizer.observers.append(steps.append)
        for step in range(3):
            if panels == "jit":
                optimizer.step(loss)
            else:  # its own losses, and then what was spent after those in turn
                optimizer.accumulate(loss)
                optimizer.discard()
                optimizer.apply(found[0][1][step])
        found.append((optimizer.space.fingerprint(), steps))
    assert found[0][0] == found[1][0]


def test_micro_batches() -> None:
    """Two of four examples and one of eight: the same step."""
    dataset, moved = tiny.one_token_answers((5, 19, 11, 2, 7, 3, 9, 12)), []
    for parts in ([slice(0, 4), slice(4, 8)], [slice(0, 8)]):
        model = tiny.build("llama")
        optimizer = ZOOptimizer(model, lr=1e-2, eps=2.0**-8, directions=2, panels="lockstep")
        for part in parts:
            some = EncodedDataset(dataset.items[part], "causal")
            optimizer.accumulate(zoft.BatchLoss(lambda b, m=model: CandidateLikelihood().losses(m, b), batch_of(some)))
        optimizer.step()
        moved.append(optimizer.last.estimate)
    assert moved[0].coefficients == pytest.approx(moved[1].coefficients, rel=1e-3)
    assert moved[0].loss == pytest.approx(moved[1].loss, rel=ROUNDING)


class Blocks(nn.Module):
    """A random stack of what models are made of."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        from transformers.pytorch_utils import Conv1D

        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)

        def draw(n: int) -> int:
            return int(torch.randint(n, (), generator=generator))

        self.embed, self.places = nn.Embedding(30 + draw(200), 8), nn.Embedding(16, 8)
        kinds = [
            lambda: nn.Linear(8, 8, bias=True), lambda: nn.Linear(8, 8, bias=False), lambda: nn.LayerNorm(8),
            lambda: Conv1D(8, 8), lambda: nn.Conv1d(8, 8, 1), lambda: nn.RMSNorm(8),
        ]  # fmt: skip
        self.layers = nn.ModuleList(kinds[draw(len(kinds))]() for _ in range(1 + draw(5)))
        self.head = nn.Linear(8, self.embed.num_embeddings, bias=False)
        if draw(2):
            self.head.weight = self.embed.weight
        self.flat = bool(draw(2))
        self.q = 1 + draw(3)
        self.rows, self.length = 1 + draw(5), 1 + draw(9)
        ids = torch.randint(30, (self.rows, self.length), generator=generator)
        self.batch = {"input_ids": ids, "target": ids.roll(1, 1)}

    def losses(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """[B]"""
        ids = batch["input_ids"]
        x = self.embed(ids) + self.places(torch.arange(ids.shape[1]).unsqueeze(0))
        for layer in self.layers:
            if isinstance(layer, nn.Conv1d):
                x = torch.tanh(x + layer(x.transpose(1, 2)).transpose(1, 2))
            elif self.flat:
                x = torch.tanh(x + layer(x.reshape(-1, 8)).view(x.shape))
            else:
                x = torch.tanh(x + layer(x))
        logits = self.head(x).float()
        each = nn.functional.cross_entropy(logits.flatten(0, 1), batch["target"].flatten(), reduction="none")
        return each.view(len(ids), -1).mean(dim=1)


@pytest.mark.parametrize("seed", range(20))
def test_random_models(seed) -> None:
    model = Blocks(seed)
    form = LowRank("low_rank", 2) if seed % 3 == 0 else None
    law = "gaussian" if seed % 2 else "rademacher"
    loss = zoft.BatchLoss(model.losses, model.batch)
    assert_alike(*both_ways(model, loss, eps=2.0**-6, directions=model.q, form=form, distribution=law))


def test_the_first_population_is_compared_and_no_later_one(caplog) -> None:
    model, calls = Blocks(1), []
    optimizer = ZOOptimizer(model, lr=1e-3, panels="lockstep", directions=3)
    loss = zoft.BatchLoss(lambda b: calls.append(len(b["target"])) or model.losses(b), model.batch)
    with caplog.at_level(logging.INFO, logger="zoft.lockstep.perturbation"):
        for _ in range(3):
            optimizer.step(loss)
    rows = model.rows
    assert calls == [6 * rows, *[rows] * 4, 6 * rows, 6 * rows]
    assert "4 of 6 points are those in turn" in caplog.text and caplog.text.count("in turn") == 1
    assert isinstance(optimizer.perturbation, Lockstep) and loss.more == 3 * 5


def test_a_batch_below_itself() -> None:
    batch = batch_of(tiny.longer_answers())
    three = repeated(batch, 3)
    rows, examples = len(batch["input_ids"]), len(batch["gold"])
    assert torch.equal(three["outputs"], batch["outputs"])
    for member in range(3):
        own = slice(member * examples, (member + 1) * examples)
        assert torch.equal(three["input_ids"][member * rows : (member + 1) * rows], batch["input_ids"])
        table = three["candidate_rows"][own]
        assert torch.equal(torch.where(table < 0, table, table - member * rows), batch["candidate_rows"])


def test_a_user_s_own_closure() -> None:
    model = nn.Linear(4, 1)
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    optimizer = ZOOptimizer(model, lr=0.01, panels="lockstep", directions=4)
    loss = zoft.BatchLoss(lambda batch: (model(batch["x"])[:, 0] - 3.0 * batch["x"][:, 0]).square(), {"x": x})
    values = [optimizer.step(loss) for _ in range(400)]
    assert values[-1] < 0.01 * values[0]


def test_a_checkpoint_says_how_panels_were_made() -> None:
    state = ZOOptimizer(nn.Linear(2, 2), lr=0.1, panels="lockstep").state_dict()
    with pytest.raises(UsageError, match="panels 'lockstep', this run has 'jit'"):
        ZOOptimizer(nn.Linear(2, 2), lr=0.1).load_state_dict(state)
