"""Forward passes at w + s z that leave w bit for bit."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoft.backends import Move, Target, Term
from zoft.directions import Direction, Distribution, draw
from zoft.errors import UnsupportedModuleError, UsageError
from zoft.optimizer import ZOOptimizer
from zoft.perturb import InPlace, ReadOnly, evaluation_mode
from zoft.read_only import ReadOnlyView
from zoft.scratch import ALIGNMENT
from zoft.space import ParameterSpace
from zoft.vectors import Vectors

EPS = 2.0**-10
DIRECTION = Direction(seed=3, step=5)
PLUS, MINUS = (Term(DIRECTION, EPS),), (Term(DIRECTION, -EPS),)


class TiedLM(nn.Module):
    """An embedding tied to its head, norms, biases and a parameter of the root's own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(37, 12)
        self.norm = nn.LayerNorm(12)
        self.hidden = nn.Linear(12, 12)
        self.head = nn.Linear(12, 37, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(12))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(torch.tanh(self.hidden(self.embed(ids))) * self.scale))


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def assert_bit_equal(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    for name, weight in model.named_parameters():
        assert isinstance(weight, nn.Parameter)
        assert torch.equal(weight.detach().view(torch.uint8), before[name].view(torch.uint8)), name


class InFloat32(nn.LayerNorm):
    """What a norm of a 16-bit model is while losses are taken."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float()).to(x.dtype)


def displaced(model: TiedLM, scale: float) -> TiedLM:
    """The same model with w + scale z written into it, by the definition; the norm in float32."""
    space = ParameterSpace(model, backend_name="reference")
    twin = TiedLM().to(model.embed.weight.dtype)
    twin.load_state_dict(model.state_dict())
    twin.norm = InFloat32(12)
    with torch.no_grad():
        for slot in space.slots:
            z = draw(DIRECTION, slot.window).reshape(slot.weight.shape)
            twin.get_parameter(slot.name).copy_(slot.weight.float() + scale * z)
    return twin


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def model(request: pytest.FixtureRequest) -> TiedLM:
    torch.manual_seed(0)
    return TiedLM().to(request.param)


IDS = torch.arange(20).reshape(4, 5)


def test_forward_sees_the_perturbed_weights_and_leaves_them(model: TiedLM) -> None:
    before = snapshot(model)
    view = ReadOnlyView(ParameterSpace(model))
    for scale, point in ((EPS, PLUS), (-EPS, MINUS)):
        with torch.no_grad(), view.at(point):
            seen = model(IDS)
        with torch.no_grad():
            assert torch.equal(seen, displaced(model, scale)(IDS))
    assert_bit_equal(model, before)


def test_tied_weights_are_one_parameter(model: TiedLM) -> None:
    space = ParameterSpace(model)
    assert [slot.name for slot in space.slots] == [
        "scale",
        "embed.weight",
        "norm.weight",
        "norm.bias",
        "hidden.weight",
        "hidden.bias",
    ]
    assert {id(module) for module, _ in space.slots[1].owners} == {id(model.embed), id(model.head)}


def test_weights_tied_through_memory_are_one_parameter() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = nn.Parameter(first.weight.data)  # another object, the same storage
    assert len(ParameterSpace(nn.Sequential(first, second)).slots) == 3


def test_partly_overlapping_weights_are_refused() -> None:
    flat = torch.zeros(20)
    module = nn.Module()
    module.first, module.second = nn.Parameter(flat[:12]), nn.Parameter(flat[8:])
    with pytest.raises(UsageError, match="'first' and 'second' overlap"):
        ParameterSpace(module)


@pytest.mark.parametrize("kind", [ReadOnly, InPlace])
def test_weights_survive_an_exception_half_way(model: TiedLM, kind: type) -> None:
    space = ParameterSpace(model)
    if kind is ReadOnly:
        perturbation = ReadOnly(space)
    else:
        if model.embed.weight.dtype is not torch.float32:
            with pytest.warns(UserWarning, match="writes noise into 16-bit"):
                perturbation = InPlace(space, eps=EPS, distribution=Distribution.RADEMACHER)
        else:
            perturbation = InPlace(space, eps=EPS, distribution=Distribution.RADEMACHER)
        perturbation.losses([PLUS, MINUS], lambda: 0.0)  # the first cycle settles 16-bit weights on their grid
    before = snapshot(model)
    calls = iter([lambda: model(IDS), lambda: model(torch.full((1, 1), 99))])  # 99 is not in the vocabulary
    with evaluation_mode(model), pytest.raises(IndexError):
        perturbation.losses([PLUS, MINUS], lambda: next(calls)().sum().item())
    if model.embed.weight.dtype is torch.float32 and kind is InPlace:
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight.detach(), before[name], rtol=0, atol=2e-7)
    else:
        assert_bit_equal(model, before)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_scratch_is_no_larger_than_the_largest_module(model: TiedLM) -> None:
    view = ReadOnlyView(ParameterSpace(model))
    with torch.no_grad(), view.at(PLUS):
        model(IDS)
    root = 64  # model.scale is held while the children run, rounded up to the alignment
    assert view.scratch_bytes <= model.embed.weight.nbytes + root + 64


def test_two_thousand_steps_at_learning_rate_zero_change_no_bit() -> None:
    torch.manual_seed(0)
    model = TiedLM().to(torch.bfloat16)
    before = snapshot(model)
    optimizer = ZOOptimizer(model, lr=0.0)
    for _ in range(2000):
        optimizer.step(lambda: model(IDS[:1, :2]).float().square().mean())
    assert optimizer.steps == 2000 and optimizer.skipped == 0
    assert_bit_equal(model, before)


@pytest.mark.parametrize(
    "module",
    [nn.Conv1d(3, 4, 2), nn.LSTM(4, 5), nn.GRU(4, 5), nn.BatchNorm1d(3), nn.Bilinear(4, 4, 2)],
    ids=lambda m: type(m).__name__,
)
def test_plain_modules_see_the_perturbed_weights(module: nn.Module) -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    arguments = (x, x) if isinstance(module, nn.Bilinear) else (x,)
    space = ParameterSpace(module, backend_name="reference")
    before = snapshot(module)
    with evaluation_mode(module), ReadOnlyView(space).at(PLUS):
        seen = module(*arguments)
    assert_bit_equal(module, before)
    space.move_([Move(PLUS)])
    with evaluation_mode(module):
        expected = module(*arguments)
    torch.testing.assert_close(seen, expected, rtol=0, atol=0)


class ReadsAChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.inner.weight)


@pytest.mark.parametrize("module", [ReadsAChild(), nn.MultiheadAttention(4, 2)], ids=lambda m: type(m).__name__)
def test_a_weight_read_outside_its_module_is_displaced_for_the_whole_pass(module: nn.Module) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    arguments = (x, x, x) if isinstance(module, nn.MultiheadAttention) else (x,)
    space = ParameterSpace(module, backend_name="reference")
    before = snapshot(module)
    losses = []
    with evaluation_mode(module):
        ReadOnlyView(space).evaluate(PLUS, lambda: losses.append(module(*arguments)) or 0.0)
        assert_bit_equal(module, before)
        space.move_([Move(PLUS)])
        expected = module(*arguments)
    seen, expected = (o[0] if isinstance(o, tuple) else o for o in (losses[-1], expected))
    assert torch.equal(seen, expected)


def test_a_weight_read_through_a_cached_reference_is_an_error_that_names_it() -> None:
    module = nn.Linear(4, 4)
    weight = module.weight
    view = ReadOnlyView(ParameterSpace(module))
    with pytest.raises(UnsupportedModuleError, match="'weight' is read by"), torch.no_grad():
        view.evaluate(PLUS, lambda: float((weight @ torch.ones(4)).sum() + module(torch.ones(4)).sum()))


class ReturnsItsWeight(nn.Module):
    """Position embeddings as some models keep them: a module that hands out a view of its table."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)))

        def forward(self, n: int) -> torch.Tensor:
            return self.rows[:n]

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = self.Table(), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.table(len(x))
        return self.linear(x) + rows


class ReadsAChildLater(ReadsAChild):
    """Takes the ordinary way twice, and then the other one."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.inner(x) if self.calls <= 2 else nn.functional.linear(x, self.inner.weight, self.inner.bias)


@pytest.mark.parametrize(("module", "passes"), [(ReturnsItsWeight(), 1), (ReadsAChildLater(), 4)])
def test_what_a_later_pass_or_a_returned_view_would_hide(module: nn.Module, passes: int) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    space = ParameterSpace(module, backend_name="reference")
    view, outputs = ReadOnlyView(space), []
    with evaluation_mode(module):
        for _ in range(passes):
            view.evaluate(PLUS, lambda: outputs.append(module(x)))
        space.move_([Move(PLUS)])
        assert torch.equal(outputs[-1], module(x))


def test_functional_dropout_of_the_root_is_off() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(self.inner(x), 0.5, self.training)

    module = Root().train()
    with evaluation_mode(module):
        assert torch.equal(module(torch.ones(8)), module(torch.ones(8))) and module.training
    assert not torch.equal(module(torch.ones(8)), module(torch.ones(8)))


def test_an_embedding_that_rewrites_itself_is_refused() -> None:
    with pytest.raises(UnsupportedModuleError, match="max_norm"):
        ParameterSpace(nn.Embedding(4, 4, max_norm=1.0))


def test_unused_parameters_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    module = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    with torch.no_grad():
        ReadOnlyView(ParameterSpace(module)).evaluate(PLUS, lambda: float(module["used"](torch.ones(1, 2)).sum()))
    assert "idle.weight" in caplog.text and "used.weight" not in caplog.text


def test_quantised_weights_cannot_be_trained_themselves() -> None:
    module = nn.Linear(2, 2)
    module.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    module.weight.requires_grad = False
    ParameterSpace(module)  # the bias alone is fine
    complex_weight = nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(UsageError, match=r"'weight' is torch\.complex64"):
        ParameterSpace(complex_weight)


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to train"):
        ParameterSpace(nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize("padding_idx", [None, 2, 15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_embedding_displaces_the_rows_that_are_looked_up_only(dtype: torch.dtype, padding_idx: int | None) -> None:
    """A padding index behind the number of rows (15) takes the whole table: same values, more scratch."""
    torch.manual_seed(0)
    model = nn.Embedding(1000, 40, padding_idx=padding_idx).to(dtype)
    space = ParameterSpace(model)
    view, ids = ReadOnlyView(space), torch.tensor([[7, 999, 2, 7], [0, 500, 131, 128]])
    (slot,) = space.slots
    moved = torch.empty_like(slot.weight)
    space.backend.axpby_(Target(slot.weight, slot.window, out=moved), [Move(PLUS)])
    with torch.no_grad(), view.at(PLUS):
        seen = model(ids)
    assert torch.equal(seen, moved[ids]) and model.weight is slot.weight
    assert view.scratch_bytes == (1000 if padding_idx == 15 else 8) * 40 * dtype.itemsize
    with torch.no_grad(), view.at(PLUS), pytest.raises(IndexError):
        model(torch.tensor([1, 2, 3, 1000]))
    assert model.weight is slot.weight


class Head(nn.Module):
    """A head whose weight fills two and a half panels."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.head = nn.Linear(24, 100, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_large_linear_layer_is_displaced_panel_by_panel(
    dtype: torch.dtype, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, x = Head(bias).to(dtype), torch.randn(2, 3, 24).to(dtype)
    whole, parts = ReadOnlyView(ParameterSpace(model)), ReadOnlyView(ParameterSpace(model))
    with torch.no_grad(), whole.at(PLUS):
        wanted = model(x)
    monkeypatch.setattr("zoft.read_only.PANEL_BYTES", 40 * 24 * dtype.itemsize)
    with torch.no_grad(), parts.at(PLUS):
        seen = model(x)
    torch.testing.assert_close(seen, wanted)
    assert not torch.equal(seen, model(x))
    assert whole.scratch_bytes >= 100 * 24 * dtype.itemsize
    assert parts.scratch_bytes == (whole.scratch_bytes if bias else 0)  # a bias must not be added to rounded products
    assert "forward" not in vars(model.head)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), parts.at(PLUS):
        torch.testing.assert_close(model(x).float(), wanted.float(), atol=0.05, rtol=0.05)


