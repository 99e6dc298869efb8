"""MATCH, its survivors: aligns the axes of which SQL alone cannot tell which channels are left, and keeps that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np

from shardscan.answers.connection import Connection, connect
from shardscan.catalog.build import build
from shardscan.jobs.comparison.alignment import (
    TRIED,
    align_by_fingerprints,
    align_by_module,
    align_by_statistics,
    is_settled,
)
from shardscan.jobs.comparison.axes import Axis, Key, read_axes
from shardscan.jobs.comparison.pairing import sides_by_id
from shardscan.jobs.comparison.subjects import Subject, Subjects
from shardscan.jobs.comparison.values import keep_alignments, read_alignments
from shardscan.reduce.restricted_fingerprints import Restricted, find_restricted_fingerprints
from shardscan.store.alignments import Alignment
from shardscan.store.commits import Scan
from shardscan.store.lock import writing_store

Phase = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
Scans = tuple[Scan, Scan]


def settle_axes(folder: Path, scans: Scans, both: Subjects, workers: int, phase: Phase) -> list[Axis]:
    """Both axes of every matrix, once those of which SQL cannot tell are aligned as far as can be, and that is kept."""
    names = both[0].model, both[1].model
    kept = {(alignment.weight_b, alignment.axis): alignment for alignment in read_alignments(*scans)}
    while True:
        with connect(folder) as connection:
            every = read_axes(connection, *names)
            new = list(_align(connection, both, every, kept, workers, phase))
        if not new:
            return every
        kept |= {(alignment.weight_b, alignment.axis): alignment for alignment in new}
        with writing_store(folder):
            keep_alignments(*scans, names, list(kept.values()))
            build(folder)


def _align(
    connection: Connection,
    both: Subjects,
    every: Sequence[Axis],
    kept: Mapping[Key, Alignment],
    workers: int,
    phase: Phase,
) -> Iterator[Alignment]:
    """What can be aligned now: first what has the hidden dimensions, since other matrices follow from those.

    What was aligned by statistics, because the original's checkpoint was not at hand, is tried once more.
    """
    cut = [axis for axis in every if axis.n_b < axis.n_a]
    missing = [axis for axis in cut if not axis.is_known and axis.key not in kept]
    approximate = [axis for axis in cut if axis.key in kept and not is_settled(kept[axis.key])]
    hidden = [axis for axis in missing if axis.has_hidden]
    known = {axis.key: axis.channels for axis in every if axis.is_exact and axis.is_of_a and axis.channels is not None}
    restricted = _restricted_fingerprints(both[0], hidden or [*missing, *approximate], known, workers, phase)
    wanted = hidden or [*missing, *(axis for axis in approximate if axis.key in restricted)]
    for alignment in align_by_fingerprints(connection, both[1].model, wanted, restricted):
        known[alignment.weight_b, alignment.axis] = alignment.channels_a
        yield alignment
    for alignment in align_by_module(wanted, every, known):
        known[alignment.weight_b, alignment.axis] = alignment.channels_a
        yield alignment
    rest = [axis for axis in wanted if axis.key not in known]
    for alignment in align_by_statistics(connection, both[0].model, both[1].model, rest):
        was_tried = (alignment.weight_b, alignment.axis) in restricted
        yield replace(alignment, reason=alignment.reason or TRIED) if was_tried else alignment


def _restricted_fingerprints(
    a: Subject, wanted: Sequence[Axis], known: Mapping[Key, np.ndarray], workers: int, phase: Phase
) -> dict[Key, np.ndarray]:
    """Fingerprints of a's channels over what is left of the other axis, by the axis they are wanted for."""
    if a.prepared is None:
        return {}
    sides = sides_by_id(a.prepared.anatomy)
    keys, restricted = [], []
    for axis in wanted:
        left = known.get(axis.key_across)
        if left is not None and (side := sides[axis.weight_a]).matrix:
            keys.append(axis.key)
            restricted.append(Restricted(side.placed, side.matrix, axis.axis, left))
    if not restricted:
        return {}
    total, read = sum(matrix.nbytes for matrix in restricted), 0
    with phase(f"{a.model}, restricted") as advance:

        def progress(nbytes: int) -> None:
            nonlocal read
            read += nbytes
            advance(read, total)

        of_each = find_restricted_fingerprints(restricted, workers=workers, progress=progress)
    return {key: of_axis for key, of_axis in zip(keys, of_each, strict=True) if of_axis is not None}
