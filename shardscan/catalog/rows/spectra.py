"""CATALOG, its rows of spectra: singular values and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from shardscan.anatomy.axes import Heads
from shardscan.anatomy.composites import CIRCUIT
from shardscan.catalog.rows.columns import Rows, numbers, repeat
from shardscan.catalog.scans import Composites, HeldMatrix
from shardscan.plan.tasks import HEADS
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


def tables(model: str, spectra: Sequence[Spectrum]) -> Iterator[Rows]:
    """The rows of all tables that spectra have."""
    shared = {
        "spectrum": pa.array([s.id for s in spectra], pa.string()),
        "matrix": pa.array([s.matrix for s in spectra], pa.string()),
        "layer": pa.array([s.layer for s in spectra], pa.int32()),
        "role": pa.array([s.role for s in spectra], pa.string()),
        "head": pa.array([s.head for s in spectra], pa.int32()),
    }
    models = repeat([model], [len(spectra)])
    yield "spectra", pa.table({"model": models, **shared, **_facts_of_spectra(spectra)})
    lengths = [len(s.sigma) for s in spectra]
    indices = pa.array(np.repeat(np.arange(len(spectra), dtype=np.int32), lengths))
    yield "singular_values", pa.table({
        "model": repeat([model], [sum(lengths)]),
        "i": np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in lengths]),
        **{name: shared[name].take(indices) for name in ("spectrum", "layer", "role", "head")},
        "sigma": np.concatenate([s.sigma for s in spectra]),
    })  # fmt: skip
    fits = np.array([s.facts[-len(FITS) :] for s in spectra])
    fitted = {name: numbers(fits[:, i], name) for i, name in enumerate(FITS)}
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


def of_matrix(m: HeldMatrix, product: str, sigma: np.ndarray, facts: np.ndarray) -> Iterator[Spectrum]:
    """The spectra of a matrix's heads, or of all of it: σ (…, rank) and their facts (…, 16)."""
    matrix = m.facts
    rows, cols = matrix["rows"], matrix["cols"]
    heads: Sequence[int | None] = (None,)
    if product == HEADS:
        division = Heads(**matrix["heads"])
        rows, cols = division.slice_shape(rows, cols)
        heads = range(division.count)
    failure = m.failures.get(product)
    sigma, facts, rank = np.atleast_2d(sigma), np.atleast_2d(facts), min(rows, cols)
    for i, head in enumerate(heads):
        yield Spectrum(
            id=matrix["id"] if head is None else f"{matrix['id']}@{head}",
            matrix=matrix["id"],
            layer=m.layer,
            role=matrix["role"],
            head=head,
            rows=rows,
            cols=cols,
            rank=rank,
            sigma=_known(sigma[i, :rank], facts[i], failure),
            facts=facts[i],
            failure=failure,
        )


def of_composites(some: Composites, sigma: np.ndarray, facts: np.ndarray) -> Iterator[Spectrum]:
    """The spectra of some layers' composites: σ (layers, head, rank) and their facts (layers, head, 16)."""
    for index, composite in some.facts.items():
        for head, id in enumerate(ids_of(composite)):
            at, failure = (index - some.layers.start, head), some.failures.get(index)
            yield Spectrum(
                id=id,
                matrix=id,
                layer=composite["layer"],
                role=composite["role"],
                head=head if composite["kind"] == CIRCUIT else None,
                rows=composite["rows"],
                cols=composite["cols"],
                rank=composite["rank"],
                sigma=_known(sigma[at][: composite["rank"]], facts[at], failure),
                facts=facts[at],
                failure=failure,
            )


def ids_of(composite: Mapping[str, Any]) -> list[str]:
    """The ids of the matrices that a composite is: one for each head of a circuit, one of a delta."""
    if composite["kind"] != CIRCUIT:
        return [str(composite["id"])]
    return [f"{composite['id']}.{head}" for head in range(composite["heads"])]


def _known(sigma: np.ndarray, facts: np.ndarray, failure: str | None) -> np.ndarray:
    return np.empty(0) if failure or METHODS[int(facts[METHOD])] == "none" else sigma