def test_a_large_layer_read_outside_its_module_is_displaced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoft.read_only.PANEL_BYTES", 1)
    torch.manual_seed(0)
    model = TiedLM()
    wanted = displaced(model, EPS)(IDS).square().mean()
    view = ReadOnlyView(ParameterSpace(model))
    with torch.no_grad():
        seen = view.evaluate(
            PLUS, lambda: nn.functional.linear(hidden_of(model, IDS), model.head.weight).square().mean()
        )
    torch.testing.assert_close(seen, wanted)


def hidden_of(model: TiedLM, ids: torch.Tensor) -> torch.Tensor:
    return model.norm(torch.tanh(model.hidden(model.embed(ids))) * model.scale)


def test_every_displaced_vector_begins_at_a_round_address() -> None:
    """Kernels and products read 16 bytes at once only there; one of odd length must not shift those behind it."""
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7), nn.LayerNorm(7)).to(torch.bfloat16)
    space = ParameterSpace(model)
    copies = Vectors(space, {slot for slot in space.slots if slot.name.startswith("2.")})
    with torch.no_grad():
        shown = copies.displaced(set(space.slots), (Move(()),))
    assert [copy.data_ptr() % ALIGNMENT for copy in shown.values()] == [0] * 4
    assert all(torch.equal(copy, slot.weight.to(copy.dtype)) for slot, copy in shown.items())


