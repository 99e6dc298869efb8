"""OPEN, what a PyTorch pickle may do with names: as a state dict, as a pickled module, and before either.

A state dict names a fixed few things (see `globals`); anything else is refused by its name. A
pickled module names classes: each becomes an inert `Node` that remembers the states it was given, and nothing more.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from shardscan.errors import shown
from shardscan.shards.formats.torch import rebuild
from shardscan.shards.formats.torch.globals import ALLOWED, ARRAYS, DEVICE, ORDERED_DICT, SETS, SIZE, check_class
from shardscan.shards.formats.torch.values import Global, Node, Storage, is_key, kind, shown_key

MOST_NOTES = 20
MAX_WORK = 6_000_000  # items of lists that become dicts or sets, and dimensions of tensors
WORK_OF_ONE = 10  # beside its dimensions, or of a dict or a set beside its items: half a million of them
EXPECTED_STATE = {"_metadata"}  # versions of modules, which state_dict() adds to its dict


class Plain:
    """No names at all: what stands before the weights of a legacy file."""

    is_lenient = False

    def __init__(self) -> None:
        self.notes: dict[str, None] = {}

    def note(self, what: str) -> None:
        if len(self.notes) < MOST_NOTES:
            self.notes[what] = None

    def named(self, module: str, name: str) -> Any:
        """Refuse it."""
        raise ValueError(f"names {shown(f'{module}.{name}', 200)} where PyTorch names nothing: nothing of it was run")

    def called(self, callee: Any, args: Any) -> Any:
        """Refuse it."""
        raise ValueError(f"calls {kind(callee)} in its pickle")

    def made(self, cls: Any) -> Any:
        """Refuse it."""
        raise ValueError(f"makes an object of {kind(cls)} in its pickle")

    def stated(self, value: Any, state: Any) -> None:
        """Refuse it."""
        raise ValueError(f"gives a state to {kind(value)} in its pickle, which no state dict does")

    def kept(self, pid: Any) -> Any:
        """Refuse it."""
        raise ValueError("has a persistent id in its pickle where PyTorch has none")


class Weights(Plain):
    """A state dict: tensors of storages, in dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[str, Storage] = {}
        self._names: dict[tuple[str, str], Global] = {}
        self._worked = 0

    def named(self, module: str, name: str) -> Any:
        """The name, if it is one that tensors need."""
        if (module, name) not in ALLOWED:
            self.check(module, name)
        return self._names.setdefault((module, name), Global(module, name))

    def check(self, module: str, name: str) -> None:
        """Refuse a name that tensors do not need."""
        raise UnknownName(
            f"names {shown(f'{module}.{name}', 200)} in its pickle, which no state dict needs: nothing of it was "
            "imported or run"
        )

    def called(self, callee: Any, args: Any) -> Any:
        """What the call of a known name gives: a tensor, an empty dict, a shape, a device's name."""
        known = (callee.module, callee.name) if type(callee) is Global else None
        if known in rebuild.FUNCTIONS:
            tensor = rebuild.rebuilt(known, args)
            self._work(WORK_OF_ONE + len(tensor.shape))
            return tensor
        match args if type(args) is tuple else None:
            case () if known == ORDERED_DICT:
                return {}
            case (list(pairs),) if known == ORDERED_DICT and all(map(_is_pair, self._once(pairs))):
                return {key: value for key, value in pairs if self._may_key(key)}
            case (list(items),) if known in SETS:
                return {item for item in self._once(items) if self._may_key(item)}
            case (tuple(sizes),) if known == SIZE:
                return sizes
            case (str(), *_) if known == DEVICE:
                return None
        if known in ARRAYS:
            return Node(callee)
        raise ValueError(f"calls {kind(callee)} in its pickle, which no state dict does: nothing of it was run")

    def _once(self, items: list[Any]) -> list[Any]:
        """Items that are looked through, counted."""
        self._work(WORK_OF_ONE + len(items))
        return items

    def _work(self, amount: int) -> None:
        """Count what takes more than an opcode's time: a pickle may ask for the same values many times."""
        self._worked += amount
        if self._worked > MAX_WORK:
            raise ValueError("makes tensors, dicts or sets of the same values again and again in its pickle")

    def _may_key(self, value: Any) -> bool:
        if not is_key(value) and not self.is_lenient:
            raise ValueError(f"has {kind(value)} in its pickle as the key of a dict or in a set")
        return is_key(value)

    def stated(self, value: Any, state: Any) -> None:
        """Ignore the attributes of a dict, and what an array of NumPy is."""
        if type(value) is Node:
            return
        if type(value) is not dict or type(state) is not dict:
            super().stated(value, state)
        for key in islice(state, len(EXPECTED_STATE) + 1):
            if key not in EXPECTED_STATE:
                self.note(f"a dict in it has attributes, like {shown_key(key)}, which are ignored")

    def kept(self, pid: Any) -> Any:
        """The storage of a persistent id; one key stands for one storage."""
        storage = rebuild.storage(pid)
        first = self.storages.setdefault(storage.key, storage)
        if (first.dtype, first.is_typed, first.count) != (storage.dtype, storage.is_typed, storage.count):
            raise ValueError(f"gives the storage {shown(storage.key)} two types or lengths in its pickle")
        return first


class Modules(Weights):
    """A pickled module: as a state dict, and any class is an inert object."""

    is_lenient = True

    def __init__(self, *, has_sources: bool) -> None:
        """`has_sources`: legacy files keep the source of a class beside its name."""
        super().__init__()
        self.has_sources = has_sources
        self.inert: dict[str, None] = {}

    def check(self, module: str, name: str) -> None:
        """Take any class's name, which stays a name."""
        check_class(module, name)
        self.inert[f"{module}.{name}"] = None

    def called(self, callee: Any, args: Any) -> Any:
        """As of a state dict; whatever else is called is an object that nobody makes."""
        if type(callee) is Global and (callee.module, callee.name) in ALLOWED:
            return super().called(callee, args)
        return self.made(callee)

    def made(self, cls: Any) -> Any:
        """An object of a class, as what is known of it."""
        if type(cls) is Node:
            return Node(cls.of)
        if type(cls) is not Global:
            return super().made(cls)
        return Node(cls)

    def stated(self, value: Any, state: Any) -> None:
        """Remember the attributes of an object: its state is a dict of them, or one and another of slots."""
        if type(value) is not Node:
            super().stated(value, state)
            return
        match state:
            case dict() | (dict(), _):
                value.attributes = state if type(state) is dict else state[0]

    def kept(self, pid: Any) -> Any:
        """A storage, or of a legacy file a class with its source, which is ignored."""
        if self.has_sources and type(pid) is tuple and len(pid) == 4 and pid[0] == "module" and type(pid[1]) is Global:
            return pid[1]
        return super().kept(pid)


class UnknownName(ValueError):
    """A name that is no weight's, but may be a module's."""


def _is_pair(pair: Any) -> bool:
    return type(pair) in (list, tuple) and len(pair) == 2
