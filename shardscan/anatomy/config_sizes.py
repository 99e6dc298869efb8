"""NAME, its sizes: what a config says, by the words of a family. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardscan.anatomy.families.family import CONFIG_WORDS, Family, Rule

Config = Mapping[str, Any]


def sizes_of(
    family: Family, config: Config, component: str | None = None, beside: bool = False, layer: int | None = None
) -> dict[str, int | None]:
    """The config's numbers by the family's words, of one of its components or of all; of a list by layers the layer's.

    What a config does not say is what models of its model_type have by default, where the family knows; a missing
    head_dim is hidden_size / heads, as models' code has it. A tower `beside` another family has its own sections only.
    `stated_heads` and `stated_kv_heads` are what the config itself says, and nobody infers.
    """
    places = _places(family, config, beside)
    sizes: dict[str, int | None] = dict.fromkeys(CONFIG_WORDS)
    keys_of = {**family.config, **family.of_component.get(component or "", {})}
    for word, keys in keys_of.items():
        numbers = [number for key in keys for where in places if (number := _sum(where, key, layer)) is not None]
        sizes[word] = next((n for n in numbers if 0 < n < 2**31), None)
    of_heads, of_kv = keys_of.get("heads", ()), keys_of.get("kv_heads", ())
    own = [key for key in of_kv if key not in of_heads] or of_kv
    for word, keys in (("heads", of_heads), ("kv_heads", tuple(own))):
        is_stated = any(_sum(where, key, layer) is not None for key in keys for where in places)
        sizes[f"stated_{word}"] = sizes.get(word) if is_stated else None
    for word, number in _defaults(family, places).items():
        # by its own key: others stand for it only where the code of a model says so, and null is such a word
        if not any(_says(where, key) for key in keys_of.get(word, ())[:1] for where in places):
            sizes[word] = number
    heads, shared = sizes["heads"], set(keys_of.get("kv_heads", ())) & set(keys_of.get("heads", ()))
    kv_heads = sizes["kv_heads"] = sizes["kv_heads"] or (heads if shared else None)
    odd = any(_is_odd(where, key) for key in keys_of.get("head_dim", ()) for where in places)
    hidden = sizes["hidden_size"]
    if sizes["head_dim"] is None and not odd and hidden and heads and hidden % heads == 0:
        sizes["head_dim"] = hidden // heads
    sizes["d"] = sizes["head_dim"]
    sizes["queries"] = heads // kv_heads if heads and kv_heads and heads % kv_heads == 0 else None
    return sizes


def holds(rule: Rule, family: Family, config: Config, beside: bool = False) -> bool:
    """Whether a config says what a rule is for."""
    return all(any(_at(where, key) == value for where in _places(family, config, beside)) for key, value in rule.when)


def _defaults(family: Family, places: list[Config]) -> Mapping[str, int]:
    kind = next((kind for where in places if isinstance(kind := where.get("model_type"), str)), "")
    return family.defaults.get(kind, {})


def _places(family: Family, config: Config, beside: bool) -> list[Config]:
    """Where a config may hold what a family asks for: its sections that are there, then its top."""
    sections: list[Config] = [section for name in family.sections if isinstance(section := _at(config, name), dict)]
    return sections if beside and family.sections else [*sections, config]


def _says(config: Config, key: str) -> bool:
    """Whether a key is there, even if it is null."""
    path, _, last = key.rpartition(".")
    where = _at(config, path) if path else config
    return isinstance(where, dict) and last in where


def _is_odd(config: Config, key: str) -> bool:
    """Whether something stands under a key, or any of those in a sum, that is no size."""
    terms = [_at(config, word.strip()) for word in key.split("+")]
    return None not in terms and not (all(type(n) is int for n in terms) and sum(terms) > 0)


def _sum(config: Config, key: str, layer: int | None = None) -> int | None:
    """The number under a key, or the sum under "a + b"; of a list the layer's."""
    numbers = [_of_layer(_at(config, word.strip()), layer) for word in key.split("+")]
    return sum(numbers) if all(type(number) is int for number in numbers) else None


def _of_layer(value: Any, layer: int | None) -> Any:
    if isinstance(value, list) and layer is not None:
        return value[layer] if layer < len(value) else None
    return value


def has_lists(family: Family, config: Config, component: str | None, beside: bool) -> bool:
    """Whether a config has a size of some component by layers."""
    keys = [
        key
        for of in (family.config, family.of_component.get(component or "", {}))
        for of_word in of.values()
        for key in of_word
    ]
    return any(
        isinstance(_at(where, word.strip()), list)
        for where in _places(family, config, beside)
        for key in keys
        for word in key.split("+")
    )


def _at(config: Any, path: str) -> Any:
    """What is under "a.b"; None where nothing is."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config
