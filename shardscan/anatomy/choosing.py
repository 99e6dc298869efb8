"""NAME, its choice: which family a checkpoint is of, by its config, else by names and shapes of its tensors. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from shardscan.anatomy.families.family import NUMBER, Family
from shardscan.anatomy.matrices import READS, WRITES, Neighbours
from shardscan.anatomy.naming import Reading, divide_named, name_tensor
from shardscan.shards.address import Checkpoint, Tensor

MOST_PATTERNS = 1000  # of names, by which a family is chosen


def choose_family(checkpoint: Checkpoint, config: Mapping[str, Any], known: Mapping[str, Family]) -> Family | None:
    """By the architecture in the config; else by names, if they name half of the tensors."""
    adapted = config.get("auto_mapping")  # of an adapter's config
    architectures = [adapted.get("base_model_class")] if isinstance(adapted, dict) else config.get("architectures")
    wanted = {a for a in architectures if isinstance(a, str)} if isinstance(architectures, list) else set()
    for family in known.values():
        if wanted & set(family.architectures):
            return family
    # layers are alike: one tensor stands for all whose names differ in numbers
    alike: dict[str, list[Tensor]] = {}
    for tensor in checkpoint.tensors.values():
        alike.setdefault(NUMBER.sub("*", tensor.name), []).append(tensor)
    step = -(-len(alike) // MOST_PATTERNS)  # no model has as many: this is for names without any pattern
    alike = dict(islice(alike.items(), None, None, step or 1))
    readings = {name: Reading(family, config) for name, family in known.items()}
    towers = [reading for reading in readings.values() if reading.family.tower]
    scores = {name: _score(reading, towers, alike, checkpoint) for name, reading in readings.items()}
    best = max(scores, key=lambda name: scores[name])
    return known[best] if scores[best][0] * 2 >= max(1, sum(map(len, alike.values()))) else None


def _score(
    reading: Reading,
    towers: Sequence[Reading],
    alike: Mapping[str, Sequence[Tensor]],
    checkpoint: Checkpoint,
) -> tuple[int, int, float]:
    """How well a family's names fit, the best first.

    The tensors that it or a tower names, the weights whose axes are as it says, and how much of the family there is.
    """
    others = [tower for tower in towers if tower is not reading]
    named = [(name_tensor(tensors[0], checkpoint, [reading, *others]), len(tensors)) for tensors in alike.values()]
    own = [n for n, _ in named if n.reading is reading]
    if not own:
        return 0, 0, 0.0
    total = sum(number for n, number in named if n.rule)
    matrices = [matrix for n in own for matrix in divide_named(n, Neighbours(None, None)).matrices]
    width = next((matrix.cols for matrix in matrices if matrix.role == "embed_tokens"), None)
    reads = sum(matrix.role in READS and matrix.cols == width for matrix in matrices)
    writes = sum(matrix.role in WRITES and matrix.rows == width for matrix in matrices)
    every = {rule for rules in reading.family.rules.values() for rule in rules}
    return total, reads + writes, len({n.rule for n in own}) / len(every)
