"""NAME, its adapters: which LoRA factors belong together, and what their product is multiplied by. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardscan.anatomy.adapters import ADAPTER, find_factor, find_other
from shardscan.anatomy.names import canonical
from shardscan.shards.dtypes import DTYPES

if TYPE_CHECKING:
    from shardscan.anatomy.places import Placed


SCALED = {
    "DoRA": "it is scaled by the norms of the weight, which is not here",
    "AdaLoRA": "a diagonal matrix is between them",
}
SCALED_BY = (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern"))
MOST = 1e9  # that anybody's rank or alpha is
PLAIN_PATTERN = re.compile(r"\^?[\w.-]+")  # a name, in which dots are meant as such


@dataclass(frozen=True, slots=True)
class Pair:
    """The factors A (r, inputs) and B (outputs, r) of one module and adapter; `reason` is why they have no product.

    `rivals` says that the module has other adapters too, `scaled` which kind has more between or beside them, so that
    B · A is not the change, and `of_experts` that they adapt a parameter of several experts, whose factors lie side by
    side (PEFT's `target_parameters`).
    """

    module: str
    adapter: str | None
    embedding: bool
    a: Placed | None
    b: Placed | None
    rivals: bool = False
    scaled: str | None = None
    of_experts: bool = False

    @property
    def reason(self) -> str | None:
        if self.scaled:
            return f"of {self.scaled}, whose change is not B · A: {SCALED[self.scaled]}"
        if self.of_experts:
            return "factors of several experts side by side, of which there is no one product"
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
    factors_of: dict[tuple[str, str | None, bool, int], dict[str, Placed]] = {}
    scaled = {}
    for p in placed:
        if not p.place.part.startswith(("lora_", ADAPTER)):
            continue
        name = canonical(p.tensor.name)
        if found := find_factor(name):
            key = found.module, found.adapter, found.embedding, found.wrapped
            factors_of.setdefault(key, {})[found.factor] = p
        elif (other := find_other(name)) and other.kind in SCALED:
            scaled[other.module] = other.kind
    of_module = Counter(module for module, *_ in factors_of)
    wrappers = Counter((module, adapter, embedding) for module, adapter, embedding, _ in factors_of)
    return [
        Pair(
            *key[:3], factors.get("A"), factors.get("B"),
            rivals=of_module[key[0]] > 1,
            scaled=scaled.get(key[0]),
            of_experts=wrappers[key[:3]] > 1 or key[0].endswith(".experts"),
        )
        for key, factors in factors_of.items()
    ]  # fmt: skip


def find_scaling(config: Mapping[str, Any] | None, module: str, shape: tuple[int, int], rank: int) -> float | None:
    """What B · A of a module is multiplied by, as PEFT's `LoraLayer.update_layer` has it; None where that is not said.

    `rank` is that of the product, of this shape; a config that says another is not this adapter's.

    Patterns are names that a module's ends with. They may be regular expressions, which nobody runs for a stranger:
    where one is more than a name nothing is known.
    """
    config = config or {}
    r, alpha = (_of_module(config, key, pattern, module) for key, pattern in SCALED_BY)
    if config.get("peft_type", "LORA") != "LORA" or r is None or alpha is None or r < 1 or rank != min(r, *shape):
        return None
    return float(alpha / (math.sqrt(r) if config.get("use_rslora") is True else r))


def _of_module(config: Mapping[str, Any], key: str, pattern: str, module: str) -> float | None:
    of_modules = config.get(pattern) or {}
    if not isinstance(of_modules, dict) or not all(PLAIN_PATTERN.fullmatch(name) for name in of_modules):
        return None
    own = (number for name, number in of_modules.items() if _is_of(name, module))
    value: Any = next(own, config.get(key))
    return value if type(value) in (int, float) and abs(value) < MOST else None


def _is_of(pattern: str, module: str) -> bool:
    return pattern[1:] == module if pattern.startswith("^") else f".{module}".endswith(f".{pattern}")


def describe_others(placed: Iterable[Placed]) -> dict[str, str]:
    """Why there is no delta of what is no LoRA factor, by the names of its tensors."""
    others = {p.tensor.name: find_other(canonical(p.tensor.name)) for p in placed if p.place.part == ADAPTER}
    return {name: f"{other.kind}: a part of a change that is not computed" for name, other in others.items() if other}
