"""Peak memory: exact where it can be worked out on paper."""

import gc

import pytest
import torch
from torch import nn

from zoft.report.memory import adamw_step_bytes, peak_tensor_bytes, weight_bytes, zo_step_bytes


def mlp(inputs: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, 1, bias=False))


def test_the_most_that_lives_at_one_time_is_counted_not_the_sum():
    def work():
        for _ in range(5):
            torch.zeros(1000)

    assert peak_tensor_bytes(work) == 4000


def test_views_and_in_place_writes_make_nothing():
    x = torch.zeros(100, 10)
    assert peak_tensor_bytes(lambda: x.view(10, 100).add_(1.0).t()[3:]) == 0


def test_a_view_keeps_its_whole_storage_alive():
    def work():
        row = torch.zeros(100, 10)[0]
        return row, torch.ones(5)

    assert peak_tensor_bytes(work) == 4000 + 20


def test_what_existed_before_counts_nothing_even_when_freed_meanwhile():
    held = [torch.zeros(1000)]

    def work():
        held[0].add_(1.0)
        held.clear()
        return torch.zeros(500)

    assert peak_tensor_bytes(work) == 2000


def test_tensors_made_from_python_numbers_count():
    assert peak_tensor_bytes(lambda: torch.tensor([1.0, 2.0, 3.0])) == 12


def test_a_resized_storage_counts_with_its_new_size():
    assert peak_tensor_bytes(lambda: torch.empty(10).resize_(50)) == 200


def test_what_autograd_saves_lives_until_backward():
    """x and e^x are made, the graph keeps e^x; without a graph only one result outlives the next operator."""
    leaf = torch.zeros(1000, requires_grad=True)

    def work():
        return leaf.exp().exp().exp()

    assert peak_tensor_bytes(work) == 3 * 4000
    with torch.no_grad():
        assert peak_tensor_bytes(work) == 2 * 4000


def test_peak_is_above_the_start_of_each_call():
    assert [peak_tensor_bytes(lambda: torch.zeros(10)) for _ in range(3)] == [40, 40, 40]


@pytest.mark.parametrize(("inputs", "hidden", "batch"), [(64, 32, 1), (50, 20, 7)])
def test_adamw_step_of_an_mlp_is_the_closed_form(inputs, hidden, batch):
    """The peak is in the second backward, when the first layer's gradient was just made: P weights, P gradients,
    2 P moments; the [batch, hidden] gradient it is made from; the loss, the 1 that starts backward, two step counters.
    """
    model, x = mlp(inputs, hidden), torch.ones(batch, inputs)
    parameters = inputs * hidden + hidden
    expected = 4 * (4 * parameters + batch * hidden + 1 + 1 + 2)
    assert adamw_step_bytes(model, lambda m: m(x).sum()) == expected


def test_measuring_leaves_model_and_random_state_alone():
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), torch.ones(2, 8)
    model.requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    adamw_step_bytes(model, lambda m: m(x).square().mean())
    zo_step_bytes(model, lambda m: m(x).square().mean())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert all(weight.grad is None and not weight.requires_grad for weight in model.parameters())


def test_a_zeroth_order_step_keeps_no_gradients_and_no_moments():
    """Its scratch is a few copies of the largest matrix, here one in eight; AdamW needs three more copies of all."""
    layers = [nn.Linear(128, 128, bias=False) for _ in range(8)]
    model, x = nn.Sequential(*layers), torch.ones(1, 128)
    weights = weight_bytes(model)
    assert weights == 8 * 128 * 128 * 4
    assert adamw_step_bytes(model, lambda m: m(x).sum()) >= 4 * weights
    assert weights < zo_step_bytes(model, lambda m: m(x).sum()) < 2 * weights


def test_a_step_in_lockstep_is_counted_with_all_points_rows():
    model, x = nn.Sequential(nn.Linear(16, 512, bias=False), nn.Linear(512, 1, bias=False)), torch.ones(64, 16)
    turns = zo_step_bytes(model, lambda m: m(x).square().mean())
    at_once = zo_step_bytes(model, lambda m, b: m(b["x"]).square().flatten(), batch={"x": x}, panels="lockstep")
    hidden = 64 * 512 * 4
    assert turns + 0.9 * hidden < at_once < turns + 3 * hidden


def test_nothing_is_kept_after_counting():
    gc.collect()
    kept = []
    peak_tensor_bytes(lambda: kept.append(torch.zeros(10)))
    kept.clear()  # the storage's end is reported to a counter that is no longer active
    assert peak_tensor_bytes(lambda: torch.zeros(10)) == 40


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_counts_what_the_allocator_hands_out():
    assert peak_tensor_bytes(lambda: torch.zeros(1 << 20, device="cuda"), "cuda") == 4 << 20
