"""The models of the recipe book: where they are and how large."""

from __future__ import annotations

from dataclasses import dataclass

from zoft.costs.memory import Memory, Setup, step_memory, stored_bytes
from zoft.costs.sizes import Sizes, decoder


@dataclass(frozen=True)
class BookModel:
    """Sizes are those of the published configuration."""

    hub: str
    sizes: Sizes
    gated: bool = False  # whether a licence must be accepted on the Hub first

    @property
    def parameters(self) -> float:
        """Tied ones once."""
        return self.sizes.parameters

    def weight_bytes(self, setup: Setup) -> float:
        """Bytes of the base's weights."""
        return stored_bytes(self.sizes, setup)

    def step_memory(self, setup: Setup) -> Memory:
        """Computed bytes of a step."""
        return step_memory(self.sizes, setup)


def _opt(size: str, parameters: float, hidden: int, layers: int) -> BookModel:
    sizes = decoder(parameters, hidden, 4 * hidden, layers, 50272, keys=hidden, attention=hidden, gated=False)
    return BookModel(f"facebook/opt-{size}", sizes)


def _llama(
    hub: str,
    parameters: float,
    hidden: int,
    inner: int,
    layers: int,
    vocabulary: int,
    keys: int,
    attention: int,
    gated: bool,
) -> BookModel:
    return BookModel(hub, decoder(parameters, hidden, inner, layers, vocabulary, keys, attention, gated=True), gated)


MODELS = {
    "opt-125m": _opt("125m", 125.2e6, 768, 12),
    "opt-1.3b": _opt("1.3b", 1.316e9, 2048, 24),
    "opt-13b": _opt("13b", 12.85e9, 5120, 40),
    "opt-30b": _opt("30b", 29.97e9, 7168, 48),
    "opt-66b": _opt("66b", 65.72e9, 9216, 64),
    "roberta-large": BookModel(
        "FacebookAI/roberta-large", decoder(355.4e6, 1024, 4096, 24, 50265, keys=1024, attention=1024, gated=False)
    ),
    "llama-2-7b": _llama("meta-llama/Llama-2-7b-hf", 6.738e9, 4096, 11008, 32, 32000, 4096, 4096, True),
    "llama-3-8b": _llama("meta-llama/Meta-Llama-3-8B", 8.030e9, 4096, 14336, 32, 128256, 1024, 4096, True),
    "mistral-7b": _llama("mistralai/Mistral-7B-v0.1", 7.242e9, 4096, 14336, 32, 32000, 1024, 4096, False),
    "qwen3-4b": _llama("Qwen/Qwen3-4B-Base", 4.022e9, 2560, 9728, 36, 151936, 1024, 4096, False),
    "qwen3-8b": _llama("Qwen/Qwen3-8B-Base", 8.191e9, 4096, 12288, 36, 151936, 1024, 4096, False),
}
