"""OPEN, the weights in what a PyTorch file holds: its tensors by name, wherever in it they are.

A state dict is a dict of tensors. Training scripts put it into another dict, beside an epoch and an optimizer, or
deeper; LLM-Pruner and others put a whole module there. One place with tensors is read; of two nobody could say which
is the model, so whoever asks says it: a place is the keys that lead to it, with dots between.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from shardscan.errors import shown
from shardscan.shards.formats.torch.modules import has_anything, is_module, tensors_of_module
from shardscan.shards.formats.torch.values import Strided, kind, shown_key

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # keys under which training scripts keep weights
# keys under which they keep tensors that are no weights
OF_TRAINING = re.compile(
    r"(?i)(^|\.)(optimi[sz]ers?|optim|(optimi[sz]er|optim|rng)_states?|(lr_)?schedulers?|callbacks|(grad_)?scaler)(\.|$)"
)
BESIDE = "."  # the place of tensors that are under no key
MAX_DEPTH, MAX_LOOKED_AT, MOST_SHOWN = 8, 100_000, 5


class Found(NamedTuple):
    """Tensors by name, and what else there was, in sentences."""

    tensors: dict[str, Strided]
    notes: tuple[str, ...]


def find_weights(value: Any, state: str | None = None) -> Found:
    """The tensors of a file's value, or of the place `state` in it.

    ValueError where there are none, or in several places and nobody said in which.
    """
    if state is None:
        return _find_only(value)
    if state == BESIDE:
        if not _is_dict_of_tensors(value):
            raise ValueError(f"has no tensors under no key: {_places_told(value)}")
        return _flat(value, "")
    inner = _at(value, state)
    if inner is None:
        raise ValueError(f"has nothing under {shown(state)}: {_places_told(value)}")
    if not is_module(inner) and not _is_container(inner):
        raise ValueError(f"has {kind(inner)} under {shown(state)}, and no dict of tensors: {_places_told(value)}")
    found = _read(inner, state) if _has_weights(inner) else _find_only(inner)
    return Found(found.tensors, (f"its tensors are in {shown(state)}, as was asked for", *found.notes))


def _find_only(value: Any) -> Found:
    """The tensors in the one place that has any, or in the first level's only one if its key is a usual one."""
    if is_module(value):
        return Found(tensors_of_module(value), ())
    if not _is_container(value):
        raise ValueError(f"holds {kind(value)} and no dict of tensors: save the model's state_dict()")
    loose = _is_dict_of_tensors(value)
    first = _of_weights(next(_levels(value), {}))
    is_usual = len(first) == 1 and not first.keys().isdisjoint(WRAPPERS)
    places = first if loose or is_usual else _of_weights(_everywhere(value))
    if loose and not any(place in WRAPPERS for place in places):
        if places:
            one = shown(next(iter(places)))
            raise ValueError(
                f"has tensors both beside and in its dict {one}: choose with --state {one}, or --state {BESIDE} for "
                "those beside"
            )
        return _flat(value, "")
    if len(places) > 1:
        one = shown(next(iter(places)))
        raise ValueError(f"has tensors in several places: {_listed(places)}: choose one, as with --state {one}")
    if not places:
        if value:
            raise ValueError(_nothing(value))
        return Found({}, ())
    ((place, inner),) = places.items()
    found = _read(inner, place)
    beside = [key for key, _ in _items(value) if place != str(key) and not place.startswith(f"{key}.")]
    return Found(found.tensors, (f"its tensors are in {shown(place)}{_left(beside)}", *found.notes))


def _left(keys: list[Any]) -> str:
    """What was not read beside the tensors, as the end of a sentence."""
    if not keys:
        return ""
    first = shown_key(keys[0])
    what = f"{first} was" if len(keys) == 1 else f"{len(keys):,} values beside it, like {first}, were"
    return f", and {what} not read"


def _read(value: Any, place: str) -> Found:
    """The tensors of a module, or of a dict of tensors."""
    return Found(tensors_of_module(value), ()) if is_module(value) else _flat(value, f" of {shown(place)}")


def _of_weights(places: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without what an optimizer or the like keeps, unless that is all there is."""
    return {place: inner for place, inner in places.items() if not OF_TRAINING.search(place)} or places


def _everywhere(value: Any) -> dict[str, Any]:
    """By their places, the dicts of tensors and modules of every level; ValueError where two have one."""
    places: dict[str, Any] = {}
    for level in _levels(value):
        if twice := next((place for place in level if place in places), None):
            raise ValueError(f"has two values under keys that read {shown(twice)}: save one of them alone")
        places |= level
    return places


def _levels(value: Any) -> Iterator[dict[str, Any]]:
    """By their places, the dicts of tensors and modules of each level below a value; one that is in two has the first.

    A pickle may have one value under a million keys: each is looked at once.
    """
    seen = {id(value)}
    level = [("", value)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[str, Any]] = []
        for path, container in level:
            for key, inner in _items(container):
                if id(inner) in seen or len(seen) > MAX_LOOKED_AT or not (_is_container(inner) or is_module(inner)):
                    continue
                seen.add(id(inner))
                below.append((f"{path}.{key}" if path else str(key), inner))
        if not below:
            return
        found = [(path, inner) for path, inner in below if _has_weights(inner)]
        if len(places := dict(found)) < len(found):
            raise ValueError(f"has two values under keys that read {_twice(found)}: save one of them alone")
        yield places
        level = [(path, inner) for path, inner in below if not _has_weights(inner)]


def _twice(found: list[tuple[str, Any]]) -> str:
    """The first place that two have."""
    return shown(Counter(path for path, _ in found).most_common(1)[0][0])


def _at(value: Any, place: str) -> Any:
    """What is at a place, whose keys may have dots; None where nothing is."""
    words = place.split(".")
    waiting = [(value, 0)]  # what begins at which word
    seen = set()  # a pickle's dicts may have each other for values
    while waiting:
        here, at = waiting.pop()
        if at == len(words):
            return here
        if (id(here), at) in seen:
            continue
        seen.add((id(here), at))
        items = {str(key): inner for key, inner in _items(here)}
        ends = (end for end in range(at + 1, len(words) + 1) if ".".join(words[at:end]) in items)
        waiting += [(items[".".join(words[at:end])], end) for end in ends]  # the longest key first
    return None


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    return iter(value.items() if type(value) is dict else enumerate(value) if _is_container(value) else ())


def _is_container(value: Any) -> bool:
    return type(value) in (dict, list, tuple)


def _is_dict_of_tensors(value: Any) -> bool:
    return type(value) is dict and any(type(inner) is Strided for inner in value.values())


def _has_weights(value: Any) -> bool:
    return has_anything(value) or _is_dict_of_tensors(value)


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


def _places_told(value: Any) -> str:
    """Where a value has tensors, as the end of a sentence."""
    places = ({BESIDE: value} if _is_dict_of_tensors(value) else {}) | _everywhere(value)
    return f"it has tensors in {_listed(places)}" if places else "it has no tensors at all"


def _listed(places: Mapping[str, Any]) -> str:
    """The first places, and how many more there are."""
    first = [shown(place) for place in list(places)[:MOST_SHOWN]]
    more = [f"{len(places) - MOST_SHOWN:,} more"] if len(places) > MOST_SHOWN else []
    *others, last = first + more
    return f"{', '.join(others)} and {last}" if others else last


def _nothing(value: Any) -> str:
    key, inner = next(_items(value))
    more = len(value) - 1
    has = f"it has {shown_key(key)}, {kind(inner)}" + (f", and {more:,} more" if more else "")
    return f"has no dict of tensors in it ({has}): save the model's state_dict()"
