"""Forward passes that compute logits only where they are needed.

A vocabulary of 50,000 entries makes the logits of every position the largest tensor of the pass, and the multiplication
behind them a large share of its work; all but one to a few positions per row would be thrown away.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import nn
from torch.nn import functional

from zoft.few_rows import can_give_rows, only_rows
from zoft.objectives.base import IGNORED
from zoft.objectives.token_likelihood import TokenLikelihood

FEW = 4  # rows of a head are picked where they are at most a quarter of it
SMALL = 32 << 20  # bytes of float32 logits that are rather held
Select = Callable[[torch.Tensor], torch.Tensor]  # hidden states [R, T, D] -> those that are needed [R, K, D]


def logits_at(model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: torch.Tensor) -> torch.Tensor:
    """Logits [R, K, V] of a causal LM at positions `outputs` [K] of every row, in the model's dtype.

    Positions are counted from each row's first real token, so padding on the left changes nothing.
    """
    call = _call(model, batch, positions=True)
    return _at(call, outputs + call.before)


def logits_behind(model: nn.Module, inputs: dict[str, Any], outputs: torch.Tensor) -> torch.Tensor:
    """Logits [R, K, V] at positions `outputs` [K] of `inputs`, which go on from kept keys and values."""
    return _at(_Call(model, inputs), outputs)


def _at(call: _Call, outputs: torch.Tensor) -> torch.Tensor:
    if "logits_to_keep" in accepted_arguments(call.model):
        return call.model(**call.inputs, logits_to_keep=outputs).logits
    return _selected(call, lambda x: x[:, outputs], len(outputs))


def last_logits(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits [R, V] of a causal LM at the last position of every row."""
    call = _call(model, batch, positions=True)
    if "logits_to_keep" in accepted_arguments(model):
        return call.model(**call.inputs, logits_to_keep=1).logits[:, -1]
    return _selected(call, lambda x: x[:, -1:], 1)[:, -1]


def choice_logits(model: nn.Module, batch: Mapping[str, torch.Tensor], choices: torch.Tensor) -> torch.Tensor:
    """[B, C]: logits of a causal LM at the last position, those of tokens `choices` [B, C] alone (where -1: any).

    The head's other rows are not read, where the head is a plain linear layer.
    """
    ids, head = choices[choices >= 0].unique(), _plain_head(model)
    if head is None or len(ids) * FEW > head.weight.shape[0]:
        return last_logits(model, batch).gather(-1, choices.clamp(min=0))
    with only_rows(head, ids):
        logits = last_logits(model, batch)
    if logits.shape[-1] != len(ids):  # the head's weight was used without calling it
        return logits.gather(-1, choices.clamp(min=0))
    return logits.gather(-1, torch.searchsorted(ids, choices.clamp(min=int(ids[0]))))


