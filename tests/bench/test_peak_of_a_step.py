"""A read-only step needs little more memory than the forward passes it consists of: resident bytes of a process of its own."""

import subprocess
import sys

import pytest

from zoft.bench.peak import RESET

RUN = """
import sys, torch
from torch import nn
from zoft.bench.peak import peak_bytes
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
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())

torch.manual_seed(0)
model = LM()
optimizer = ZOOptimizer(model, lr=1e-6)
ids = torch.randint(0, 200_000, (2, 64))

def plain():
    with evaluation_mode(model):
        for _ in range(2):
            model(ids).item()

for _ in range(2):
    optimizer.step(lambda: model(ids[:, :2]))  # compiles, and audits the first passes
work = plain if sys.argv[1] == "plain" else lambda: optimizer.step(lambda: model(ids))
print(peak_bytes(work))
"""


def peak(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", RUN, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_read_only_step_peaks_at_most_15_percent_above_plain_inference() -> None:
    try:
        open(RESET, "w").close()
    except OSError:
        pytest.skip(f"{RESET} cannot be written here: resident peaks are not counted")
    plain, step = peak("plain"), peak("step")
    assert plain > 100e6, plain  # logits of 128 positions, and what the loss makes of them
    assert step <= 1.15 * plain, (step, plain)
