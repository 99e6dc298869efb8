"""VERIFY, a checkpoint as a whole: whether what is there is what its config and its family expect.

Every file may be sound and the model half a model: saved by one of many ranks, cut, or with somebody else's config.
Only headers are looked at. What follows from names and shapes alone is a note: hybrids, dense first layers and layers
that share keys and values are as they should be.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from shardscan.anatomy.adapters import ADAPTER
from shardscan.anatomy.matrices import READS, WRITES
from shardscan.anatomy.placement import place_tensors
from shardscan.anatomy.places import OTHER, WEIGHT, Anatomy, Placed
from shardscan.jobs.verification.findings import NOTE, PROBLEM, Finding
from shardscan.shards.address import Checkpoint, Tensor
from shardscan.shards.checkpoint import Inspected
from shardscan.shards.folder import read_config
from shardscan.shards.formats.kinds import parse_number

CHECK = "whole"
MOST_LAYERS = 100_000  # that a config may claim before it is not believed
MOST_NUMBERS = 8  # that a sentence lists
ROWS_OF_VOCABULARY = ("embed_tokens", "lm_head")

Kind = frozenset[tuple[str, bool]]  # roles of a layer's weights, and whether they are experts'


def find_missing(inspected: Inspected) -> Iterator[Finding]:
    """What a checkpoint lacks, and what contradicts its config."""
    shards = inspected.listing.shards
    is_part = any((part := parse_number(name)) and int(part.total) > len(shards) for name in shards)
    return judge(inspected.tensors, read_config(inspected.listing)[0] or {}, is_part=is_part)


def judge(tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, is_part: bool = False) -> Iterator[Finding]:
    """Likewise of tensors by their headers, and a config; a part of the shards need not have all layers."""
    anatomy = place_tensors(Checkpoint("", "", "", (), tensors, dict(config)))
    yield from _of_empty(anatomy.placed)
    if any(p.place.part.startswith(("lora_", ADAPTER)) for p in anatomy.placed):
        return  # an adapter has what it adapts
    yield from _of_widths(anatomy)
    if not is_part:
        yield from _of_layers(anatomy)
        yield from _of_roles(anatomy.placed, config)


def _of_empty(placed: Sequence[Placed]) -> Iterator[Finding]:
    """Weights without values: a problem where they have a role, or are most of all; an odd buffer may have none."""
    empty = [p for p in placed if p.tensor.parameters == 0 and p.place.part == WEIGHT]
    if empty:
        is_problem = any(p.place.role != OTHER for p in empty) or 2 * len(empty) > len(placed)
        detail = (
            f"{len(empty):,} of {len(placed):,} tensors have no values, as where one rank of ZeRO-3 or FSDP saved what "
            "it held: gather the weights, and save them again."
        )
        first = empty[0].tensor
        yield Finding(PROBLEM if is_problem else NOTE, CHECK, detail, first.file, first.name)


def _of_widths(anatomy: Anatomy) -> Iterator[Finding]:
    """Weights that read or write another width than the config has, and vocabularies that are too short."""
    wrong: dict[tuple[str, int, int], list[Placed]] = defaultdict(list)
    for p in anatomy.placed:
        sizes = anatomy.of_component.get(p.place.component, {})
        stated, vocabulary = sizes.get("hidden_size"), sizes.get("vocab_size")
        for matrix in p.matrices:
            width = matrix.cols if matrix.role in READS else matrix.rows if matrix.role in WRITES else None
            if stated and width is not None and width != stated:
                wrong["hidden_size", stated, width].append(p)
            if vocabulary and matrix.role in ROWS_OF_VOCABULARY and matrix.rows < vocabulary:
                wrong["vocab_size", vocabulary, matrix.rows].append(p)
    for (word, stated, found), of in wrong.items():
        what = "channels of the residual stream" if word == "hidden_size" else "rows for tokens"
        detail = f"{len(of):,} {'weight has' if len(of) == 1 else 'weights have'} {found:,} {what} where the config's"
        yield Finding(PROBLEM, CHECK, f"{detail} {word} is {stated:,}.", of[0].tensor.file, of[0].tensor.name)


def _of_layers(anatomy: Anatomy) -> Iterator[Finding]:
    present: dict[str, set[int]] = defaultdict(set)
    for p in anatomy.placed:
        if p.place.layer is not None and p.place.component != OTHER:
            present[p.place.component].add(p.place.layer)
    expected = anatomy.sizes["layers"]
    if expected and not any(p.place.layer is not None for p in anatomy.placed):
        yield Finding(PROBLEM, CHECK, f"There are no layers, of which the config has {expected:,}.")
        return
    for component, sizes in anatomy.of_component.items():
        layers, stated = present[component], sizes.get("layers")
        if stated and stated <= MOST_LAYERS and (missing := sorted(set(range(stated)) - layers)):
            detail = f"{_count(missing)} of the {stated:,} that the config has"
            yield Finding(PROBLEM, CHECK, f"{component} lacks {detail}: {_list_numbers(missing)}.")
        elif stated is None and layers and (missing := sorted(set(range(max(layers))) - layers)):
            yield Finding(NOTE, CHECK, f"{component} lacks {_count(missing)} below its last: {_list_numbers(missing)}.")


def _of_roles(placed: Iterable[Placed], config: Mapping[str, Any]) -> Iterator[Finding]:
    """Layers that lack roles which the others of their kind have."""
    roles: dict[tuple[str, int], set[tuple[str, bool]]] = defaultdict(set)
    for p in placed:
        if p.place.layer is not None and p.place.role != OTHER and p.place.part == WEIGHT:
            roles[p.place.component, p.place.layer].add((p.place.role, p.place.expert is not None))
    counts = Counter((component, frozenset(of)) for (component, _), of in roles.items())
    kinds = _list_kinds(config)
    for (component, layer), of in sorted(roles.items()):
        if counts[component, frozenset(of)] > 1:
            continue  # two layers that are alike are meant so
        like = [
            whole
            for (other, whole), count in counts.items()
            if other == component and count > 1 and of < whole and _is_of_kind(layer, whole, component, roles, kinds)
        ]
        if like:
            lacks = sorted(role for role, _ in min(like, key=len) - of)
            detail = f"Layer {layer} of {component} has no {', '.join(lacks)}, which layers like it have."
            yield Finding(NOTE, CHECK, detail)


def _list_kinds(config: Mapping[str, Any]) -> Sequence[Any] | None:
    """What the config says each layer is."""
    sections = (config, *(section for section in config.values() if isinstance(section, dict)))
    return next((kinds for section in sections if isinstance(kinds := section.get("layer_types"), list)), None)


def _is_of_kind(
    layer: int,
    whole: Kind,
    component: str,
    roles: Mapping[tuple[str, int], set[tuple[str, bool]]],
    kinds: Sequence[Any] | None,
) -> bool:
    """Whether some layer that has all of these roles is of the kind that a layer is by the config."""
    if kinds is None or layer >= len(kinds):
        return True
    return any(
        name == component and of == whole and other < len(kinds) and kinds[other] == kinds[layer]
        for (name, other), of in roles.items()
    )


def _count(layers: Sequence[int]) -> str:
    return f"{len(layers):,} {'layer' if len(layers) == 1 else 'layers'}"


def _list_numbers(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - MOST_NUMBERS:,} more" if len(numbers) > MOST_NUMBERS else ""
    return ", ".join(map(str, numbers[:MOST_NUMBERS])) + more
