"""A read-only step needs little more memory than the forward passes it consists of: resident bytes of a process of its own."""

import subprocess
import sys

import pytest

from zoft.bench.peak import RESET

RUN = """
import sys, torch
from torch import nn
from zoft import products
from zoft.bench.peak import peak_bytes
from zoft.lockstep import BatchLoss
from zoft.optimizer import ZOOptimizer
from zoft.perturb import evaluation_mode

class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(200_000, 64)
        self.hidden = nn.Linear(64, 64)
        self.head = nn.Linear(64, 200_000, bias=False)
        self.head.weight = self.embed.weight  # 51 MB

    def forward(self, ids):
        logits = self.head(torch.relu(self.hidden(self.embed(ids))))
        each = nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
        return each.view(ids.shape).mean(1)

mode, dtype = sys.argv[1:]
wide = [torch.bfloat16] if mode != "plain" else []  # plain: torch's own products, whatever the processor
products.slow_dtypes = lambda: frozenset(wide)
torch.manual_seed(0)
model = LM().to(getattr(torch, dtype))
optimizer = ZOOptimizer(model, lr=1e-6, panels="lockstep" if mode == "lockstep" else "jit")
ids = torch.randint(0, 200_000, (2, 64))

def plain():
    with evaluation_mode(model):
        for _ in range(2):
            model(ids).mean().item()

def twice():
    with evaluation_mode(model):
        model(ids.repeat(2, 1)).mean().item()

def loss(ids):
    return BatchLoss(lambda batch: model(batch["ids"]), {"ids": ids})

for _ in range(2):
    optimizer.step(loss(ids[:, :2]))  # compiles, and audits the first passes
work = {"plain": plain, "twice": twice}.get(mode, lambda: optimizer.step(loss(ids)))
print(peak_bytes(work))
"""


def peak(mode: str, dtype: str) -> int:
    done = subprocess.run([sys.executable, "-c", RUN, mode, dtype], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize(
    ("step", "forwards", "dtype"),
    [("jit", "plain", "float32"), ("lockstep", "twice", "float32"), ("jit", "plain", "bfloat16")],
)
def test_a_read_only_step_peaks_at_most_15_percent_above_plain_inference(step, forwards, dtype) -> None:
    """Of the same rows at once: in lockstep those of both points. In bfloat16 the step's products are taken in float32."""
    try:
        open(RESET, "w").close()
    except OSError:
        pytest.skip(f"{RESET} cannot be written here: resident peaks are not counted")
    plain, whole = peak(forwards, dtype), peak(step, dtype)
    print(f"{forwards} {plain / 1e6:.1f} MB, {step} {whole / 1e6:.1f} MB")
    assert plain > 80e6, plain  # logits of 128 positions, and what the loss makes of them
    assert whole <= 1.15 * plain, (whole, plain)
