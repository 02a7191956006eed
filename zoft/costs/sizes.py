"""The sizes of a transformer, as far as costs depend on them."""

from __future__ import annotations

from dataclasses import dataclass

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Sizes:
    """Counts of weights and widths of activations."""

    parameters: float  # tied ones once
    matrices: float  # of them, those in the blocks' linear layers: what every token is multiplied with
    largest: float  # weights in the largest of these
    hidden: int
    inner: int  # width of the feed-forward layer
    layers: int
    vocabulary: int
    attention: int  # width of the queries, all heads together
    keys: int  # width of the keys
    gated: bool = False  # the feed-forward layer has two matrices of `inner` rows
    tied: bool = True  # the output matrix is the input's
    tensors: int = 16  # of a block: matrices, biases, norms

    @property
    def head(self) -> float:
        """Weights of the output matrix."""
        return float(self.vocabulary * self.hidden)


def decoder(
    parameters: float, hidden: int, inner: int, layers: int, vocabulary: int, keys: int, attention: int, gated: bool
) -> Sizes:
    """The sizes that follow from a published configuration; biases and norms count in `parameters` alone."""
    feed = (3 if gated else 2) * hidden * inner
    matrices = layers * (2 * hidden * attention + 2 * hidden * keys + feed)
    tied = parameters < matrices + 1.5 * vocabulary * hidden
    largest = hidden * max(inner, attention)
    tensors = 9 if gated else 16  # with and without biases
    return Sizes(
        parameters, matrices, largest, hidden, inner, layers, vocabulary, attention, keys, gated, tied, tensors
    )
