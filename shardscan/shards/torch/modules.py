"""OPEN, the weights of a pickled nn.Module: what its state_dict() would give, from its attributes as inert data.

Source: Module.state_dict of torch/nn/modules/module.py: a module's own parameters, its buffers less those that are not
persistent, then its children in order; a tensor or a module that is in two places has both names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardscan.errors import shown
from shardscan.shards.torch.values import Node, Strided, kind

PARAMETERS, BUFFERS, CHILDREN = "_parameters", "_buffers", "_modules"
NOT_SAVED = "_non_persistent_buffers_set"
MAX_TENSORS, MAX_MODULES, MAX_DEPTH, MAX_TEXT = 1_000_000, 300_000, 100, 100_000_000


def is_module(value: Any) -> bool:
    """Whether an object has what every nn.Module has."""
    if type(value) is not Node:
        return False
    state = _attributes(value)
    return all(type(state.get(name)) is dict for name in (PARAMETERS, CHILDREN))


def tensors_of_module(module: Node) -> dict[str, Strided]:
    """Every tensor by its dotted name; ValueError for what is no module, and for modules without an end."""
    found: dict[str, Strided] = {}
    text = modules = 0
    waiting = [("", module, 0)]
    while waiting:
        prefix, here, depth = waiting.pop()
        modules += 1
        state = _attributes(here)
        for name, value in _own(state, prefix):
            found[name] = value
            text += len(name)
        children = [
            (f"{prefix}{name}.", child, depth + 1) for name, child in state[CHILDREN].items() if child is not None
        ]
        text += sum(len(name) for name, _, _ in children)
        if depth > MAX_DEPTH or modules > MAX_MODULES or len(found) > MAX_TENSORS or text > MAX_TEXT:
            raise ValueError("has modules in modules without an end in its pickle")
        for name, child, _ in children:
            if not is_module(child):
                raise ValueError(
                    f"has {kind(child)} as its module {shown(name[:-1])}, which has no parameters or modules"
                )
        waiting += reversed(children)
    return found


def _own(state: Mapping[str, Any], prefix: str) -> list[tuple[str, Strided]]:
    """The parameters and buffers of one module, less those that its state_dict() leaves out."""
    skipped = state.get(NOT_SAVED)
    left_out = skipped if type(skipped) is set else set()
    buffers = state.get(BUFFERS)
    saved = {name: value for name, value in buffers.items() if name not in left_out} if type(buffers) is dict else {}
    found = []
    for name, value in (*state[PARAMETERS].items(), *saved.items()):
        if value is None:
            continue
        if type(value) is not Strided or type(name) is not str:
            raise ValueError(f"has {kind(value)} as its parameter {shown(f'{prefix}{name}')}, and no plain tensor")
        found.append((f"{prefix}{name}", value))
    return found


def _attributes(module: Node) -> dict[str, Any]:
    """The last state that an object was given, by pickle's rules: a dict, or one with another of slots beside it."""
    for state in reversed(module.states):
        match state:
            case dict():
                return state
            case (dict() as attributes, _):
                return attributes
    return {}
