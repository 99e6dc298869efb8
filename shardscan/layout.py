"""STORE, its layout: which arrays the folder of a group holds, their axes and chunks. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shardscan.plan import Group, has_full
from shardscan.reduce.distribution import BINS
from shardscan.reduce.moments import CHANNEL_STATISTICS
from shardscan.reduce.result import SPECTRUM_FACTS, TENSOR_STATISTICS

# what stands along an axis of words
LABELS = {
    "tensor_statistic": TENSOR_STATISTICS,
    "channel_statistic": CHANNEL_STATISTICS,
    "spectrum_fact": SPECTRUM_FACTS,
}


@dataclass(frozen=True, slots=True)
class Spec:
    """One stacked array: a file for each index along its first `stacked` axes, split by the next axis if `sharded`."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    stacked: int
    sharded: bool = False

    @property
    def file(self) -> tuple[int, ...]:
        return (*(1,) * self.stacked, *(max(1, n) for n in self.shape[self.stacked :]))

    @property
    def chunk(self) -> tuple[int, ...]:
        split = self.stacked + self.sharded
        return (*(1,) * split, *self.file[split:])


def specs(group: Group) -> dict[str, Spec]:
    """Every array of a group's folder, by name."""
    shape: tuple[int, ...]
    stack, matrices = (len(group.layers), len(group.experts)), [p.matrix for p, _ in group.members if p.matrix]
    out: dict[str, Spec] = {}
    for part in sorted({p.place.part for p, _ in group.members}):
        statistics = (*stack, len(TENSOR_STATISTICS))
        out[f"statistics_{part}"] = Spec(("layer", "expert", "tensor_statistic"), statistics, "float64", 2)
        out[f"distribution_{part}"] = Spec(("layer", "expert", "pattern"), (*stack, BINS), "uint64", 2)
    sides = {"out": [m.rows for m in matrices], "in": [m.cols for m in matrices if m.kind == "whole"]}
    for side, lengths in sides.items():
        if lengths:
            dims = ("layer", "expert", "channel_statistic", f"{side}_channel")
            shape = (*stack, len(CHANNEL_STATISTICS), max(lengths))
            out[f"channels_{side}"] = Spec(dims, shape, "float64", 2)
            out[f"fingerprints_{side}"] = Spec((*dims[:2], dims[3]), (*stack, max(lengths)), "uint64", 2)
    of_heads = {
        "heads": [(m.heads.count, m.heads.rank(m.rows, m.cols)) for m in matrices if m.heads],
        "circuits": [(c.heads, c.rank) for c in group.circuits],
    }
    for name, sizes in of_heads.items():
        if sizes:
            shape = (stack[0], *(max(each) for each in zip(*sizes, strict=True)))
            out[name] = Spec(("layer", "head", f"{name.removesuffix('s')}_rank"), shape, "float64", 1, sharded=True)
            facts = (*shape[:2], len(SPECTRUM_FACTS))
            out[f"{name}_facts"] = Spec(("layer", "head", "spectrum_fact"), facts, "float64", 1)
    ranks = [min(p.matrix.rows, p.matrix.cols) for p, _ in group.members if p.matrix and has_full(p)]
    if ranks:
        out["full"] = Spec(("layer", "expert", "full_rank"), (*stack, max(ranks)), "float64", 2)
        out["full_facts"] = Spec(("layer", "expert", "spectrum_fact"), (*stack, len(SPECTRUM_FACTS)), "float64", 2)
    return out
