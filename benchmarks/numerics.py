"""How much of what a run intends reaches half-precision weights: applied against intended displacement; replay speed.

    python benchmarks/numerics.py                 the table of docs/experiments.md
    python benchmarks/numerics.py --normal        the same with coefficients that vary in size
    python benchmarks/numerics.py --replay        steps per second of replay and of training

2,000 steps on weights drawn from N(0, 0.02^2), coefficients c_t = +10 or -10. Intended: D = -lr sum_t c_t z_t in float64.
Applied: A = what the stored weights (residual bits included) moved. slope = <A, D> / <D, D>, cosine = <A, D> / |A| |D|.
MeZO draws its own z, in the weights' dtype, and its +eps, -2 eps, +eps are part of its step.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoft.backends import Move, Rounding, Term
from zoft.directions import Direction, Distribution
from zoft.mezo import MeZO
from zoft.optimizer import ZOOptimizer
from zoft.space import ParameterSpace
from zoft.trajectory import TrajectoryLog, attach, replay

SCALE = 0.02  # of the weights
SLOPE = 10.0  # size of the coefficients, loss per unit length
AT_ONCE = 200  # moves in one pass


class Matrix(nn.Module):
    """One weight matrix [rows, 256]; its initial value is exact in the half-precision type that is measured."""

    def __init__(self, rows: int, dtype: torch.dtype, through: torch.dtype, seed: int = 0) -> None:
        super().__init__()
        start = torch.randn(rows, 256, generator=torch.Generator().manual_seed(seed)) * SCALE
        self.weight = nn.Parameter(start.to(through).to(dtype))


@dataclass(frozen=True)
class Result:
    """How the applied displacement compares with the intended one."""

    slope: float
    cosine: float


def compare(applied: torch.Tensor, intended: torch.Tensor) -> Result:
    """Both float64, of one shape."""
    dot = float((applied * intended).sum())
    return Result(dot / float(intended.square().sum()), dot / float(applied.norm() * intended.norm()))


def coefficients(steps: int, normal: bool) -> list[float]:
    """[steps] +10 or -10 at random, or normal with standard deviation 10."""
    draws = torch.randn(steps, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (SLOPE * (draws if normal else draws.sign())).tolist()


def run_space(model: Matrix, rounding: Rounding, law: Distribution, lr: float, given: list[float]) -> torch.Tensor:
    """The weights after the steps, in float64, residual bits included."""
    space = ParameterSpace(model, rounding=rounding)
    moves = [Move((Term(Direction(0, step, 0, law), -lr * c),), rounding_key=(0, step)) for step, c in enumerate(given)]
    for start in range(0, len(given), AT_ONCE):
        space.move_(moves[start : start + AT_ONCE])
    return stored(space)


def stored(space: ParameterSpace) -> torch.Tensor:
    """What the storage holds: the weight, or weight and residual bits as the float32 number that they make."""
    slot = space.slots[0]
    if slot.residual is None:
        return slot.weight.detach().double()
    shift = 8 if slot.residual.dtype is torch.int8 else 0
    bits = (slot.weight.detach().view(torch.int16).int() << 16) + (slot.residual.int() << shift)
    return bits.view(torch.float32).double()


def measure_space(
    rows: int, dtype: torch.dtype, rounding: Rounding, law: Distribution, lr: float, given: list[float]
) -> Result:
    exact = Matrix(rows, torch.float64, dtype)
    start = exact.weight.detach().clone()
    intended = run_space(exact, Rounding.NEAREST, law, lr, given) - start
    return compare(run_space(Matrix(rows, dtype, dtype), rounding, law, lr, given) - start, intended)


def measure_mezo(rows: int, dtype: torch.dtype, lr: float, given: list[float]) -> Result:
    """MeZO's four passes a step, fed the same coefficients."""
    model = Matrix(rows, dtype, dtype)
    start = model.weight.detach().double()
    intended = torch.zeros_like(start)
    optimizer = MeZO(model, lr=lr, eps=1e-3)
    for step, c in enumerate(given):
        seed = optimizer.seed_of(step)
        for _, _, z in optimizer.draws(seed):
            intended -= lr * c * z.double()
        for scale in (1.0, -2.0, 1.0):
            optimizer.perturb_(seed, scale)
        optimizer.update_(seed, c)
    return compare(model.weight.detach().double() - start, intended)


