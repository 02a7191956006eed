"""Settings of a recipe that a later recipe, or the command line, has left nothing to be read by.

Whoever writes `stability=off` beside a recipe need not know that it sets `stability_every`; whoever writes both has made a
mistake. So the earlier layer gives way without a word of complaint, and what stands in the same layer, or a later one, is
checked as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from zoft.stability import settings as stability
from zoft.trainer import settings as step
from zoft.trainer.mezo_settings import honoured
from zoft.trainer.settings import ZOSettings
from zoft.tuning import settings as tuning


def unread(values: Mapping[str, Any], layers: Mapping[str, int]) -> Iterator[str]:
    """The settings in `values` whose owner a later layer set to a word that does not read them.

    Args:
        values: settings by name.
        layers: of each, the number of the layer that set it; later layers have larger numbers.

    >>> list(unread({"guard_patience": 9, "guard": "off"}, {"guard_patience": 0, "guard": 1}))
    ['guard_patience']
    >>> list(unread({"guard_patience": 9, "guard": "off"}, {"guard_patience": 1, "guard": 1}))
    []
    """
    if values.get("method") == "lora-adamw":  # which means tuning=lora
        values, layers = {**values, "tuning": "lora"}, {**layers, "tuning": layers["method"]}
    for name, (owner, words) in {**stability.READ_BY, **step.READ_BY, **tuning.READ_BY}.items():
        if name in values and values.get(owner, words[0]) not in words and layers[owner] > layers[name]:
            yield name


def unlike_mezo(values: Mapping[str, Any], layers: Mapping[str, int]) -> Iterator[str]:
    """The zeroth-order settings that MeZO's procedure does not have, of layers before the one that said `method=mezo`.

    Args:
        values, layers: as in `unread`.
    """
    if values.get("method") != "mezo":
        return
    for name in (field.name for field in fields(ZOSettings)):
        if name in values and layers[name] < layers["method"] and not honoured(name, values[name]):
            yield name