def token_log_likelihoods(model: nn.Module, logits: Callable[[], torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """[R, K] float32: log p of each label, 0 where it is to be ignored.

    Where logits [R, K, V] would be large they are never held, if the model returns what its head makes, the head is a plain
    linear layer and no graph is built (`zoft.objectives.token_likelihood`). A model that does something with its logits shows
    it in its first loss, which is then taken again; a sharded one always holds them, as its ranks must run it equally often.

    Args:
        logits: runs `model` and returns its logits at the positions [R, K] before those of the labels.
        labels: [R, K], -100 where a token carries no loss.
    """
    head = (
        None if torch.is_grad_enabled() or torch.is_inference_mode_enabled() or model in _held else _plain_head(model)
    )
    few = head is None or labels.numel() * head.weight.shape[0] * 4 <= SMALL
    if head is None or few or any(hasattr(weight, "placements") for weight in model.parameters()):
        return _of_labels(logits(), labels)
    wanted = TokenLikelihood(labels.clamp(min=0))
    found = None
    try:
        with only_rows(head, wanted):
            found = logits()
    except (IndexError, RuntimeError) as error:
        if wanted.made is None or isinstance(error, torch.OutOfMemoryError):
            raise  # not about what the head returned
    if (
        found is not None and wanted.made is None
    ):  # the head's weight was used without calling it, or at other positions
        return _of_labels(found, labels)
    if found is None or wanted.made is None or not wanted.returned(found):
        _held.add(model)  # it does something with the logits, and has to be given them
        return _of_labels(logits(), labels)
    return wanted.made.squeeze(-1).masked_fill(labels == IGNORED, 0.0)


_held: WeakSet[nn.Module] = WeakSet()  # models whose logits are held at once


def _of_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    flat = functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return -flat.view_as(labels)


def _plain_head(model: nn.Module) -> nn.Linear | None:
    """The layer behind the logits, if it can give some of them alone."""
    get, compiled = getattr(_inner(model), "get_output_embeddings", None), hasattr(model, "_orig_mod")
    head = get() if get is not None and not compiled else None
    return head if can_give_rows(head) else None  # type: ignore[return-value]


def mask_logits(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits [R, V] of a masked LM at position `read_at` of each row."""
    rows = torch.arange(batch["input_ids"].shape[0], device=batch["input_ids"].device)
    call = _call(model, batch)

    def at_mask(states: torch.Tensor) -> torch.Tensor:
        return states[rows, batch["read_at"] + call.before].unsqueeze(1)

    return _selected(call, at_mask, 1)[:, 0]


def head_logits(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits [R, L] of a classification head."""
    call = _call(model, batch, classifier=True)
    return call.model(**call.inputs).logits


class _Call(NamedTuple):
    """A model and what to call it with."""

    model: nn.Module
    inputs: dict[str, Any]
    before: int = 0  # positions of the output that stand before those of the batch

    @property
    def length(self) -> int:
        """Positions of the output."""
        return self.inputs.get("inputs_embeds", self.inputs.get("input_ids")).shape[1]  # type: ignore[union-attr]


def _call(
    model: nn.Module, batch: Mapping[str, torch.Tensor], positions: bool = False, classifier: bool = False
) -> _Call:
    """The call that reads `batch`; `positions` are told to models that take them.

    Prompt tuning is put together here: PEFT would drop the positions and, with padding on the left, let the distance
    between virtual and real tokens depend on the batch. A classifier's head looks for the last token by its id, so there
    PEFT's own way is taken.
    """
    accepted = accepted_arguments(model)
    inputs: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if "use_cache" in accepted:
        inputs["use_cache"] = False  # keys and values of the prompt are never used again
    before, peft = 0, _prompt_tuned(model)
    if peft is not None and not classifier:
        prompt = peft.get_prompt(batch_size=len(batch["input_ids"]))  # [R, n, D]
        embedded = peft.word_embeddings(inputs.pop("input_ids"))
        inputs["inputs_embeds"] = torch.cat((prompt.to(embedded.dtype), embedded), dim=1)
        mask, before = batch["attention_mask"], prompt.shape[1]
        inputs["attention_mask"] = torch.cat((mask.new_ones(len(mask), before), mask), dim=1)
        model = peft.get_base_model()
    if positions and "position_ids" in accepted:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return _Call(model, inputs, before)


def _prompt_tuned(model: nn.Module) -> Any:
    """The PEFT model that puts a prompt of virtual tokens before the embedded text, if `model` is one."""
    while not hasattr(model, "peft_config"):
        inner: Any = getattr(model, "module", None) or getattr(model, "_orig_mod", None)  # DDP, torch.compile
        if not isinstance(inner, nn.Module):
            return None
        model = inner
    config: Any = getattr(model, "active_peft_config", None)
    return model if getattr(config, "peft_type", None) == "PROMPT_TUNING" else None


def accepted_arguments(model: nn.Module) -> frozenset[str]:
    """Names that the forward of the model inside any wrapper (PEFT, DistributedDataParallel) takes."""
    return _arguments(type(_inner(model)))


@lru_cache(maxsize=64)
def _arguments(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def _inner(model: nn.Module) -> nn.Module:
    while True:
        if hasattr(model, "get_base_model"):  # PEFT
            model = model.get_base_model()  # type: ignore[operator]
        elif isinstance(getattr(model, "module", None), nn.Module):  # DistributedDataParallel and its like
            model = model.module  # type: ignore[assignment]
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def _selected(call: _Call, select: Select, kept: int) -> torch.Tensor:
    """Run the model whole, but let its head see selected hidden states only.

    The head is what a language model holds beside its base model (`lm_head`, `cls`, …): the first of these modules to
    be called gets the selection. Where nothing of the kind is found, all logits are made and then selected.
    """
    with _head_sees(call.model, select, call.length):
        logits = call.model(**call.inputs).logits
    return logits if logits.shape[1] == kept and kept != call.length else select(logits)


@contextmanager
def _head_sees(model: nn.Module, select: Select, length: int) -> Iterator[None]:
    inner = _inner(model)
    base = getattr(inner, getattr(inner, "base_model_prefix", "") or "-", None)
    heads = [child for child in inner.children() if child is not base] if isinstance(base, nn.Module) else []
    done = False

    def before(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal done
        if done or not arguments or not isinstance(arguments[0], torch.Tensor):
            return None
        states = arguments[0]
        if states.dim() != 3 or states.shape[1] != length:
            return None
        done = True
        return (select(states), *arguments[1:])

    handles = [head.register_forward_pre_hook(before) for head in heads]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
