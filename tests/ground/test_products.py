"""16-bit products taken in float32: the same products, rounded once, and only where they are slow and nothing needs a graph."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import OPTConfig, OPTForCausalLM

from zoft import products as module
from zoft.bench.contestants import Batch
from zoft.lockstep import BatchLoss
from zoft.optimizer import ZOOptimizer
from zoft.perturb import evaluation_mode
from zoft.products import wide_products, wide_products_elsewhere

NARROW = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor without 16-bit products, with panels and rows that leave several of each, and remainders."""
    monkeypatch.setattr(module, "slow_dtypes", lambda: frozenset(NARROW))
    monkeypatch.setattr(module, "PANEL", 70 * 30)
    monkeypatch.setattr(module, "ROWS", (20, 20))
    monkeypatch.setattr(module, "LEAST", 1)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes (m, k, n) of the products that were taken wide."""
    shapes: list[tuple[int, ...]] = []
    onto = module._Wide.onto

    def counted(self, x, right, start, y):
        shapes.append((*x.shape, right.shape[1]))
        return onto(self, x, right, start, y)

    monkeypatch.setattr(module._Wide, "onto", counted)
    return shapes


def numbers(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def check(y: torch.Tensor, exact: torch.Tensor) -> None:
    """Within half a unit of the last place of the exact value, and float32's rounding of a sum of 70 products."""
    unit = torch.finfo(y.dtype).eps
    assert y.dtype in NARROW and y.shape == exact.shape
    assert bool(((y.double() - exact).abs() <= 0.5 * unit * exact.abs() + 2e-5).all())


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    "name", ["linear", "linear with bias", "matmul", "operator", "mm", "mm into", "addmm", "addmm onto itself"]
)
def test_equal_the_exact_product_rounded_once(name: str, dtype: torch.dtype, taken: list[tuple[int, ...]]) -> None:
    x, weight, bias = (numbers(*shape, dtype=dtype) for shape in ((45, 70), (101, 70), (101,)))
    exact, onto = x.double() @ weight.double().t(), numbers(45, 101, dtype=dtype)
    poisoned = torch.full((45, 101), torch.nan, dtype=dtype)
    cases = {
        "linear": (lambda: functional.linear(x.view(5, 9, 70), weight).view(45, 101), 0.0),
        "linear with bias": (lambda: functional.linear(input=x, weight=weight, bias=bias), bias),
        "matmul": (lambda: torch.matmul(x, weight.t()), 0.0),
        "operator": (lambda: x @ weight.t(), 0.0),
        "mm": (lambda: torch.mm(x, weight.t().contiguous()), 0.0),
        "mm into": (lambda: torch.mm(x, weight.t(), out=poisoned), 0.0),
        "addmm": (lambda: torch.addmm(bias, x, weight.t()), bias),
        "addmm onto itself": (lambda: torch.addmm(onto, x, weight.t(), out=onto), onto.clone()),
    }
    product, start = cases[name]
    with torch.no_grad(), wide_products([weight]):
        y = product()
    assert taken == [(45, 70, 101)]
    assert "into" not in name or y is poisoned
    assert "itself" not in name or y is onto
    check(y, exact + (start.double() if isinstance(start, torch.Tensor) else start))


@pytest.mark.parametrize("dtype", NARROW)
def test_members_each_by_their_own_matrix(dtype: torch.dtype, taken: list[tuple[int, ...]]) -> None:
    x, weights, biases = (numbers(*shape, dtype=dtype) for shape in ((3, 21, 70), (3, 40, 70), (3, 1, 40)))
    exact = torch.bmm(x.double(), weights.double().transpose(1, 2))
    with torch.no_grad(), wide_products([weights]):
        check(torch.bmm(x, weights.transpose(1, 2)), exact)
        check(torch.baddbmm(biases, x, weights.transpose(1, 2)), exact + biases.double())
    assert taken == 6 * [(21, 70, 40)]


