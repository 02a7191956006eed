"""Peak bytes of a step: what is kept, and the most that lives beside it at one time."""

from __future__ import annotations

from dataclasses import dataclass

from zoft.costs.sizes import BYTES, Sizes

STORED = {
    "nf4": 0.5 + 4 / 64,
    "fp4": 0.5 + 4 / 64,
    "int8": 1.0,
}  # bytes a quantised weight; int8's scales are one a row
TILE = 32 << 20  # bytes of a large matrix that are displaced, or dequantised, at once
LOGITS = 1 << 26  # that are made at once of all positions (`zoft.objectives.token_likelihood`)
PARTS = (
    "lora",
    "prefix",
    "prompt",
    "head",
    "last_k",
    "bias",
    "scales",
)  # tunings that leave the matrices where they are
ADAPTER = 4  # bytes of an adapter's weight: PEFT keeps them in float32


@dataclass(frozen=True)
class Setup:
    """How a step is taken, and on what."""

    dtype: str = "float32"
    tuning: str = "full"
    quantization: str = "none"  # of the linear layers
    in_place: bool = False
    beside: float = 0.0  # bytes kept for each trained weight: residual bits, a momentum buffer
    rows: int = 16  # of a micro-batch on one process
    points: int = 1  # of a step's population that go through the model at once (zo_panels=lockstep)
    tokens: int = 128  # of a row
    all_logits: bool = False  # of every position, and not of the few that candidates are read at
    lora_r: int = 8
    virtual_tokens: int = 5
    last_k: int = 1
    shards: int = 1  # processes among which the weights are cut (FSDP2)

    @property
    def itemsize(self) -> int:
        """Bytes of a weight, and of an activation."""
        return BYTES[self.dtype]


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: float
    beside: float  # adapters, residual bits, momentum
    scratch: float  # displaced, dequantised or gathered copies
    activations: float  # and logits

    @property
    def total(self) -> float:
        return self.weights + self.beside + self.scratch + self.activations


def step_memory(sizes: Sizes, setup: Setup) -> Memory:
    """The peak of a step, computed.

    Not in it: what the device's own runtime takes (0.5 GB or so on a GPU), and the allocator's waste.
    """
    weights = stored_bytes(sizes, setup)
    own = trained(sizes, setup)
    beside = own * setup.beside
    if setup.tuning in ("lora", "prefix", "prompt"):
        beside += own * ADAPTER
    if setup.tuning == "head" and sizes.tied:
        weights += sizes.head * setup.itemsize
    gathered = 0.0
    if setup.shards > 1:  # two blocks, of which the second arrives while the first computes, and what no block holds
        block = sizes.matrices / sizes.layers * setup.itemsize
        gathered = 2 * block + (sizes.parameters - sizes.matrices) * setup.itemsize
    return Memory(
        weights / setup.shards, beside / setup.shards, _scratch(sizes, setup) + gathered, _activations(sizes, setup)
    )


def stored_bytes(sizes: Sizes, setup: Setup) -> float:
    """Bytes of the base's weights; embeddings, norms and the output matrix are never quantised."""
    a_matrix = STORED.get(setup.quantization, setup.itemsize)
    return sizes.matrices * a_matrix + (sizes.parameters - sizes.matrices) * setup.itemsize


def trained(sizes: Sizes, setup: Setup) -> float:
    """How many weights are trained."""
    s = sizes
    return {
        "full": s.parameters,
        "lora": s.layers * setup.lora_r * (2 * s.hidden + s.attention + s.keys),  # beside queries and values
        "prefix": s.layers * 2 * s.keys * setup.virtual_tokens,
        "prompt": s.hidden * setup.virtual_tokens,
        "head": s.head,
        "last_k": s.matrices / s.layers * setup.last_k,
        "bias": s.layers * (7 * s.hidden + s.inner),
        "scales": s.matrices / (s.hidden if setup.quantization == "int8" else 64),
    }[setup.tuning]


def displaced(sizes: Sizes, setup: Setup) -> float:
    """Trained weights that are made anew for a forward at w + s z; of an embedding only the rows looked up are."""
    if setup.tuning == "full":
        return sizes.matrices + (sizes.head if setup.all_logits else 0.0)
    return trained(sizes, setup)


def _scratch(sizes: Sizes, setup: Setup) -> float:
    size = setup.itemsize
    if setup.quantization != "none":  # a matrix for its product
        return min(TILE, sizes.largest * size) if setup.tuning == "scales" else sizes.largest * size
    if setup.in_place:
        return 0.0
    if setup.tuning in ("full", "last_k"):
        rows = 0.0  # of the embedding
        if setup.tuning == "full":
            rows = 2 * setup.points * setup.rows * setup.tokens * sizes.hidden * size
        matrix = sizes.largest * size
        block = sizes.matrices / sizes.layers * size  # displaced at once, where it is small enough (`zoft.grouped`)
        panels = max(matrix, min(TILE, block)) if setup.points == 1 else min(TILE, setup.points * matrix)
        return max(panels, rows)
    return min(TILE, sizes.head * size) if setup.tuning == "head" else 0.0


def _activations(sizes: Sizes, setup: Setup) -> float:
    """The widest place of a block: no graph is kept, so no block remembers the one before."""
    positions = (
        setup.points
        * setup.rows
        * (setup.tokens + (setup.virtual_tokens if setup.tuning in ("prefix", "prompt") else 0))
    )
    feed = (3 if sizes.gated else 2) * sizes.inner + 4 * sizes.hidden
    attend = 4 * sizes.hidden + 3 * sizes.attention + 2 * sizes.keys
    block = positions * max(feed, attend) * setup.itemsize
    if not setup.all_logits:
        return block
    logits = min(positions * sizes.vocabulary, LOGITS) * (setup.itemsize + 8)  # and twice in float32, at most
    return max(block, positions * 2 * sizes.hidden * setup.itemsize + logits)
