"""NAME, its sizes: what a config says, by the words of a family. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardscan.families import CONFIG_WORDS, Family, Rule


def sizes_of(family: Family, config: Mapping[str, Any]) -> dict[str, int | None]:
    """The config's numbers by the family's words; a missing head_dim is hidden_size / heads, as models have it."""
    places = _places(family, config)
    found: dict[str, int | None] = dict.fromkeys(CONFIG_WORDS)
    for word, keys in family.config.items():
        numbers = (_sum(where, key) for key in keys for where in places)
        found[word] = next((n for n in numbers if n is not None and 0 < n < 2**31), None)
    hidden, heads, kv_heads = found["hidden_size"], found["heads"], found["kv_heads"]
    if found["head_dim"] is None and hidden and heads and hidden % heads == 0:
        found["head_dim"] = hidden // heads
    found["d"] = found["head_dim"]
    found["queries"] = heads // kv_heads if heads and kv_heads and heads % kv_heads == 0 else None
    return found


def _sum(config: Mapping[str, Any], key: str) -> int | None:
    """The number under a key, or the sum under "a + b"."""
    numbers = [_at(config, word.strip()) for word in key.split("+")]
    return sum(numbers) if all(type(number) is int for number in numbers) else None


def _at(config: Any, path: str) -> Any:
    """What is under "a.b"; None where nothing is."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


def holds(rule: Rule, family: Family, config: Mapping[str, Any]) -> bool:
    """Whether a config says what a rule is for."""
    return all(any(_at(where, key) == value for where in _places(family, config)) for key, value in rule.when)


def _places(family: Family, config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Where a config may hold what a family asks for: its sections that are there, then its top."""
    return [*(found for name in family.sections if isinstance(found := _at(config, name), dict)), config]
