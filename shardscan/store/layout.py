"""STORE, its layout: which arrays the folder of a group holds, their axes and chunks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shardscan.anatomy.matrices import Matrix
from shardscan.plan.tasks import EXPERTS_PER_TASK, Group, has_full
from shardscan.reduce.distribution import BINS
from shardscan.reduce.result import STORED_STATISTICS
from shardscan.reduce.spectra import SPECTRUM_FACTS
from shardscan.reduce.tensors import TENSOR_MOMENTS

# what stands along an axis of words
LABELS = {
    "tensor_moment": TENSOR_MOMENTS,
    "channel_statistic": STORED_STATISTICS,
    "spectrum_fact": SPECTRUM_FACTS,
}


@dataclass(frozen=True, slots=True)
class Spec:
    """One stacked array: a file for each layer and, where `stacked` is 2, run of experts; `sharded` by heads."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    stacked: int
    sharded: bool = False

    @property
    def file(self) -> tuple[int, ...]:
        run = (min(EXPERTS_PER_TASK, self.shape[1]),) if self.stacked > 1 else ()
        return (1, *run, *(max(1, n) for n in self.shape[self.stacked :]))

    @property
    def chunk(self) -> tuple[int, ...]:
        return (1, 1, *self.file[2:]) if self.sharded else self.file


def specs(group: Group) -> dict[str, dict[str, Spec]]:
    """Every array of a group, by folder and name: of tensors in its own, of matrices where they are stacked."""
    stack = (len(group.layers), len(group.experts))
    out: dict[str, dict[str, Spec]] = {group.folder: {}}
    for part in sorted({p.place.part for p, _ in group.members}):
        shape = (*stack, len(TENSOR_MOMENTS))
        out[group.folder][f"moments_{part}"] = Spec(("layer", "expert", "tensor_moment"), shape, "float64", 2)
        out[group.folder][f"distribution_{part}"] = Spec(("layer", "expert", "pattern"), (*stack, BINS), "uint64", 2)
    for folder, found in group.stacks.items():
        matrices = [matrix for _, matrix, _ in found]
        divided = [(m.heads.count, m.heads.rank(m.rows, m.cols)) for m in matrices if m.heads]
        ranks = [min(matrix.rows, matrix.cols) for p, matrix, _ in found if has_full(p, matrix)]
        out.setdefault(folder, {}).update({**_channels(stack, matrices), **_spectra("heads", stack, divided)})
        out[folder] |= _full(stack, ranks)
    out[group.folder] |= _spectra("composites", stack, [(c.heads, c.rank) for c in group.composites])
    return out


def _channels(stack: tuple[int, int], matrices: Sequence[Matrix]) -> dict[str, Spec]:
    sides = {"out": [m.rows for m in matrices], "in": [m.cols for m in matrices if m.has_columns]}
    found = {}
    for side, lengths in sides.items():
        if lengths:
            dims = ("layer", "expert", "channel_statistic", f"{side}_channel")
            shape = (*stack, len(STORED_STATISTICS), max(lengths))
            found[f"channels_{side}"] = Spec(dims, shape, "float64", 2)
            found[f"fingerprints_{side}"] = Spec((*dims[:2], dims[3]), (*stack, max(lengths)), "uint64", 2)
    return found


def _spectra(name: str, stack: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> dict[str, Spec]:
    """Of heads or composites, from the number and the rank of those of each layer."""
    if not sizes:
        return {}
    shape = (stack[0], *(max(each) for each in zip(*sizes, strict=True)))
    facts = (*shape[:2], len(SPECTRUM_FACTS))
    return {
        name: Spec(("layer", "head", f"{name.removesuffix('s')}_rank"), shape, "float64", 1, sharded=True),
        f"{name}_facts": Spec(("layer", "head", "spectrum_fact"), facts, "float64", 1),
    }


def _full(stack: tuple[int, int], ranks: Sequence[int]) -> dict[str, Spec]:
    if not ranks:
        return {}
    facts = (*stack, len(SPECTRUM_FACTS))
    return {
        "full": Spec(("layer", "expert", "full_rank"), (*stack, max(ranks)), "float64", 2),
        "full_facts": Spec(("layer", "expert", "spectrum_fact"), facts, "float64", 2),
    }
