"""CATALOG, its rows of spectra: singular values and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa

from shardscan.catalog.rows.columns import Rows, repeat_values, statistics_column
from shardscan.catalog.scans import Contents, StackedMatrix, cut_regions
from shardscan.plan.products import FULL, HEADS
from shardscan.reduce.kernels import FITS
from shardscan.reduce.spectra import FLOOR, METHOD, METHODS, SELF_CHECK

UNKNOWN = "NaN or infinite values, or squares beyond float64"


@dataclass(frozen=True, slots=True)
class Spectrum:
    """One spectrum as its tables show it; `facts` are SPECTRUM_FACTS.

    `sigma` is empty where there are no values: because of what the weights are, or for the `failure` of their commit.
    """

    id: str
    matrix: str
    layer: int | None
    role: str
    head: int | None
    rows: int
    cols: int
    rank: int
    sigma: np.ndarray
    facts: np.ndarray
    failure: str | None

    @property
    def method(self) -> str:
        return METHODS[0 if self.failure else int(self.facts[METHOD])]

    @property
    def reason(self) -> str | None:
        return self.failure or (None if self.sigma.size else UNKNOWN)

    @property
    def floor(self) -> float:
        return float(self.facts[FLOOR])


def head_rows(scanned: Contents) -> Iterator[Rows]:
    """Of the spectra of all heads."""
    return _rows(scanned, HEADS, "heads")


def full_rows(scanned: Contents) -> Iterator[Rows]:
    """Of the spectra of whole matrices."""
    return _rows(scanned, FULL, "full")


def _rows(scanned: Contents, product: str, name: str) -> Iterator[Rows]:
    """Of the matrices whose commits speak of a product, from the arrays of this name."""
    for folder, matrices in scanned.stacks.items():
        committed = [m for m in matrices if m.has(product) or m.failure(product) is not None]
        width = max((max(m.stored.rows, m.stored.cols) for m in committed), default=0)
        for region in cut_regions(folder, committed, width) if committed else ():
            sigma, facts = scanned.array(region, name), scanned.array(region, f"{name}_facts")
            slots = [region.slot(m)[: sigma.ndim - (2 if product == HEADS else 1)] for m in region.members]
            spectra = (
                spectra_of_matrix(m, product, sigma[at], facts[at]) for m, at in zip(region.members, slots, strict=True)
            )
            yield from spectrum_rows(scanned.model, list(chain.from_iterable(spectra)))


def spectrum_rows(model: str, spectra: Sequence[Spectrum]) -> Iterator[Rows]:
    """The rows of all tables that spectra have."""
    shared = {
        "spectrum": pa.array([s.id for s in spectra], pa.string()),
        "matrix": pa.array([s.matrix for s in spectra], pa.string()),
        "layer": pa.array([s.layer for s in spectra], pa.int32()),
        "role": pa.array([s.role for s in spectra], pa.string()),
        "head": pa.array([s.head for s in spectra], pa.int32()),
    }
    models = repeat_values([model], [len(spectra)])
    yield "spectra", pa.table({"model": models, **shared, **_facts_of_spectra(spectra)})
    lengths = [len(s.sigma) for s in spectra]
    indices = pa.array(np.repeat(np.arange(len(spectra), dtype=np.int32), lengths))
    yield "singular_values", pa.table({
        "model": repeat_values([model], [sum(lengths)]),
        "i": np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in lengths]),
        **{name: shared[name].take(indices) for name in ("spectrum", "layer", "role", "head")},
        "sigma": np.concatenate([s.sigma for s in spectra]),
    })  # fmt: skip
    fits = np.array([s.facts[-len(FITS) :] for s in spectra])
    fitted = {name: statistics_column(fits[:, i], name) for i, name in enumerate(FITS)}
    yield "spectrum_fits", pa.table({"model": models, **shared, **fitted})


def _facts_of_spectra(spectra: Sequence[Spectrum]) -> dict[str, pa.Array]:
    def of_values(function: Callable[[Spectrum], float | int]) -> list[float | int | None]:
        return [function(s) if s.sigma.size else None for s in spectra]

    return {
        "rows": pa.array([s.rows for s in spectra], pa.int64()),
        "cols": pa.array([s.cols for s in spectra], pa.int64()),
        "rank": pa.array([s.rank for s in spectra], pa.int32()),
        "sigma_max": pa.array(of_values(lambda s: float(s.sigma[0])), pa.float64()),
        "sigma_min": pa.array(of_values(lambda s: float(s.sigma[-1])), pa.float64()),
        "frobenius": pa.array(of_values(lambda s: float(np.sqrt(np.sum(s.sigma**2)))), pa.float64()),
        "floor": pa.array(of_values(lambda s: s.floor), pa.float64()),
        "below_floor": pa.array(of_values(lambda s: int((s.sigma < s.floor).sum())), pa.int32()),
        "method": pa.array([s.method for s in spectra], pa.string()),
        "self_check": pa.array([float(s.facts[SELF_CHECK]) for s in spectra], pa.float64(), from_pandas=True),
        "reason": pa.array([s.reason for s in spectra], pa.string()),
    }


def spectra_of_matrix(m: StackedMatrix, product: str, sigma: np.ndarray, facts: np.ndarray) -> Iterator[Spectrum]:
    """The spectra of a matrix's heads, or of all of it: σ (…, rank) and their facts (…, 16)."""
    matrix = m.stored
    rows, cols = matrix.rows, matrix.cols
    heads: Sequence[int | None] = (None,)
    if product == HEADS and matrix.heads:
        rows, cols = matrix.heads.slice_shape(rows, cols)
        heads = range(matrix.heads.count)
    failure = m.failure(product)
    sigma, facts, rank = np.atleast_2d(sigma), np.atleast_2d(facts), min(rows, cols)
    for i, head in enumerate(heads):
        yield Spectrum(
            id=matrix.id if head is None else f"{matrix.id}@{head}",
            matrix=matrix.id,
            layer=m.layer,
            role=matrix.role,
            head=head,
            rows=rows,
            cols=cols,
            rank=rank,
            sigma=known_sigma(sigma[i, :rank], facts[i], failure),
            facts=facts[i],
            failure=failure,
        )


def known_sigma(sigma: np.ndarray, facts: np.ndarray, failure: str | None) -> np.ndarray:
    """σ, or none where there are no values."""
    return np.empty(0) if failure or METHODS[int(facts[METHOD])] == "none" else sigma
