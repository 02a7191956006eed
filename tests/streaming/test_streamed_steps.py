"""Streamed training is training: the same losses, weights, logs, to the last bit."""

from __future__ import annotations

import copy
import gc
import os

import pytest
import torch

from tests.streaming.conftest import FAMILIES, decoder, least, losses, same, weights
from zoft.errors import UnsupportedModuleError, UsageError
from zoft.mezo import MeZO
from zoft.optimizer import ZOOptimizer
from zoft.space import ParameterSpace
from zoft.streaming.stream import stream, streamed

BUFFERS = {"momentum": 1, "full_adam": 2}  # that the rules below keep beside each weight


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_are_those_of_the_model_in_memory(family, way):
    plain, moved = decoder(family), decoder(family)
    made = way(moved)
    assert len(made.plan.streamed) == 5, "all blocks were to stream"
    first, wanted = losses(plain, directions=2)
    second, found = losses(moved, directions=2)
    assert found == wanted
    assert same(weights(moved), weights(plain))
    assert first.space.fingerprint() == second.space.fingerprint()
    assert first.space.checksum() == second.space.checksum() and first.space.norm() == second.space.norm()


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_rounding": "residual16"},
        {"weight_rounding": "residual8"},
        {"weight_rounding": "stochastic", "weight_decay": 0.1},
        {"rule": "momentum", "rule_settings": {"beta": 0.9, "buffer": "full"}},
        {"rule": "adam"},
        {"rule": "full_adam", "directions": 2},
        {"distribution": "gaussian", "estimator": "fzoo", "directions": 3},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_what_lies_beside_the_weights_streams_with_them(settings, way):
    plain, moved = decoder(dtype=torch.bfloat16), decoder(dtype=torch.bfloat16)
    kept = {
        "weight_rounding": settings.get("weight_rounding", "nearest"),
        "buffers": BUFFERS.get(settings.get("rule"), 0),
    }
    assert len(way(moved, **kept).plan.streamed) == 5
    first, wanted = losses(plain, **settings)
    second, found = losses(moved, **settings)
    assert found == wanted and same(weights(moved), weights(plain))
    assert first.space.fingerprint() == second.space.fingerprint()
    state = second.state_dict()
    state = {**state, "zoft": copy.deepcopy(state["zoft"])}
    other = decoder(dtype=torch.bfloat16)
    way(other, **kept)
    other.load_state_dict(weights(moved))
    again = ZOOptimizer(other, **{"lr": 1e-3, "seed": 3, **settings})
    again.load_state_dict(state)
    assert again.space.fingerprint() == second.space.fingerprint()
    ids = torch.arange(4, 30).view(2, 13)
    assert again.step(lambda: other(input_ids=ids, labels=ids).loss) == second.step(
        lambda: moved(input_ids=ids, labels=ids).loss
    )
    assert again.space.fingerprint() == second.space.fingerprint()


def test_adapters_stream_with_their_blocks(way):
    from peft import LoraConfig, get_peft_model

    def adapted():
        model = decoder()
        torch.manual_seed(1)
        return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))

    plain, moved = adapted(), adapted()
    way(moved)
    assert losses(moved)[1] == losses(plain)[1] and same(weights(moved), weights(plain))


def test_the_last_update_is_seen_by_everybody(way, tmp_path):
    """By evaluation, generation, state_dict, a copy saved and loaded."""
    plain, moved = decoder(), decoder()
    way(moved)
    losses(plain, steps=1)
    losses(moved, steps=1)
    ids = torch.arange(4, 16).view(1, 12)
    with torch.no_grad():
        assert torch.equal(moved(input_ids=ids).logits, plain(input_ids=ids).logits)
    wrote = moved.generate(ids, max_new_tokens=8, do_sample=False)
    assert torch.equal(wrote, plain.generate(ids, max_new_tokens=8, do_sample=False))
    moved.save_pretrained(tmp_path / "saved")
    loaded = type(moved).from_pretrained(tmp_path / "saved")
    assert same(weights(loaded), weights(plain))
    moved.load_state_dict(weights(decoder()))
    with torch.no_grad():
        assert torch.equal(moved(input_ids=ids).logits, decoder()(input_ids=ids).logits)


