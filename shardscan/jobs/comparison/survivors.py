"""MATCH, its survivors: finds which channels are left where SQL alone cannot tell, and keeps what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np

from shardscan.answers import connection as ask
from shardscan.catalog import build as catalog
from shardscan.jobs.comparison import values as comparing
from shardscan.jobs.comparison.alignment import TRIED, by_module, by_statistics, found_again, is_settled
from shardscan.jobs.comparison.axes import Axis, Key, axes
from shardscan.jobs.comparison.pairing import weights
from shardscan.jobs.comparison.subjects import Subject, Subjects
from shardscan.reduce.restricted_fingerprints import Restricted, fingerprints
from shardscan.store import lock as writers
from shardscan.store.alignments import Alignment
from shardscan.store.commits import Scan

Phase = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
Scans = tuple[Scan, Scan]


def settle(folder: Path, scans: Scans, both: Subjects, workers: int, phase: Phase) -> list[Axis]:
    """Both axes of every matrix, once what can be found of those that SQL does not know was found and kept."""
    names = both[0].model, both[1].model
    kept = {(one.weight_b, one.axis): one for one in comparing.alignments(*scans)}
    while True:
        with ask.connect(folder) as connection:
            every = axes(connection, *names)
            new = list(_found(connection, both, every, kept, workers, phase))
        if not new:
            return every
        kept |= {(one.weight_b, one.axis): one for one in new}
        with writers.writing(folder):
            comparing.keep_alignments(*scans, names, list(kept.values()))
            catalog.build(folder)


def _found(
    connection: ask.Connection,
    both: Subjects,
    every: Sequence[Axis],
    kept: Mapping[Key, Alignment],
    workers: int,
    phase: Phase,
) -> Iterator[Alignment]:
    """What can be found now: first of what has the hidden dimensions, since other matrices follow from those.

    What was found by statistics, because the original's checkpoint was not at hand, is looked for once more.
    """
    cut = [axis for axis in every if axis.n_b < axis.n_a]
    rough = {axis.key for axis in cut if axis.key in kept and not is_settled(kept[axis.key])}
    missing = [axis for axis in cut if not axis.is_known and axis.key not in kept]
    first = [axis for axis in missing if axis.has_hidden]
    told = {axis.key: axis.channels for axis in every if axis.is_exact and axis.channels is not None}
    again = [axis for axis in cut if axis.key in rough]
    theirs = _restricted(both[0], first or [*missing, *again], told, workers, phase)
    wanted = first or [*missing, *(axis for axis in again if axis.key in theirs)]
    for finding in (found_again(connection, both[1].model, wanted, theirs), by_module(wanted, every, told)):
        for one in finding:
            told[one.weight_b, one.axis] = one.channels_a
            yield one
    rest = [axis for axis in wanted if axis.key not in told]
    for one in by_statistics(connection, both[0].model, both[1].model, rest):
        yield replace(one, reason=one.reason or TRIED) if (one.weight_b, one.axis) in theirs else one


def _restricted(
    a: Subject, wanted: Sequence[Axis], told: Mapping[Key, np.ndarray], workers: int, phase: Phase
) -> dict[Key, np.ndarray]:
    """Fingerprints of a's channels over what is left of the other axis, by the axis they are wanted for."""
    if a.prepared is None:
        return {}
    of_a = weights(a.prepared.anatomy)
    cut = [(axis, of_a[axis.weight_a], told[axis.other]) for axis in wanted if axis.other in told]
    asked = [(axis, Restricted(s.placed, s.matrix, axis.axis, left)) for axis, s, left in cut if s.matrix]
    if not asked:
        return {}
    total, read = sum(each.nbytes for _, each in asked), 0
    with phase(f"{a.model}, restricted") as advance:

        def progress(nbytes: int) -> None:
            nonlocal read
            read += nbytes
            advance(read, total)

        found = fingerprints([each for _, each in asked], workers=workers, progress=progress)
    return {axis.key: of for (axis, _), of in zip(asked, found, strict=True) if of is not None}
