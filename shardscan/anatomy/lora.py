"""NAME, its adapters: which LoRA factors belong together. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardscan.anatomy.names import lora
from shardscan.shards.dtypes import DTYPES

if TYPE_CHECKING:
    from shardscan.anatomy.places import Placed


@dataclass(frozen=True, slots=True)
class Pair:
    """The factors A (r, inputs) and B (outputs, r) of one module and adapter; `reason` is why they have no product.

    `rivals` says that the module has other adapters too.
    """

    module: str
    adapter: str | None
    embedding: bool
    a: Placed | None
    b: Placed | None
    rivals: bool = False

    @property
    def reason(self) -> str | None:
        if self.a is None or self.b is None:
            return f"no lora_{'A' if self.a is None else 'B'} beside it"
        shapes = self.a.tensor.shape, self.b.tensor.shape
        if any(len(shape) != 2 for shape in shapes):
            return "no product: LoRA factors have two axes"
        if shapes[0][0] != shapes[1][1] or not all(map(min, shapes)):
            return f"no product: lora_A is {list(shapes[0])}, lora_B {list(shapes[1])}"
        dtypes = self.a.tensor.dtype, self.b.tensor.dtype
        return None if all(DTYPES[dtype].kind == "float" for dtype in dtypes) else "no product of what are no floats"


def pair_factors(placed: Iterable[Placed]) -> list[Pair]:
    """The LoRA factors of a checkpoint, two by two, in the order of its headers."""
    factors_of: dict[tuple[str, str | None, bool], dict[str, Placed]] = {}
    for p in placed:
        if name := lora(p.tensor.name):
            factors_of.setdefault((name.module, name.adapter, name.embedding), {})[name.factor] = p
    of_module = Counter(module for module, _, _ in factors_of)
    return [
        Pair(*key, factors.get("A"), factors.get("B"), of_module[key[0]] > 1) for key, factors in factors_of.items()
    ]