def test_a_pass_that_was_cut_short_leaves_nothing_behind(way):
    plain, moved = decoder(), decoder()
    made = way(moved)
    third = moved.model.layers[2].mlp
    handle = third.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    ids = torch.arange(4, 16).view(1, 12)
    with pytest.raises(KeyboardInterrupt), torch.no_grad():
        moved(input_ids=ids)
    handle.remove()
    moved.load_state_dict({name: weight * 0.5 for name, weight in weights(plain).items()})
    plain.load_state_dict({name: weight * 0.5 for name, weight in weights(plain).items()})
    assert losses(moved)[1] == losses(plain)[1] and same(weights(moved), weights(plain))
    assert made.block_of(moved.model.layers[2].mlp.up_proj.weight) == 2


def test_moving_a_streamed_model_moves_the_rest(way):
    moved = decoder()
    way(moved)
    before = moved.model.layers[0].mlp.up_proj.weight.data_ptr()
    moved.to("cpu")
    assert moved.model.layers[0].mlp.up_proj.weight.data_ptr() == before
    with pytest.raises(UsageError, match="keeps its dtype"):
        moved.to(torch.bfloat16)
    with pytest.raises(UsageError, match="cannot be copied"):
        copy.deepcopy(moved)
    with pytest.raises(UsageError, match="streamed already"):
        stream(moved, "1GB")
    with pytest.raises(UsageError, match="in_place"):
        ZOOptimizer(moved, lr=1e-3, perturbation="in_place")
    with pytest.raises(UsageError, match="MeZO writes"):
        MeZO(moved, lr=1e-3)
    assert ZOOptimizer(moved, lr=1e-3, perturbation="auto").perturbation.name == "read_only"


def test_the_file_has_no_name_and_ends_with_the_model(tmp_path):
    moved = decoder()
    made = stream(moved, least(moved), tmp_path.as_posix())
    assert made is not None and made.store.where == tmp_path and streamed(moved) is made
    losses(moved, steps=1)
    assert not list(tmp_path.iterdir()), "kill -9 would leave a file behind"
    assert open_files(), "the weights lie in a file of the folder"
    del made, moved
    gc.collect()
    assert not open_files()


def test_memory_that_others_got_is_never_let_go(way) -> None:
    """What lay beside the weights for an optimizer that is gone: its addresses must not be given to anybody."""
    moved = decoder(dtype=torch.bfloat16)
    carrier = way(moved).carrier
    for _ in range(5):
        ParameterSpace(moved, rounding="residual16", buffers=["momentum"])
        gc.collect()
        others = [torch.full((n,), 7.0) for n in (64, 4096, 65536, 262144) for _ in range(50)]
        getattr(carrier, "release", carrier.settle)()
        assert all(bool((other == 7.0).all()) for other in others)


def open_files() -> list[str]:
    """What this process holds open of the streams' files."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return [link for link in links if os.path.islink(link) and "zoft-streamed" in os.readlink(link)]


class Reads(torch.nn.Module):
    """Blocks that read a weight of a module of theirs without running it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 16)
        self.layers = torch.nn.ModuleList(Fused() for _ in range(3))

    def forward(self, input_ids, labels):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return type("Output", (), {"loss": hidden.square().mean()})


class Fused(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(16, 16)

    def forward(self, hidden):
        return hidden + torch.nn.functional.linear(hidden, self.inner.weight)


def test_a_weight_read_outside_its_module_is_never_seen_undisplaced(way):
    torch.manual_seed(0)
    plain = Reads()
    moved = copy.deepcopy(plain)
    if way(moved).copies:
        with pytest.raises(UnsupportedModuleError, match=r"layers\.0\.inner\.weight"):
            losses(moved)
        return
    assert losses(moved)[1] == losses(plain)[1] and same(weights(moved), weights(plain))
