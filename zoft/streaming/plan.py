"""Which blocks of a model live outside the device: what fits into the budget stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from zoft.errors import UsageError
from zoft.few_rows import can_give_rows
from zoft.limits import human_bytes

Beside = Callable[[nn.Parameter], int]  # bytes that training keeps beside a weight


@dataclass(frozen=True, eq=False)
class Block:
    """A part of the model that runs as one: a decoder's layer, say."""

    name: str
    module: nn.Module
    weights: tuple[nn.Parameter, ...]  # that nobody else holds
    nbytes: int  # of them, and of what lies beside them


@dataclass(frozen=True)
class Plan:
    """What streams, in the order of the model."""

    streamed: tuple[Block, ...]
    blocks: int  # in all
    nbytes: int  # of the whole model, with what lies beside its weights
    resident: int  # the most that is on the device at once: what stays, two blocks, the largest perturbed copy
    largest: int  # bytes of the largest streamed block


def blocks_of(model: nn.Module, beside: Beside) -> list[Block]:
    """The children of the outermost module lists, each with the weights that it alone holds.

    Weights that are tied to another module's, lie strided or are no numbers stay where they are.
    """
    holders = Counter(id(weight) for module in model.modules() for weight in module._parameters.values())
    found: list[Block] = []
    inside: set[nn.Module] = set()
    for path, modules in model.named_modules():
        if not isinstance(modules, nn.ModuleList) or modules in inside:
            continue
        inside.update(modules.modules())
        for name, module in modules.named_children():
            alone = tuple(w for w in module.parameters() if holders[id(w)] == 1 and w.is_contiguous() and w.numel())
            if alone and module not in (block.module for block in found):
                found.append(Block(f"{path}.{name}", module, alone, sum(w.nbytes + beside(w) for w in alone)))
    return found


def plan(model: nn.Module, budget: int, beside: Beside = lambda weight: 0) -> Plan:
    """As few blocks stream as the budget allows, spread evenly over the model, so that each has time to arrive.

    Args:
        budget: bytes that weights may take on the device, with what training keeps beside them, two blocks on their way and
            the largest perturbed copy. Activations come on top.
        beside: what training keeps beside each weight.

    Raises:
        UsageError: not even the largest blocks fit, or a model that cannot be streamed.
    """
    _check(model)
    smallest = None
    for smallest in _plans(model, beside):
        if smallest.resident <= budget:
            return smallest
    assert smallest is not None
    what = f"its {smallest.blocks} blocks stream" if smallest.blocks else "it has no list of blocks that could stream"
    raise UsageError(
        f"memory_budget is {human_bytes(budget, 4)}, but {type(model).__name__} needs {human_bytes(smallest.resident, 4)}, "
        f"even where {what}: embeddings and the like, two blocks and a perturbed copy are on the device; raise it"
    )


def _plans(model: nn.Module, beside: Beside) -> Iterator[Plan]:
    """One for each number of streamed blocks, from none to all."""
    found = blocks_of(model, beside)
    total = sum(weight.nbytes + beside(weight) for weight in model.parameters())
    inside = {module for block in found for module in block.module.modules()}
    whole = (module for module in model.modules() if module in inside or not _in_parts(module))
    copy = max((weight.nbytes for module in whole for weight in _trained(module)), default=0)
    for count in range(len(found) + 1):
        chosen = [block for i, block in enumerate(found) if (i + 1) * count // len(found) > i * count // len(found)]
        largest = max((block.nbytes for block in chosen), default=0)
        resident = total - sum(block.nbytes for block in chosen) + min(2, count) * largest + copy
        yield Plan(tuple(chosen), len(found), total, resident, largest)


def _in_parts(module: nn.Module) -> bool:
    """Whether a step displaces rows or panels of the module's weight: of a table, of a head without a bias."""
    table = isinstance(module, nn.Embedding) and type(module).forward is nn.Embedding.forward
    return table or (can_give_rows(module) and module.bias is None)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in module._parameters.values() if weight is not None and weight.requires_grad]


def _check(model: nn.Module) -> None:
    """UsageError for weights that cannot be moved as they are."""
    for name, weight in model.named_parameters():
        if hasattr(weight, "placements"):
            raise UsageError("memory_budget: the model is sharded already (FSDP); leave memory_budget out")
        if not weight.is_floating_point():
            raise UsageError(
                f"memory_budget: {name!r} is {weight.dtype}, and quantised weights cannot be streamed; use quantization=none, "
                "or leave memory_budget out"
            )
        if weight.device.type == "meta":
            raise UsageError(f"memory_budget: {name!r} has not been loaded (device meta); load the model first")
    if hasattr(model, "_orig_mod"):
        raise UsageError("memory_budget: a compiled model cannot be streamed; leave torch.compile out")