def test_vectors_are_displaced_in_one_sweep_a_pass(model: TiedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    space = ParameterSpace(model)
    sweeps: list[int] = []
    real = space.backend.sweep_
    kind = type(space.backend)  # an attribute of the instance, which all tests share, would not be taken away again
    monkeypatch.setattr(kind, "axpby_", lambda _, target, moves, *rest: real([target], moves, *rest))
    monkeypatch.setattr(
        kind,
        "sweep_",
        lambda _, targets, moves, *rest: (sweeps.append(len(targets)), real(targets, moves, *rest)),
    )
    ids = torch.tensor([[1, 2, 3]])
    view = ReadOnlyView(space)
    with torch.no_grad(), evaluation_mode(model):
        mine = view.evaluate(PLUS, lambda: model(ids))
        vectors = [slot for slot in space.slots if slot.window.total_columns == 1]
        assert sweeps == [len(vectors)] == [4]
        assert torch.equal(view.evaluate(PLUS, lambda: model(ids)), mine)
    assert torch.equal(mine, displaced(model, EPS)(ids))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layer_norms_of_16_bit_models_round_once(dtype: torch.dtype) -> None:
    """The norm sees weights displaced in float32; its output is float64's rounded once, but for a few last digits."""
    norm = nn.Sequential(nn.LayerNorm(64)).to(dtype)
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        mine = ReadOnlyView(ParameterSpace(norm)).evaluate(PLUS, lambda: norm(x))
        assert not torch.equal(mine, norm(x))
        weight, bias = (1.0 + EPS * draw(DIRECTION, slot.window) for slot in ParameterSpace(norm).slots)
        true = nn.functional.layer_norm(x.double(), (64,), weight.double().view(64), bias.double().view(64) - 1.0)
    assert mine.dtype is dtype and (mine != true.to(dtype)).float().mean() < 2e-3


def test_norms_and_lengths_wait_for_the_device_once_a_parameter_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once a panel: a model of 13 billion weights has three thousand."""
    monkeypatch.setattr("zoft.space.NORM_PANEL", 256)

    class Waits(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    model = nn.Sequential(nn.Linear(40, 300), nn.Linear(300, 2)).to(torch.float64)
    space, z = ParameterSpace(model, backend_name="reference"), Direction(1, 2, 0, Distribution.GAUSSIAN)
    with Waits() as waits:
        norm, (square, count) = space.norm(), space.length_of(z)
    assert waits.count == 0 and count == 12_902
    assert norm == pytest.approx(torch.cat([w.reshape(-1) for w in model.parameters()]).norm().item())
    drawn = [draw(z, slot.window).double().square().sum().item() for slot in space.slots]
    assert square == pytest.approx(sum(drawn))
