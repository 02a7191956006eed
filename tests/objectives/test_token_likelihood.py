"""Log-likelihoods without logits: equal to those from all logits, for every family, also where weights are displaced."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch.nn import functional

import zoft.objectives.forward as forward
from zoft.backends import Term
from zoft.bench.peak import RESET
from zoft.directions import Direction, LowRank
from zoft.few_rows import only_rows
from zoft.lockstep import BatchLoss
from zoft.objectives import CandidateLikelihood, LanguageModelling
from zoft.objectives.repeated import repeated
from zoft.objectives.token_likelihood import TokenLikelihood
from zoft.optimizer import ZOOptimizer
from zoft.perturb import InPlace, ReadOnly, evaluation_mode
from zoft.space import ParameterSpace
from zoft.tasks.collate import Collator

spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("conftest.py"))
assert spec is not None and spec.loader is not None
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)


@pytest.fixture
def panels(monkeypatch):
    """Logits of 16 tokens of the vocabulary at a time, however few there are."""
    monkeypatch.setattr("zoft.objectives.token_likelihood.FEWEST", 16)
    monkeypatch.setattr("zoft.objectives.token_likelihood.LOGITS_CPU", 1)
    monkeypatch.setattr("zoft.objectives.token_likelihood.WIDENED_CPU", 40)
    monkeypatch.setattr(forward, "SMALL", 0)


def widths(model):
    """Grows by the last dimension of what the head returns."""
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _, __, y: seen.append(y.shape[-1]))
    return seen


def text(rows=3, length=9):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, tiny.VOCABULARY, (rows, length), generator=generator)
    labels = ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.3, -100)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def by_definition(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
    labels = batch["labels"][:, 1:]
    each = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    return each.sum(1) / (labels != -100).sum(1)


def biased(**_):
    torch.manual_seed(0)
    configuration = hf.GPTJConfig(
        vocab_size=tiny.VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=2, rotary_dim=4, initializer_range=0.2
    )
    model = hf.GPTJForCausalLM(configuration).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    return model


@pytest.mark.parametrize("name", [*tiny.CAUSAL, "gptj"])
def test_equal_to_all_logits(name, panels) -> None:
    model = biased() if name == "gptj" else tiny.build(name)
    seen, batch = widths(model), text()
    with torch.no_grad():
        mine = LanguageModelling().losses(model, batch)
        again = LanguageModelling().losses(model, batch)
        capped = name == "gemma2"  # its logits go through a tanh, for which it has to hold them
        assert seen == ([1, tiny.VOCABULARY, tiny.VOCABULARY] if capped else [1, 1])
        torch.testing.assert_close(mine, by_definition(model, batch), rtol=1e-6, atol=1e-6)
        assert torch.equal(mine, again)
    assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.parametrize("answers", ["padded", "shared prompts"])
def test_candidates_of_several_tokens(answers, panels, monkeypatch) -> None:
    model = tiny.build("opt")
    monkeypatch.setattr("zoft.objectives.shared_prompt.GAIN", 0.0 if answers == "shared prompts" else 1e9)
    dataset = tiny.longer_answers()
    batch, seen = Collator(0, dataset.max_candidates, architecture="causal")(dataset.items), widths(model)
    with torch.no_grad():
        mine = CandidateLikelihood().evaluate(model, batch)
        assert seen[-1] == 1
        monkeypatch.setattr(forward, "SMALL", 1 << 30)
        held = CandidateLikelihood().evaluate(model, batch)
    assert seen[-1] == tiny.VOCABULARY
    torch.testing.assert_close(mine.losses, held.losses, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine.scores, held.scores, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["opt", "llama", "gptj"])
@pytest.mark.parametrize("panel_bytes", [1 << 25, 1 << 9], ids=["small head", "large head"])
@pytest.mark.parametrize("form", [None, LowRank("low_rank", 3)], ids=["dense", "thin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_displaced_heads(name, panel_bytes, form, dtype, panels, monkeypatch) -> None:
    """Read-only against the same displacement written into the weights, whose logits are all held."""
    monkeypatch.setattr("zoft.read_only.PANEL_BYTES", panel_bytes)
    model = (biased() if name == "gptj" else tiny.build(name)).to(dtype)
    space, batch, seen = ParameterSpace(model, shaped=form is not None), text(), widths(model)
    direction = Direction(3, 5, form=form)
    population = [(Term(direction, 2.0**-6),), (Term(direction, -(2.0**-6)),)]
    with evaluation_mode(model):
        mine = ReadOnly(space).losses(population, lambda: LanguageModelling().losses(model, batch))
        assert seen == [1, 1]
        if dtype is torch.bfloat16:
            monkeypatch.setattr(forward, "SMALL", 1 << 30)
            theirs = ReadOnly(space).losses(population, lambda: LanguageModelling().losses(model, batch))
        else:
            written = InPlace(space, eps=2.0**-6, distribution=direction.distribution)
            theirs = written.losses(population, lambda: by_definition(model, batch))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert not torch.equal(mine[0], mine[1])


@pytest.mark.parametrize("name", ["opt", "llama", "gptj"])
@pytest.mark.parametrize("form", [None, LowRank("low_rank", 2)], ids=["dense", "thin"])
def test_lockstep_and_jit_take_the_same_steps(name, form, panels) -> None:
    """Each with its losses from panels of logits; the update of a head waits for its reading, panel or not."""
    losses, weights = [], []
    for kind in ("jit", "lockstep"):
        model, batch = biased() if name == "gptj" else tiny.build(name), text()
        seen = widths(model)
        optimizer = ZOOptimizer(model, lr=1e-3, form=form, panels=kind, directions=2)
        optimizer.ahead = True

        def loss(model=model, batch=batch):
            return BatchLoss(lambda rows: LanguageModelling().losses(model, rows), batch)

        losses.append([optimizer.step(loss()) for _ in range(3)])
        optimizer.settle()
        assert set(seen) == {1}
        weights.append(torch.cat([w.detach().flatten() for w in model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)


def test_members_of_a_batch_have_their_own_labels() -> None:
    twice = repeated(text(), 2)
    assert twice["labels"].shape == (6, 9) and torch.equal(twice["labels"][:3], twice["labels"][3:])


def test_logits_are_held_where_they_are_needed(panels) -> None:
    model, batch = tiny.build("opt"), text()
    seen = widths(model)
    loss = LanguageModelling()(model, batch)  # with a graph
    loss.backward()
    assert seen == [tiny.VOCABULARY] and model.get_output_embeddings().weight.grad is not None


def scales(logits):
    return logits.mul_(0.5)  # in place: the tensor is the head's own


def hides(logits):
    logits[:, :, torch.tensor([7, 50])] = -100.0
    return logits


def cuts(logits):
    return logits[..., :40]


@pytest.mark.parametrize("change", [scales, hides, cuts])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_models_that_do_something_with_their_logits(change, mode, panels) -> None:
    class Model(hf.OPTForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = change(output.logits)
            return output

    torch.manual_seed(0)
    model, batch = Model(tiny.CONFIGURATIONS["opt"]()).eval(), text()
    batch["labels"] = batch["labels"].clamp(max=39)
    with mode():
        for _ in range(2):
            mine = LanguageModelling().losses(model, batch)
            torch.testing.assert_close(mine, by_definition(model, batch), rtol=1e-6, atol=1e-6)


def test_memory_that_runs_out_behind_the_head_is_no_sign_that_a_model_needs_its_logits(panels) -> None:
    """All of them would need more still."""
    model, batch = tiny.build("opt"), text()

    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    handle, seen = model.register_forward_hook(fails), widths(model)
    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
        LanguageModelling().losses(model, batch)
    handle.remove()
    with torch.no_grad():
        LanguageModelling().losses(model, batch)
    assert seen == [1, 1]


def test_lockstep_with_a_model_that_holds_its_logits(panels) -> None:
    """Its first loss is taken twice, which is no other way of calling its modules."""
    model, batch = tiny.build("gemma2"), text()
    optimizer = ZOOptimizer(model, lr=1e-3, panels="lockstep")
    for _ in range(2):
        optimizer.step(BatchLoss(lambda rows: LanguageModelling().losses(model, rows), batch))


def test_other_positions_than_the_labels_get_all_logits() -> None:
    layer, x = torch.nn.Linear(3, 7), torch.randn(2, 4, 3)
    wanted = TokenLikelihood(torch.zeros(2, 3, dtype=torch.long))
    with only_rows(layer, wanted):
        found = layer(x)
    assert wanted.made is None and torch.equal(found, layer(x))


PEAK = """
import sys, torch, transformers as hf
import zoft.objectives.forward as forward
from zoft.bench.peak import peak_bytes
from zoft.objectives import LanguageModelling
from zoft.optimizer import ZOOptimizer

