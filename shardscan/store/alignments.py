"""STORE, its alignments: which channels of one scan became which of another's, where that had to be searched for.

    <store>/arrays.zarr/align-<hash>/<hash of its values>    int64 [channel]    of one alignment after the other

They are of two scans, by their ids, and of nothing that is compared of them: no comparison that begins, or begins anew,
touches them. The array is named by its values and `begun` says which one it is, so that at any moment there are either
those that were kept before or those that are kept now.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import xxhash

from shardscan.store import commits
from shardscan.store.chunks import METADATA, Chunked
from shardscan.store.commits import ALIGNED, Scan
from shardscan.store.creation import write_root
from shardscan.store.metadata import describe_array, describe_bare_group
from shardscan.store.records import BegunAlignments
from shardscan.store.two_scans import Models, check_both_speak, forget_others, locate_of_two

ALIGNMENTS_LAYOUT = 1
OURS = re.compile(r"[0-9a-f]{32}")  # arrays; what else lies beside them is somebody's


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Which channel of a each channel of b's weight is along one axis, 'out' or 'in': int64, −1 where unknown.

    `method` is a word for how it was found, `reason` what there is to say of it.
    """

    weight_a: str
    weight_b: str
    axis: str
    channels_a: np.ndarray
    method: str
    reason: str | None = None


def keep_alignments(a: Scan, b: Scan, models: Models, alignments: Sequence[Alignment]) -> None:
    """Keep these alignments of two scans, of which there is one for a weight of b and an axis; others are no more.

    Only what differs from what is kept already, or what a disk has lost of it, is written. To be called within
    `lock.writing_store`. StoreError where one of the scans does not speak for its model any more.
    """
    check_both_speak(a, b, models)
    place = locate_of_two(ALIGNED, a, b, ALIGNMENTS_LAYOUT)
    forget_others(place, ALIGNED, models)
    if not alignments:
        commits.forget(place)
        return
    array, files = _files(alignments)
    stamps = {name: commits.stamp_of(data) for name, data in files.items()}
    begun = BegunAlignments(a.id, b.id, models, ALIGNMENTS_LAYOUT, stamps, array, _parts(alignments))
    write_root(place)
    for name, data in files.items():
        if not commits.is_as_stamped(place.arrays / name, stamps[name]):
            commits.write_file(place.arrays / name, data)
    if commits.read_begun_of_two(place, BegunAlignments) != begun:
        commits.begin_of_two(place, begun)  # in one step: until now those before hold
    _sweep(place, array)


def read_alignments(a: Scan, b: Scan) -> list[Alignment]:
    """What `keep_alignments` last kept of two scans; none where it is lost or damaged."""
    place = locate_of_two(ALIGNED, a, b, ALIGNMENTS_LAYOUT)
    begun = commits.read_begun_of_two(place, BegunAlignments)
    return read_begun_alignments(place, begun) or [] if begun else []


def read_begun_alignments(place: Scan, begun: BegunAlignments) -> list[Alignment] | None:
    """The alignments that began so; None where they are not to the bit what was kept."""
    if not commits.is_intact(place, begun.files):
        return None
    array = place.arrays / begun.array
    values = Chunked.open(array).read(array)
    return [
        Alignment(weight_a, weight_b, axis, values[first : first + n], method, reason)
        for weight_a, weight_b, axis, method, reason, first, n in begun.alignments
    ]


def _parts(alignments: Sequence[Alignment]) -> tuple[tuple[str, str, str, str, str | None, int, int], ...]:
    """What each is of, and which part of the array it has: its first channel, and how many."""
    lengths = [len(alignment.channels_a) for alignment in alignments]
    firsts = accumulate(lengths, initial=0)
    return tuple(
        (alignment.weight_a, alignment.weight_b, alignment.axis, alignment.method, alignment.reason, first, n)
        for alignment, first, n in zip(alignments, firsts, lengths, strict=False)  # the last sum begins nothing
    )


def _files(alignments: Sequence[Alignment]) -> tuple[str, Mapping[str, bytes]]:
    """The array's name, and every file."""
    values = np.concatenate([np.asarray(alignment.channels_a, np.int64) for alignment in alignments])
    name = xxhash.xxh3_128_hexdigest(values.astype("<i8").tobytes())
    metadata = describe_array(("channel",), values.shape, "int64", -1, chunk=(max(1, len(values)),))
    array = Chunked.of(metadata)
    files = {f"{name}/{array.key((0,))}": array.encode(values)} if len(values) else {}
    return name, {METADATA: describe_bare_group(), f"{name}/{METADATA}": metadata, **files}


def _sweep(place: Scan, array: str) -> None:
    """Remove what was kept before, and what a killed writer left."""
    commits.sweep(place)
    for leftover in place.arrays.glob("*/"):
        if OURS.fullmatch(leftover.name) and leftover.name != array:
            shutil.rmtree(leftover, ignore_errors=True)
