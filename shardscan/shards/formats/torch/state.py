"""OPEN, the weights in what a PyTorch file holds: its tensors by name, wherever in it they are.

A state dict is a dict of tensors. Training scripts put it into another dict, beside an epoch and an optimizer;
LLM-Pruner and others put a whole module there. One place with tensors is read; of two nobody could say which is the
model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from shardscan.shards.formats.torch.modules import has_anything, is_module, tensors_of_module
from shardscan.shards.formats.torch.values import Strided, kind, shown_key

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # keys under which training scripts keep weights


class Found(NamedTuple):
    """Tensors by name, and what else there was, in sentences."""

    tensors: dict[str, Strided]
    notes: tuple[str, ...]


def find_weights(value: Any) -> Found:
    """The tensors of a file's value; ValueError where there are none, or in several places."""
    if is_module(value):
        return Found(tensors_of_module(value), ())
    if type(value) is not dict:
        raise ValueError(f"holds {kind(value)} and no dict of tensors: save the model's state_dict()")
    have = {id(inner): inner for inner in value.values()}  # one value may be there under a million keys
    have = {number: inner for number, inner in have.items() if _has_weights(inner)}
    places = {key: inner for key, inner in value.items() if id(inner) in have}
    loose = _has_weights(value)
    if loose and not any(key in WRAPPERS for key in places):
        if places:
            raise ValueError(
                f"has tensors both beside and in its dict {shown_key(next(iter(places)))}: save the ones you want alone"
            )
        return _flat(value, "")
    if len(places) > 1:
        first, second, *_ = map(shown_key, places)
        raise ValueError(
            f"has tensors in its dicts {first} and {second}, and neither is the only one: save one of them alone"
        )
    if not places:
        if value:
            raise ValueError(_nothing(value))
        return Found({}, ())
    ((key, inner),) = places.items()
    others = [other for other in value if other != key]
    beside = f", and {len(others):,} values beside it, like {shown_key(others[0])}, were not read" if others else ""
    note = f"its tensors are in {shown_key(key)}{beside}"
    if is_module(inner):
        return Found(tensors_of_module(inner), (note,))
    found = _flat(inner, f" of {shown_key(key)}")
    return Found(found.tensors, (note, *found.notes))


def _has_weights(value: Any) -> bool:
    return has_anything(value) or (type(value) is dict and any(type(inner) is Strided for inner in value.values()))


def _flat(value: Mapping[Any, Any], where: str) -> Found:
    """A dict of tensors, less what is none."""
    tensors: dict[str, Strided] = {}
    others = []
    for name, inner in value.items():
        if type(inner) is not Strided:
            others.append(name)
        elif type(name) is not str:
            raise ValueError(f"has a tensor under the key {shown_key(name)}, and names are texts")
        else:
            tensors[name] = inner
    if not others:
        return Found(tensors, ())
    what = (
        f"{len(others):,} values{where}, like {shown_key(others[0])}, are"
        if len(others) > 1
        else f"{shown_key(others[0])} is"
    )
    return Found(tensors, (f"{what} no tensor and not read",))


def _nothing(value: Mapping[Any, Any]) -> str:
    key, inner = next(iter(value.items()))
    has = f"it has {shown_key(key)}, {kind(inner)}" + (f", and {len(value) - 1:,} more" if len(value) > 1 else "")
    return f"has no tensors in its dict or one dict below ({has}): save the model's state_dict()"
