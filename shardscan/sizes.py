"""NAME, its sizes: what a config says, by the words of a family. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardscan.families import CONFIG_WORDS, Family, Rule

Config = Mapping[str, Any]


def sizes_of(
    family: Family, config: Config, component: str | None = None, beside: bool = False
) -> dict[str, int | None]:
    """The config's numbers by the family's words, of one of its components or of all.

    What a config does not say is what models of its model_type have by default, where the family knows; a missing
    head_dim is hidden_size / heads, as models' code has it. A tower `beside` another family has its own sections only.
    """
    places = _places(family, config, beside)
    found: dict[str, int | None] = dict.fromkeys(CONFIG_WORDS)
    said = set()
    for word, keys in {**family.config, **family.of_component.get(component or "", {})}.items():
        numbers = [number for key in keys for where in places if (number := _sum(where, key)) is not None]
        said |= {word} if any(_is_there(where, key) for key in keys for where in places) else set()
        found[word] = next((n for n in numbers if 0 < n < 2**31), None)
    for word, number in _defaults(family, places).items():
        found[word] = number if word not in said else found[word]
    hidden, heads, kv_heads = found["hidden_size"], found["heads"], found["kv_heads"]
    if found["head_dim"] is None and "head_dim" not in said and hidden and heads and hidden % heads == 0:
        found["head_dim"] = hidden // heads
    found["d"] = found["head_dim"]
    found["queries"] = heads // kv_heads if heads and kv_heads and heads % kv_heads == 0 else None
    return found


def holds(rule: Rule, family: Family, config: Config, beside: bool = False) -> bool:
    """Whether a config says what a rule is for."""
    return all(any(_at(where, key) == value for where in _places(family, config, beside)) for key, value in rule.when)


def _defaults(family: Family, places: list[Config]) -> Mapping[str, int]:
    kind = next((kind for where in places if isinstance(kind := where.get("model_type"), str)), "")
    return family.defaults.get(kind, {})


def _places(family: Family, config: Config, beside: bool) -> list[Config]:
    """Where a config may hold what a family asks for: its sections that are there, then its top."""
    sections: list[Config] = [found for name in family.sections if isinstance(found := _at(config, name), dict)]
    return sections if beside and family.sections else [*sections, config]


def _is_there(config: Config, key: str) -> bool:
    return all(_at(config, word.strip()) is not None for word in key.split("+"))


def _sum(config: Config, key: str) -> int | None:
    """The number under a key, or the sum under "a + b"."""
    numbers = [_at(config, word.strip()) for word in key.split("+")]
    return sum(numbers) if all(type(number) is int for number in numbers) else None


def _at(config: Any, path: str) -> Any:
    """What is under "a.b"; None where nothing is."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config
