"""Settings of an optimizer that cannot go together with each other, or with a model: refused before the first loss."""

from __future__ import annotations

from zoft.backends.scaled import ScaledBackend
from zoft.directions import DirectionSource, LowRank
from zoft.errors import UsageError
from zoft.space import ParameterSpace


def check_merging(source: DirectionSource, space: ParameterSpace, perturbation: str, rule: str, sums: bool) -> None:
    """Raises UsageError where updates of matrices cannot wait (`zoft.backlog`).

    Args:
        rule: its name.
        sums: whether its moves are sums of multiples of directions, and nothing is kept beside the weights.
    """
    if not isinstance(source.form, LowRank) or perturbation == "in_place":
        form = source.form.shape if source.form else "dense"
        raise UsageError(
            "zo_merge_every keeps updates as multiples of thin directions, which read-only losses see through their factors, "
            f"but zo_shape={form} and perturbation={perturbation} were given: take zo_shape=low_rank or subspace and "
            "perturbation=read_only, or leave zo_merge_every at 1"
        )
    if not sums:
        raise UsageError(
            f"zo_merge_every keeps updates as multiples of directions, and those of zo_rule={rule} with these settings "
            "are spent tensor by tensor: take sgd, or momentum or adam with zo_momentum_buffer=window, or leave zo_merge_every "
            "at 1"
        )
    if space.sharded or space.streamed is not None:
        raise UsageError(
            "zo_merge_every keeps factors beside whole weights, and those of a sharded or streamed model come and go: leave it "
            "at 1"
        )


def check_together(
    source: DirectionSource,
    space: ParameterSpace,
    *,
    perturbation: str,
    groups: int,
    panels: str = "jit",
    rule: str = "",
) -> None:
    """Raises UsageError: the message says what, why and what to take instead."""
    if rule == "muon" and source.blocks is not None:
        raise UsageError(
            "zo_rule=muon moves every matrix by a step of full length, also those of the blocks that take no part in the "
            "losses: take zo_blocks=1 or another rule"
        )
    in_place = perturbation == "in_place"
    if panels == "lockstep" and (space.sharded or space.streamed is not None):
        raise UsageError(
            "zo_panels=lockstep reads whole weights where they are, and those of a sharded or streamed model come and go: take "
            "zo_panels=jit"
        )
    if space.sharded and (groups > 1 or in_place):
        raise UsageError(
            "a sharded model is gathered by all ranks at once, for the same points: leave zo_direction_groups at 1, and "
            "take perturbation=read_only"
        )
    if space.streamed is not None and (in_place or source.sphere or isinstance(space.backend, ScaledBackend)):
        raise UsageError(
            "memory_budget streams blocks in and out: perturbation=in_place would write them several times in a step, "
            "zo_distribution=sphere reads all of them at once, and zo_rule=hizoo was never tried with it; take "
            "perturbation=read_only, another distribution, another rule, or leave memory_budget out"
        )
    if source.sphere and (in_place or space.sharded):
        raise UsageError(
            "zo_distribution=sphere needs the length of z over all weights, which is in no record and which no part of a "
            "model knows: take perturbation=read_only and an unsharded model, or zo_distribution=gaussian"
        )
    if isinstance(space.backend, ScaledBackend) and (source.sphere or source.blocks is not None):
        raise UsageError(
            "zo_rule=hizoo ages the curvature of every weight by the squares of normals in every step: take "
            "zo_distribution=gaussian and zo_blocks=1, or another rule"
        )
    if source.small is not None and (in_place or space.momenta):
        raise UsageError(
            "zo_shape=small_weights reads off the weights which of them move, so noise must not be in them, and a rule's "
            "buffer is none; take perturbation=read_only and zo_momentum_buffer=window, or another rule"
        )
