"""Weights that are displaced together when the module around them begins."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import zoft.grouped
import zoft.shown
from tests.objectives.conftest import CAUSAL, MASKED, VOCABULARY, build
from zoft.backends import Term
from zoft.backends.reference import ReferenceBackend
from zoft.directions import Direction
from zoft.errors import UnsupportedModuleError
from zoft.grouped import Entry, UsedOutside, Withheld, budget, grouped
from zoft.optimizer import ZOOptimizer
from zoft.read_only import ReadOnlyView
from zoft.space import ParameterSpace

EPS = 2.0**-10
A_LAYER = 2 * 12 * 24 * 4 + 100  # bytes of the two matrices of a layer in float32, and a few more
PLUS, MINUS = ((Term(Direction(seed=3, step=5), scale),) for scale in (EPS, -EPS))
IDS = torch.arange(30).reshape(3, 10) % VOCABULARY


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.down(torch.tanh(self.up(x))))


class Stack(nn.Module):
    """Layers; `way` says how the first one is run."""

    def __init__(self, width: int = 12, layers: int = 3) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(Layer(width) for _ in range(layers)), nn.Linear(width, 5)
        self.way = "whole"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *others = self.layers
        if self.way == "parts":  # its modules, without itself
            x = first.norm(x + first.down(torch.tanh(first.up(x))))  # type: ignore[operator]
        elif self.way == "read":  # by the parent
            x = nn.functional.linear(x, first.up.weight[:12])  # type: ignore[index]
        else:
            x = first(x)
        for layer in others:
            x = layer(x)
        return self.head(x)


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """How many copies each call of the reference backend made."""
    calls: list[int] = []
    sweep, axpby = ReferenceBackend.sweep_, ReferenceBackend.axpby_
    inside = False

    def swept(self, targets, moves, *rest):
        nonlocal inside
        inside = True
        try:
            calls.append(len(targets))
            sweep(self, targets, moves, *rest)
        finally:
            inside = False

    def moved(self, target, moves, *rest):
        if not inside:
            calls.append(1)
        axpby(self, target, moves, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReferenceBackend, "sweep_", swept)
        patch.setattr(ReferenceBackend, "axpby_", moved)
        yield calls


@contextmanager
def small(most: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoft.grouped, "budget", lambda space: most)
        yield


def alone(model: nn.Module, *arguments: torch.Tensor) -> torch.Tensor:
    """What the model makes of its arguments at w + s z, by a view without groups."""
    with small(0):
        view, outputs = ReadOnlyView(ParameterSpace(model, backend_name="reference")), []
        view.evaluate(PLUS, lambda: outputs.append(model(*arguments)) or 0.0)
    return outputs[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("most", "calls"), [(1 << 20, [7]), (A_LAYER, [2, 2, 2, 1]), (0, [1] * 7)])
def test_passes_are_those_of_weights_displaced_one_by_one(dtype: torch.dtype, most: int, calls: list[int]) -> None:
    torch.manual_seed(0)
    model, x = Stack().to(dtype), torch.randn(3, 12).to(dtype)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with torch.no_grad(), small(most), counted_calls() as made:
        expected = alone(model, x)
        view = ReadOnlyView(ParameterSpace(model, backend_name="reference"))
        for number in range(5):
            made.clear()
            assert torch.equal(view.evaluate(PLUS, lambda: model(x)), expected)
            assert made[1:] == (calls if number else [1] * 7)  # behind the one sweep of all vectors
    for name, weight in model.named_parameters():
        assert isinstance(weight, nn.Parameter) and torch.equal(weight, before[name])
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("family", [*CAUSAL, *MASKED])
def test_models_take_the_same_losses_as_without_groups(family: str) -> None:
    model = build(family, "MaskedLM" if family in MASKED else "CausalLM")
    found = []
    for most in (0, 1 << 20):
        with torch.no_grad(), small(most):
            view = ReadOnlyView(ParameterSpace(model))
            found.append([view.evaluate(PLUS, lambda: model(IDS).logits.double().sum().item()) for _ in range(3)])
            assert bool(view._groups.around) == bool(most)
    assert found[0] == found[1]


@pytest.mark.parametrize("way", ["parts", "read"])
@pytest.mark.parametrize("most", [1 << 20, A_LAYER])
def test_a_weight_used_outside_the_module_around_it_is_seen_displaced(way: str, most: int) -> None:
    """Between two audits, and in a way that was not taken before."""
    torch.manual_seed(0)
    model, x = Stack(), torch.randn(3, 12)
    with torch.no_grad(), small(most):
        view = ReadOnlyView(ParameterSpace(model, backend_name="reference"))
        for number in range(1, 6):
            model.way = "whole" if number < 3 else way
            if way == "read" and most == 1 << 20 and number == 3:
                continue  # all weights are shown while the root runs
            seen = view.evaluate(PLUS, lambda: model(x))
            if way == "read" and number == 3:
                continue  # read while the module that holds it does not run: seen by the next audit
            assert torch.equal(seen, alone(model, x)), number


def test_a_group_whose_module_does_not_run_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    model, x, calls = Stack(), torch.randn(3, 12), []
    with torch.no_grad(), small(A_LAYER), caplog.at_level("INFO"):
        view = ReadOnlyView(ParameterSpace(model))
        for model.way in ("whole", "whole", "parts", "whole"):
            view.evaluate(PLUS, lambda: calls.append(model.way) or model(x))
    assert calls == ["whole", "whole", "parts", "parts", "whole"]
    assert "layers.0.up.weight is used outside the module around it" in caplog.text
    assert len(view._groups.around) == 2


def test_an_exception_half_way_leaves_the_weights() -> None:
    model, x = Stack(), torch.randn(3, 12)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with torch.no_grad(), small(1 << 20):
        view = ReadOnlyView(ParameterSpace(model))
        for wrong in (x, x, torch.randn(3, 11)):
            try:
                view.evaluate(PLUS, lambda x=wrong: model(x))
            except RuntimeError as error:
                assert "shape" in str(error)
        assert torch.equal(view.evaluate(PLUS, lambda: model(x)), alone(model, x))
    for name, weight in model.named_parameters():
        assert isinstance(weight, nn.Parameter) and torch.equal(weight, before[name])


def test_a_module_that_runs_twice_and_inside_itself() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor, again: bool = True) -> torch.Tensor:
            x = torch.tanh(self.first(x))
            return self.second(self(x, False) if again else x) + self.first(x)

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.large = Twice(), nn.Linear(6, 100)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.large(self.twice(self.twice(x)))

    torch.manual_seed(0)
    model, x = Root(), torch.randn(2, 6)
    with torch.no_grad(), small(6 * 6 * 4 * 2):
        view = ReadOnlyView(ParameterSpace(model))
        for _ in range(3):
            assert torch.equal(view.evaluate(PLUS, lambda: model(x)), alone(model, x))
        assert view._groups.around == [model.twice]


def test_a_weight_tied_across_groups() -> None:
    torch.manual_seed(0)
    model, x = Stack(), torch.randn(3, 12)
    model.layers[1].up.weight = model.layers[0].up.weight
    with torch.no_grad(), small(A_LAYER):
        view = ReadOnlyView(ParameterSpace(model))
        for _ in range(3):
            assert torch.equal(view.evaluate(PLUS, lambda: model(x)), alone(model, x))
        assert len(view._groups.around) == 3


def test_a_module_that_returns_a_weight_of_its_group() -> None:
    class Gives(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mix = nn.Linear(4, 6, bias=False), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.mix(x) + self.table(x)[:, :4], self.table.weight[:3]

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gives, self.large = Gives(), nn.Linear(4, 100)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, rows = self.gives(x)
            return self.large(y + rows)

    torch.manual_seed(0)
    model, x = Root(), torch.randn(3, 4)
    with torch.no_grad(), small(6 * 4 * 4 * 2):
        view = ReadOnlyView(ParameterSpace(model))
        for _ in range(3):
            assert torch.equal(view.evaluate(PLUS, lambda: model(x)), alone(model, x))


def test_scratch_stays_within_the_bytes_of_a_group() -> None:
    model, x = Stack(width=32, layers=4), torch.randn(3, 32)
    layer = 2 * 32 * 64 * 4
    with torch.no_grad(), small(layer + 100):
        view = ReadOnlyView(ParameterSpace(model))
        for _ in range(3):
            view.evaluate(PLUS, lambda: model(x))
        assert layer <= view.scratch_bytes <= layer + 256


def test_training_gives_the_weights_of_a_run_without_groups() -> None:
    found = []
    for most in (0, 1 << 20):
        model = build("opt").to(torch.bfloat16)
        optimizer = ZOOptimizer(model, lr=1e-3, eps=EPS, perturbation="read_only", directions=2)
        with small(most):
            for _ in range(4):
                optimizer.step(lambda m=model: m(IDS).logits.float().square().mean())
        found.append(optimizer.space.fingerprint())
    assert found[0] == found[1]


def test_what_stands_for_a_weight_tells_its_shape_and_no_more() -> None:
    space = ParameterSpace(nn.Linear(3, 4).to(torch.bfloat16))
    slot = space.slots[0]
    entry, used = Entry(slot.owners[0], slot), []
    withheld = Withheld.of(entry, used)
    assert withheld.shape == (4, 3) and withheld.dtype is torch.bfloat16 and withheld.device.type == "cpu"
    assert withheld.numel() == 12 and withheld.size(0) == 4 and withheld.requires_grad
    uses = [
        lambda w: w + 1, lambda w: nn.functional.linear(torch.ones(3), w), lambda w: w.t(), lambda w: w.data_ptr(),
        lambda w: torch.zeros(4, 3).copy_(w), lambda w: torch.vmap(torch.sum)(w), lambda w: torch.tensor(w),
        lambda w: w.data + 1,
    ]  # fmt: skip
    for number, use in enumerate(uses, start=1):
        with pytest.raises(UsedOutside, match="weight"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.tensor of a tensor
            use(withheld)
        assert len(used) >= number and set(used) == {entry}


def test_the_bytes_of_a_group_are_few_beside_the_weights() -> None:
    def of(*layers: nn.Module) -> int:
        return budget(ParameterSpace(nn.Sequential(*layers)))

    matrices, size = [nn.Linear(128, 128, bias=False) for _ in range(16)], 128 * 128 * 4
    assert of(*matrices[:8]) == size and of(*matrices[:4]) == size // 2  # an eighth of them
    assert of(*matrices) == size  # the largest one
    assert of(*matrices, nn.Linear(4096, 4096, bias=False).requires_grad_(False)) == 2 * size


def test_groups_lie_as_far_out_as_their_bytes_allow() -> None:
    model = Stack()
    space = ParameterSpace(model)
    entries = [Entry(place, slot) for slot in space.slots for place in slot.owners if slot.is_matrix]
    around = {
        module: (model, layer)
        for layer in model.layers
        for module in (layer.up, layer.down)  # type: ignore[attr-defined]
    } | {model.head: (model,)}
    a_layer = 2 * 12 * 24 * 4
    assert [group.around for group in grouped(around, entries, 3 * a_layer + 12 * 5 * 4, [])] == [model]
    assert [group.around for group in grouped(around, entries, 3 * a_layer, [])] == list(model.layers)
    assert grouped(around, entries, a_layer - 1, []) == []
    assert (
        grouped({model.head: (model,)}, [e for e in entries if e.place[0] is model.head], 1 << 20, []) == []
    )  # a group of one


def test_a_cached_reference_is_still_an_error() -> None:
    model, x = Stack(), torch.randn(3, 12)
    kept = model.layers[0].up.weight  # type: ignore[union-attr]
    view = ReadOnlyView(ParameterSpace(model))
    with torch.no_grad(), small(1 << 20):
        view.evaluate(PLUS, lambda: model(x))
        with pytest.raises(UnsupportedModuleError, match="a reference kept outside its module"):
            view.evaluate(PLUS, lambda: model(x) + kept.sum())


def test_a_loss_that_catches_exceptions_is_taken_again() -> None:
    model, x = Stack(), torch.randn(3, 12)
    found = []

    def loss() -> float:
        try:
            found.append(float(model(x).double().sum()))
        except Exception:
            found.append(float("inf"))
        return found[-1]

    with torch.no_grad(), small(A_LAYER):
        view = ReadOnlyView(ParameterSpace(model))
        values = []
        for model.way in ("whole", "whole", "parts", "parts"):
            values.append(view.evaluate(PLUS, loss))
    assert len(set(values)) == 1 and found.count(float("inf")) == 1


def test_a_stand_in_that_is_kept_is_an_error_that_names_it() -> None:
    model, x, kept = Stack(), torch.randn(3, 12), []

    def loss() -> torch.Tensor:
        if view._groups.around and not kept:
            kept.append(model.layers[0].up.weight)  # type: ignore[union-attr]
        return model(x) + sum(weight.sum() for weight in kept)

    with torch.no_grad(), small(1 << 20):
        view = ReadOnlyView(ParameterSpace(model))
        view.evaluate(PLUS, loss)
        with pytest.raises(UnsupportedModuleError, match=r"'layers.0.up.weight' is used through a reference"):
            view.evaluate(PLUS, loss)
    assert all(isinstance(weight, nn.Parameter) for weight in model.parameters())


def test_many_restarts_give_up_all_groups() -> None:
    class Ways(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.way, self.begun = nn.ModuleList(Layer(12) for _ in range(8)), "whole", 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.begun += 1
            for layer in self.layers:
                x = layer(x) if self.way == "whole" else layer.norm(x + layer.down(torch.tanh(layer.up(x))))  # type: ignore[operator]
            return x

    model, x = Ways(), torch.randn(3, 12)
    with torch.no_grad(), small(A_LAYER):
        view = ReadOnlyView(ParameterSpace(model, backend_name="reference"))
        for model.way in ("whole", "whole", "parts"):
            seen = view.evaluate(PLUS, lambda: model(x))
        assert model.begun == 3 + 3
        assert torch.equal(seen, alone(model, x))


def test_a_wrapper_made_for_each_loss_is_no_module_of_the_model() -> None:
    model, x, begun = Stack(), torch.randn(3, 12), []
    with torch.no_grad(), small(1 << 20):
        view = ReadOnlyView(ParameterSpace(model))
        for _ in range(4):
            view.evaluate(PLUS, lambda: begun.append(1) or nn.Sequential(model)(x))
        assert len(begun) == 4 and view._groups.around == [model]


def test_vectors_read_by_a_parent_are_not_said_to_be_unused(caplog: pytest.LogCaptureFixture) -> None:
    module, x = nn.MultiheadAttention(8, 2), torch.randn(3, 8)
    with torch.no_grad(), small(1 << 20):
        view = ReadOnlyView(ParameterSpace(module))
        for _ in range(3):
            view.evaluate(PLUS, lambda: module(x, x, x)[0])
    assert "took no part" not in caplog.text and not view._groups.around


def test_a_module_deep_inside_itself_takes_no_more_scratch() -> None:
    class Tree(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor, depth: int = 20) -> torch.Tensor:
            x = torch.tanh(self.left(x)) + self.right(x)
            return self(x, depth - 1) if depth else x

    torch.manual_seed(0)
    model, x = Tree(), torch.randn(2, 6)
    with torch.no_grad(), small(1 << 20):
        view = ReadOnlyView(ParameterSpace(model, backend_name="reference"))
        for _ in range(3):
            assert torch.equal(view.evaluate(PLUS, lambda: model(x)), alone(model, x))
        assert len(view._groups.around) == 1 and view.scratch_bytes <= 2 * (6 * 6 * 4 + 64)


def test_gradients_through_scratch_that_was_filled_again_are_an_error() -> None:
    """Of the input, say: the weights that the graph remembers are gone."""
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(6, 6, bias=False) for _ in range(3))
    space = ParameterSpace(layers)
    x = torch.randn(2, 6, requires_grad=True)

    def loss() -> float:
        y = x
        for layer in layers:
            y = torch.tanh(layer(y))
        return float(torch.autograd.grad(y.sum(), x)[0].sum())

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ReadOnlyView(space).evaluate(PLUS, loss)


def test_an_interrupt_at_any_line_leaves_the_weights() -> None:
    """At any line of the view's own files, but for those between the end of a loss and the first line that puts back."""
    model, x = Stack(layers=2).to(torch.bfloat16), torch.randn(2, 12).bfloat16()
    own = dict(model.named_parameters())
    files = (zoft.read_only.__file__, zoft.grouped.__file__, zoft.shown.__file__)
    bad, reached = [], 0
    with torch.no_grad(), small(1 << 20):
        view = ReadOnlyView(ParameterSpace(model))
        for _ in range(2):
            expected, other = (view.evaluate(point, lambda: model(x)) for point in (PLUS, MINUS))
        while True:
            left, where = reached, 0

            def trace(frame, event, _):
                nonlocal left, where
                if frame.f_code.co_filename not in files:
                    return None
                if event == "line":
                    left -= 1
                    if left == -1:
                        where = frame.f_lineno
                        sys.settrace(None)
                        raise KeyboardInterrupt
                return trace

            try:
                sys.settrace(trace)
                view.evaluate(PLUS, lambda: model(x))
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            if not where:
                break
            reached += 1
            if not all(weight is own[name] for name, weight in model.named_parameters()):
                bad.append(where)
            assert torch.equal(view.evaluate(MINUS, lambda: model(x)), other)
            assert torch.equal(view.evaluate(PLUS, lambda: model(x)), expected)
            assert all(weight is own[name] for name, weight in model.named_parameters())
    assert reached > 300 and len(bad) <= 3, bad
