"""Single-token candidates read their own rows of the head: equal to the whole head, also where weights are displaced."""

import gc
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from zoft.backends import Term
from zoft.directions import Direction, LowRank
from zoft.few_rows import only_rows, rows_wanted
from zoft.objectives import CandidateLikelihood
from zoft.perturb import InPlace, ReadOnly, evaluation_mode
from zoft.space import ParameterSpace


def build(family: str, vocabulary: int = 500) -> nn.Module:
    torch.manual_seed(0)
    if family == "opt":  # a tied head
        config = OPTConfig(
            vocab_size=vocabulary, hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=64,
        )  # fmt: skip
        return OPTForCausalLM(config).eval()
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def batch_of(choices: list[list[int]]) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 500, (len(choices), 9), generator=torch.Generator().manual_seed(1))
    gold = torch.arange(len(choices)) % 2
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "choices": torch.tensor(choices), "gold": gold}


def by_definition(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"]).logits[:, -1].float()
    picked = logits.gather(-1, batch["choices"].clamp(min=0)).masked_fill(batch["choices"] < 0, -torch.inf)
    return functional.cross_entropy(picked, batch["gold"], reduction="none")


CHOICES = ([[7, 3]] * 3, [[7, 3, 499], [4, 7, -1], [0, 499, -1]])


def rows_read(model: nn.Module) -> list[tuple[int, ...]]:
    """Grows by the shape of what the head returns."""
    seen: list[tuple[int, ...]] = []
    model.get_output_embeddings().register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape)))
    return seen


@pytest.mark.parametrize("family", ["opt", "llama"])
@pytest.mark.parametrize("choices", CHOICES, ids=["same", "different"])
def test_label_rows_equal_the_whole_head(family, choices) -> None:
    model, batch = build(family), batch_of(choices)
    seen = rows_read(model)
    with torch.no_grad():
        mine = CandidateLikelihood().losses(model, batch)
        different = len({c for row in choices for c in row if c >= 0})
        assert seen == [(3, 1, different)]
        torch.testing.assert_close(mine, by_definition(model, batch), rtol=1e-6, atol=1e-6)
    assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.parametrize("family", ["opt", "llama"])
@pytest.mark.parametrize("panel_bytes", [1 << 25, 1 << 10], ids=["whole", "panels"])
@pytest.mark.parametrize("form", [None, LowRank("low_rank", 3)], ids=["dense", "thin"])
def test_displaced_label_rows_equal_the_displaced_head(family, panel_bytes, form, monkeypatch) -> None:
    """Read-only against the same displacement written into the weights; a large head is one that goes in panels.

    Neither computes the other outputs.
    """
    monkeypatch.setattr("zoft.read_only.PANEL_BYTES", panel_bytes)
    model, batch = build(family), batch_of(CHOICES[1])
    space = ParameterSpace(model, shaped=form is not None)
    direction = Direction(3, 5, form=form)
    seen = rows_read(model)
    population = [(Term(direction, 2.0**-6),), (Term(direction, -(2.0**-6)),)]
    before = space.fingerprint()
    with evaluation_mode(model):
        mine = ReadOnly(space).losses(population, lambda: CandidateLikelihood().losses(model, batch))
        assert space.fingerprint() == before and seen == [(3, 1, 5)] * 2
        written = InPlace(space, eps=2.0**-6, distribution=direction.distribution)
        theirs = written.losses(population, lambda: by_definition(model, batch))
    for few, whole in zip(mine, theirs, strict=True):
        torch.testing.assert_close(few, whole, rtol=1e-6, atol=1e-6)
    assert not torch.equal(mine[0], mine[1])


def test_only_the_rows_that_are_wanted_are_displaced() -> None:
    model, batch = build("opt"), batch_of(CHOICES[0])
    space, looked_up = ParameterSpace(model), []
    inner = space.backend.perturbed_embedding

    class Told(type(space.backend)):
        def perturbed_embedding(self, ids, target, points):
            looked_up.append(ids.numel())
            return inner(ids, target, points)

    space.backend = Told()
    with evaluation_mode(model):
        ReadOnly(space).losses(
            [(Term(Direction(3, 5), 2.0**-6),)], lambda: CandidateLikelihood().losses(model, batch).mean()
        )
    assert looked_up[-1] == 2 and max(looked_up) <= 27


def test_a_bias_and_another_forward() -> None:
    layer, x = nn.Linear(3, 5), torch.randn(2, 3)
    layer.forward = lambda x: nn.Linear.forward(layer, x)  # somebody's own
    own = layer.forward
    with only_rows(layer, torch.tensor([4, 0])):
        assert rows_wanted(layer, (x, torch.tensor([4, 0]))) is not None
        few = layer(x)
    assert layer.forward is own and rows_wanted(layer, (x,)) is None
    torch.testing.assert_close(few, layer(x)[:, [4, 0]])


def test_a_layer_goes_with_its_model() -> None:
    layer = nn.Linear(3, 5)
    alive = weakref.ref(layer)
    with only_rows(layer, torch.tensor([4, 0])):
        layer(torch.randn(2, 3))
    del layer
    gc.collect()
    assert alive() is None


def test_losses_in_turns_ask_one_layer_for_their_own_rows() -> None:
    """Two threads are inside at once, and leave in the order in which they came."""
    layer, x = nn.Linear(3, 5), torch.randn(2, 3)
    turn, inside, found = [threading.Event(), threading.Event()], threading.Event(), {}

    def loss(name: str, ids: list[int], mine: threading.Event, next_one: threading.Event) -> None:
        with only_rows(layer, torch.tensor(ids)):
            next_one.set()
            assert mine.wait(5)
            found[name] = layer(x)
        next_one.set()

    second = threading.Thread(target=loss, args=("second", [2], turn[1], inside))
    first = threading.Thread(target=loss, args=("first", [4, 0], turn[0], turn[1]))
    first.start()
    turn[1].wait(5)
    turn[1].clear()
    second.start()
    inside.wait(5)
    turn[0].set()
    first.join()
    second.join()
    torch.testing.assert_close(found["first"], layer(x)[:, [4, 0]])
    assert found["second"].shape == (2, 1) and "forward" not in vars(layer)
