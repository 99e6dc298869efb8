"""OPEN, the weights of a pickled nn.Module: what its state_dict() would give, from its attributes as inert data.

Source: Module.state_dict of torch/nn/modules/module.py: a module's own parameters, its buffers less those that are not
persistent, then its children in order; a tensor or a module that is in two places has both names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardscan.errors import shown
from shardscan.shards.formats.torch.values import Node, Strided, kind, shown_key

PARAMETERS, BUFFERS, CHILDREN = "_parameters", "_buffers", "_modules"
NOT_SAVED = "_non_persistent_buffers_set"
MAX_LOOKED_AT, MAX_DEPTH, MAX_NAME = 1_000_000, 100, 1_000


def is_module(value: Any) -> bool:
    """Whether an object has what every nn.Module has."""
    return type(value) is Node and all(type(value.attributes.get(name)) is dict for name in (PARAMETERS, CHILDREN))


def has_anything(value: Any) -> bool:
    """Whether an object is a module with parameters, buffers or modules: an activation or a loss has none."""
    parts = (value.attributes.get(name) for name in (PARAMETERS, BUFFERS, CHILDREN)) if is_module(value) else ()
    return any(inner is not None for part in parts if type(part) is dict for inner in part.values())


def tensors_of_module(module: Node) -> dict[str, Strided]:
    """Every tensor by its dotted name; ValueError for what is no module, and for modules without an end."""
    tensors: dict[str, Strided] = {}
    looked_at = 0
    waiting = [("", module, 0)]
    while waiting:
        prefix, here, depth = waiting.pop()
        looked_at += 1 + sum(len(part) for part in here.attributes.values() if type(part) is dict)
        if depth > MAX_DEPTH or looked_at > MAX_LOOKED_AT:
            raise ValueError("has modules in modules without an end in its pickle")
        parts = (here.attributes[PARAMETERS], _saved_buffers(here), here.attributes[CHILDREN])
        parameters, buffers, children = (_named(prefix, part) for part in parts)
        for name, value in (*parameters, *buffers):
            if type(value) is not Strided:
                raise ValueError(f"has {kind(value)} as its parameter {shown(name)}, and no plain tensor")
            tensors[name] = value
        for name, child in children:
            if not is_module(child):
                raise ValueError(f"has {kind(child)} as its module {shown(name)}, which has no parameters or modules")
        waiting += [(f"{name}.", child, depth + 1) for name, child in reversed(children)]
    return tensors


def _saved_buffers(module: Node) -> dict[Any, Any]:
    """The buffers of a module, less those that its state_dict() leaves out."""
    buffers, skipped = (module.attributes.get(name) for name in (BUFFERS, NOT_SAVED))
    if type(buffers) is not dict:
        return {}
    return {name: value for name, value in buffers.items() if type(skipped) is not set or name not in skipped}


def _named(prefix: str, part: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    """What is there of parameters, buffers or children, by its dotted name."""
    for name in part:
        if type(name) is not str or len(prefix) + len(name) > MAX_NAME:
            raise ValueError(f"has a module whose name is no text or too long: {shown(prefix)} {shown_key(name)}")
    return [(f"{prefix}{name}", value) for name, value in part.items() if value is not None]