torch.manual_seed(0)
model = hf.OPTForCausalLM(hf.OPTConfig(
    vocab_size=50_000, hidden_size=64, ffn_dim=64, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=64))
ids = torch.randint(5, 50_000, (8, 128))
batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
optimizer = ZOOptimizer(model, lr=1e-6)
if sys.argv[1] == "held":
    forward.SMALL = 1 << 40
short = {name: value[:1, :8] for name, value in batch.items()}
for _ in range(2):
    optimizer.step(lambda: LanguageModelling()(model, short))  # compiles
print(peak_bytes(lambda: optimizer.step(lambda: LanguageModelling()(model, batch))))
"""


def test_peak_memory_of_a_step_without_logits() -> None:
    """1,024 positions of 50,000 tokens: 205 MB of float32 logits and as much of their log softmax are never made."""
    try:
        open(RESET, "w").close()
    except OSError:
        pytest.skip(f"{RESET} cannot be written here: resident peaks are not counted")
    held, panels = (
        int(subprocess.run([sys.executable, "-c", PEAK, how], capture_output=True, text=True, check=True).stdout)
        for how in ("held", "panels")
    )
    print(f"held {held / 1e6:.1f} MB, in panels {panels / 1e6:.1f} MB")
    assert held > 400e6 and panels < 0.25 * held, (held, panels)