def test_all_else_is_left_to_torch(taken: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = numbers(45, 70, dtype=torch.bfloat16), nn.Parameter(numbers(30, 70, dtype=torch.bfloat16))
    with wide_products([weight]):  # gradients may be wanted: the wide copies of all weights would be kept for them
        functional.linear(x, weight).float().sum().backward()
    with torch.no_grad(), wide_products([weight]):
        with torch.enable_grad():
            functional.linear(x, weight).float().sum().backward()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            functional.linear(x, weight)
        functional.linear(x[:7], weight)
        functional.linear(x.float(), weight.float())
        functional.linear(x.to("meta"), weight.to("meta"))
        functional.linear(x[0], weight)
        torch.addmm(x[:, :30], x, weight.t(), beta=2)
        with pytest.warns(UserWarning, match="resized"):
            torch.mm(x, weight.t(), out=torch.zeros(3, dtype=torch.bfloat16))
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            functional.linear(x[:, :69], weight)
        with pytest.raises(RuntimeError, match="dtype"):
            functional.linear(x, weight, torch.zeros(30))
        with pytest.raises(RuntimeError):
            functional.linear(x, weight, torch.zeros(3, dtype=torch.bfloat16))
        functional.linear(x.view(9, 5, 70), weight, torch.zeros(5, 30, dtype=torch.bfloat16))
        functional.linear(torch.nested.nested_tensor([x, x[:20]]), weight)
        torch.mm(x.to_sparse(), weight.t())
        torch.matmul(x1=x, x2=weight.t())  # type: ignore[call-overload]
        square = numbers(70, 70, dtype=torch.bfloat16)
        with pytest.raises(RuntimeError, match="single memory location"):
            torch.addmm(square.t(), square.clone(), square.clone(), out=square)
        with torch.autograd.forward_ad.dual_level():
            functional.linear(torch.autograd.forward_ad.make_dual(x, x), weight)
        frozen = weight.detach()
        traced = torch.jit.trace(lambda rows: functional.linear(rows, frozen), x, check_trace=False)
        assert traced(x[:20]).shape == (20, 30)
        monkeypatch.setattr(module, "LEAST", 45 * 70 * 30 + 1)
        functional.linear(x, weight)
    with torch.no_grad(), wide_products([weight.float()]):
        functional.linear(x, weight)
    assert weight.grad is not None and taken == []


def test_inside_and_outside_of_inference_mode_and_vmap(taken: list[tuple[int, ...]]) -> None:
    x, weight = numbers(3, 45, 70, dtype=torch.bfloat16), numbers(30, 70, dtype=torch.bfloat16)
    with torch.no_grad(), wide_products([weight]):
        with torch.inference_mode():
            first = functional.linear(x[0], weight)
        assert torch.equal(functional.linear(x[0], weight), first) and len(taken) == 2
        each = torch.vmap(lambda rows: functional.linear(rows, weight))(x)
    assert len(taken) == 2 and each.shape == (3, 45, 30)


def test_results_are_no_views_and_default_types_and_devices_change_nothing(taken: list[tuple[int, ...]]) -> None:
    x, weight = numbers(9, 5, 70, dtype=torch.bfloat16), numbers(30, 70, dtype=torch.bfloat16)
    with torch.no_grad(), wide_products([weight]), torch.device("meta"):
        results = [functional.linear(x[0:8], weight), x[0:8] @ weight.t(), functional.linear(x[:, 0], weight)]
    for y in results:
        assert not y._is_view()
        y += y.clone()
    assert len(taken) == 3


def test_a_model_that_is_compiled_is_compiled_as_it_is() -> None:
    layer, graphs = nn.Linear(70, 30).bfloat16(), []

    def backend(graph, inputs):
        graphs.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return graph.forward

    compiled = torch.compile(layer, backend=backend)
    with evaluation_mode(layer):
        for rows in (45, 46, 47, 48):
            assert compiled(numbers(rows, 70, dtype=torch.bfloat16)).shape == (rows, 30)
    assert graphs == [1, 1]


@pytest.mark.parametrize("available", [True, False])
def test_which_types_are_slow_is_asked_of_onednn(available: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: available)
    for name, slow in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        has = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported")()
        assert (slow in module.slow_dtypes()) is (available and not has)


def test_nested_and_afterwards(taken: list[tuple[int, ...]]) -> None:
    x, weight = numbers(45, 70, dtype=torch.bfloat16), numbers(30, 70, dtype=torch.bfloat16)
    with torch.no_grad():
        with pytest.raises(KeyError), wide_products([weight]), wide_products([weight]):
            functional.linear(x, weight)
            raise KeyError
        functional.linear(x, weight)
        with wide_products([weight]):
            functional.linear(x, weight)
    assert len(taken) == 2


def test_in_another_thread(taken: list[tuple[int, ...]]) -> None:
    x, weight = numbers(45, 70, dtype=torch.bfloat16), numbers(30, 70, dtype=torch.bfloat16)

    def work(surroundings) -> None:
        with torch.no_grad(), surroundings():
            functional.linear(x, weight)

    for expected in (1, 1):  # the second time outside of any
        with torch.no_grad(), wide_products([weight] if not taken else []):
            surroundings = wide_products_elsewhere()
            thread = threading.Thread(target=work, args=(surroundings,))
            thread.start()
            thread.join()
        assert len(taken) == expected


def test_threads_that_take_turns_share_their_memory() -> None:
    x, weight = numbers(45, 70, dtype=torch.bfloat16), numbers(30, 70, dtype=torch.bfloat16)
    rooms: list[set[int]] = []

    def work(surroundings) -> None:
        with torch.no_grad(), surroundings():
            functional.linear(x, weight)
            rooms.append({memory.data_ptr() for memory in module._current.get().kept.values()})  # type: ignore[union-attr]

    with torch.no_grad(), wide_products([weight]):
        for _ in range(2):
            thread = threading.Thread(target=work, args=(wide_products_elsewhere(),))
            thread.start()
            thread.join()
    assert rooms[0] == rooms[1] and len(rooms[0]) == 3


@pytest.mark.parametrize("settings", [
    {"perturbation": "read_only"}, {"perturbation": "in_place"}, {"perturbation": "read_only", "panels": "lockstep"},
])  # fmt: skip
def test_losses_of_a_step_take_them(
    settings: dict[str, Any], taken: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=96, hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    losses = []
    for wide in (True, False):
        if not wide:
            monkeypatch.setattr(module, "slow_dtypes", frozenset)
        torch.manual_seed(0)
        model = OPTForCausalLM(config).bfloat16()
        batch = Batch.random(model, 4, 12)
        optimizer = ZOOptimizer(model, 1e-4, eps=2.0**-8, seed=3, **settings)
        loss = BatchLoss(lambda b, model=model: Batch(b["ids"]).full(model), {"ids": batch.ids})
        losses.append([optimizer.step(loss) for _ in range(3)])
        assert bool(taken) is wide
        taken.clear()
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_evaluation_mode_is_where_losses_are_taken(taken: list[tuple[int, ...]]) -> None:
    layer = nn.Linear(70, 30).bfloat16()
    with evaluation_mode(layer):
        layer(numbers(45, 70, dtype=torch.bfloat16))
    assert taken == [(45, 70, 30)]
