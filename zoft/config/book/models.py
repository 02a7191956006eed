"""The models of the recipe book: where they are, how large, and what a step on them takes."""

from __future__ import annotations

from dataclasses import dataclass

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class BookModel:
    """Sizes are those of the published configuration."""

    hub: str
    parameters: float  # tied ones once
    hidden: int
    inner: int  # width of the feed-forward layer
    vocabulary: int  # times `hidden`: the largest tensor
    gated: bool = False  # whether a licence must be accepted on the Hub first

    def weight_bytes(self, dtype: str) -> float:
        """Bytes of the weights."""
        return self.parameters * BYTES[dtype]

    def step_bytes(self, dtype: str, rows: int, tokens: int) -> float:
        """Computed bytes of a full-parameter step: weights, scratch for the largest tensor, and one layer's activations.

        Args:
            rows: sequences in a batch.
            tokens: of each.
        """
        scratch = self.vocabulary * self.hidden * 4  # noise is drawn in float32
        activations = rows * tokens * (self.inner + 6 * self.hidden) * BYTES[dtype]
        return self.weight_bytes(dtype) + scratch + activations


MODELS = {
    "opt-125m": BookModel("facebook/opt-125m", 125.2e6, 768, 3072, 50272),
    "opt-1.3b": BookModel("facebook/opt-1.3b", 1.316e9, 2048, 8192, 50272),
    "opt-13b": BookModel("facebook/opt-13b", 12.85e9, 5120, 20480, 50272),
    "opt-30b": BookModel("facebook/opt-30b", 29.97e9, 7168, 28672, 50272),
    "opt-66b": BookModel("facebook/opt-66b", 65.72e9, 9216, 36864, 50272),
    "roberta-large": BookModel("FacebookAI/roberta-large", 355.4e6, 1024, 4096, 50265),
    "llama-2-7b": BookModel("meta-llama/Llama-2-7b-hf", 6.738e9, 4096, 11008, 32000, gated=True),
    "llama-3-8b": BookModel("meta-llama/Meta-Llama-3-8B", 8.030e9, 4096, 14336, 128256, gated=True),
    "mistral-7b": BookModel("mistralai/Mistral-7B-v0.1", 7.242e9, 4096, 14336, 32000),
    "qwen3-4b": BookModel("Qwen/Qwen3-4B-Base", 4.022e9, 2560, 9728, 151936),
    "qwen3-8b": BookModel("Qwen/Qwen3-8B-Base", 8.191e9, 4096, 12288, 151936),
}
