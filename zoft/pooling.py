"""The mean of an encoder's last hidden states, written as one more of its own layers.

Sentence encoders (all-MiniLM-L6-v2 and its like) are trained through the mean over a text's tokens; the classification heads of
BERT's kind read the first token alone. One more layer of the ordinary kind brings the mean there, and what is saved stays
an ordinary model that `from_pretrained` loads without code of ours::

    queries = keys = 0              every real token gets the same attention: the mask takes padding out
    values = 1, output = SCALE      attention writes SCALE mean_t h_t
    h' = LayerNorm(SCALE mean_t h_t + h)        the token's own state is 1 / SCALE of it
    feed-forward output = 0         nothing is added: LayerNorm(h') = h' up to rounding

BERT's pooler, made for another vector, becomes tanh(h' / 4): nearly linear, and as wide as what it is given.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from zoft.errors import UsageError

SCALE = 256.0  # of the mean against the token's own state
POOLER = 0.25  # of h', whose entries are of size 1, in tanh


@torch.no_grad()
def add_mean_layer(model: Any) -> Any:
    """`model`, an encoder of BERT's kind under a classification head, with the mean layer behind its last; in place.

    Raises:
        UsageError: its layers are not BERT's.
    """
    found = getattr(getattr(model.base_model, "encoder", None), "layer", None)
    layers = found if isinstance(found, nn.ModuleList) else nn.ModuleList()
    last: Any = layers[-1] if len(layers) else None
    if last is None or not hasattr(last, "attention") or not hasattr(last.attention, "self"):
        raise UsageError(
            f"pooling=mean writes a layer of BERT's kind, and {type(model).__name__} has none; leave it out"
        )
    layer = copy.deepcopy(last)
    attention = layer.attention.self
    for linear in (attention.query, attention.key, attention.value, layer.attention.output.dense, layer.output.dense):
        linear.weight.zero_()
        linear.bias.zero_()
    attention.value.weight.fill_diagonal_(1.0)
    layer.attention.output.dense.weight.fill_diagonal_(SCALE)
    for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
        norm.weight.fill_(1.0)
        norm.bias.zero_()
    layers.append(layer)
    pooler = getattr(getattr(model.base_model, "pooler", None), "dense", None)  # RoBERTa's kind has none
    if pooler is not None:
        pooler.weight.zero_().fill_diagonal_(POOLER)
        pooler.bias.zero_()
    model.config.num_hidden_layers = len(layers)
    return model