def table(rows: int, given: list[float]) -> None:
    """Prints the Markdown table of docs/experiments.md."""
    laws = (Distribution.RADEMACHER, Distribution.GAUSSIAN)
    kinds = [
        (dtype, rounding)
        for dtype, names in (
            (torch.bfloat16, tuple(Rounding)),
            (torch.float16, (Rounding.NEAREST, Rounding.STOCHASTIC)),
            (torch.float32, (Rounding.NEAREST,)),
        )
        for rounding in names
    ]
    print("| weights | storage | bytes | z | slope 1e-7 | cosine 1e-7 | slope 1e-6 | cosine 1e-6 |")
    print("|---|---|---|---|---|---|---|---|")
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        row(dtype, "MeZO, in place", "gaussian", lambda lr, dtype=dtype: measure_mezo(rows, dtype, lr, given))
        for kind, rounding in kinds:
            if kind is dtype:
                for law in laws:
                    row(
                        dtype,
                        rounding.value,
                        law.value,
                        lambda lr, d=dtype, r=rounding, law=law: measure_space(rows, d, r, law, lr, given),
                    )


def row(dtype: torch.dtype, storage: str, law: str, measure: Callable[[float], Result]) -> None:
    extra = {"residual8": 1, "residual16": 2}.get(storage, 0)
    numbers = [f"{value:.4f}" for lr in (1e-7, 1e-6) for r in (measure(lr),) for value in (r.slope, r.cosine)]
    name = str(dtype).removeprefix("torch.")
    print("|", " | ".join([name, storage, str(dtype.itemsize + extra), law, *numbers]), "|", flush=True)


def replay_speed(steps: int, hidden: int) -> None:
    """A small OPT: seconds a step of training (batch 16 of 32 tokens) and of replay, in this process."""
    from transformers import OPTConfig, OPTForCausalLM

    size: dict[str, Any] = {
        "hidden_size": hidden,
        "word_embed_proj_dim": hidden,
        "ffn_dim": 4 * hidden,
        "num_attention_heads": 4,
    }
    config = OPTConfig(vocab_size=2048, num_hidden_layers=4, max_position_embeddings=64, **size)
    print("| weights | rule | training, steps/s | replay, steps/s | ratio |\n|---|---|---|---|---|")
    for dtype, rule, mode in (
        ("float32", "sgd", "read_only"),
        ("bfloat16", "sgd", "read_only"),
        ("float32", "sgd", "in_place"),
        ("float32", "momentum", "read_only"),
    ):
        torch.manual_seed(0)
        model: nn.Module = OPTForCausalLM(config).to(getattr(torch, dtype)).eval()
        torch.manual_seed(0)
        base: nn.Module = OPTForCausalLM(config).to(getattr(torch, dtype)).eval()
        optimizer = ZOOptimizer(model, lr=1e-6, weight_rounding="auto", rule=rule, perturbation=mode)
        loss = partial(loss_of, model, torch.randint(0, 2048, (16, 32)))
        optimizer.step(loss)  # compiled and audited before the clock starts
        with tempfile.TemporaryDirectory() as folder:
            optimizer = ZOOptimizer(model, lr=1e-6, weight_rounding="auto", rule=rule, perturbation=mode)
            optimizer.space.load_weights({n: w.detach() for n, w in zip_named(optimizer.space, base)})
            recorder = attach(optimizer, Path(folder) / "log")
            started = time.perf_counter()
            for _ in range(steps):
                optimizer.step(loss)
            training = (time.perf_counter() - started) / steps
            recorder.close()
            log = TrajectoryLog.read(Path(folder) / "log")
        started = time.perf_counter()
        arrived = replay(base, log)
        seconds = (time.perf_counter() - started) / steps
        assert arrived.space.fingerprint() == optimizer.space.fingerprint(), "replay must equal the run"
        what = f"{dtype}, {optimizer.space.rounding.value}, {mode}, {optimizer.space.elements / 1e6:.1f} M"
        print(f"| {what} | {rule} | {1 / training:.1f} | {1 / seconds:.1f} | {training / seconds:.1f} |", flush=True)


def loss_of(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, labels=ids).loss


def zip_named(space: ParameterSpace, base: nn.Module) -> list[tuple[str, torch.Tensor]]:
    named = dict(base.named_parameters())
    return [(slot.name, named[slot.name]) for slot in space.slots]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="2000; 200 with --replay")
    parser.add_argument("--rows", type=int, default=256, help="of 256 weights each")
    parser.add_argument("--normal", action="store_true", help="normal coefficients instead of +10 and -10")
    parser.add_argument("--replay", action="store_true", help="measure replay instead")
    parser.add_argument("--hidden", type=int, default=128, help="width of the model that is replayed")
    asked = parser.parse_args()
    if asked.replay:
        replay_speed(asked.steps or 200, asked.hidden)
    else:
        table(asked.rows, coefficients(asked.steps or 2000, asked.normal))
