"""CATALOG, its rows of composites: circuits and deltas, which are in no file, and their spectra."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from shardscan.anatomy.adapters import find_factor
from shardscan.anatomy.composites import CIRCUIT, DELTA
from shardscan.anatomy.lora import find_scaling
from shardscan.anatomy.names import canonical
from shardscan.catalog.rows.columns import Rows, repeat_values
from shardscan.catalog.rows.spectra import Spectrum, known_sigma, spectrum_rows
from shardscan.catalog.scans import Composites, Contents, list_composites
from shardscan.store.arrays import read_stacked_array
from shardscan.store.records import StoredComposite


def circuit_rows(scanned: Contents) -> Iterator[Rows]:
    """Of the OV and QK circuits of every query head."""
    return _rows(scanned, CIRCUIT)


def delta_rows(scanned: Contents) -> Iterator[Rows]:
    """Of what each pair of LoRA factors adds to its weight."""
    return _rows(scanned, DELTA)


def _rows(scanned: Contents, kind: str) -> Iterator[Rows]:
    for composites in list_composites(scanned, kind):
        region = composites.layers, slice(None)
        sigma, facts = (
            read_stacked_array(scanned.scan, composites.folder, name, region)
            for name in ("composites", "composites_facts")
        )
        yield _matrices(scanned, composites)
        yield from spectrum_rows(scanned.model, list(_spectra(composites, sigma, facts)))


def _matrices(scanned: Contents, composites: Composites) -> Rows:
    """Circuits and deltas, which are in no file and have no channels."""
    matrices = [(facts, id) for facts in composites.stored.values() for id in _ids_of(facts)]
    n = len(matrices)
    return "matrices", pa.table({
        "model": repeat_values([scanned.model], [n]),
        "matrix": pa.array([id for _, id in matrices], pa.string()),
        "kind": pa.array([facts.kind for facts, _ in matrices], pa.string()),
        "component": repeat_values([composites.component], [n]),
        "layer": pa.array([facts.layer for facts, _ in matrices], pa.int32()),
        "role": pa.array([facts.role for facts, _ in matrices], pa.string()),
        "expert": pa.array([facts.expert for facts, _ in matrices], pa.int32()),
        "rows": pa.array([facts.rows for facts, _ in matrices], pa.int64()),
        "cols": pa.array([facts.cols for facts, _ in matrices], pa.int64()),
        "scaling": pa.array([_scaling(scanned.facts.config, facts) for facts, _ in matrices], pa.float64()),
    })  # fmt: skip


def _scaling(config: Mapping[str, Any] | None, composite: StoredComposite) -> float | None:
    factor = find_factor(canonical(composite.left)) if composite.kind == DELTA else None
    shape = composite.rows, composite.cols
    return find_scaling(config, factor.module, shape, composite.rank) if factor else None


def _spectra(composites: Composites, sigma: np.ndarray, facts: np.ndarray) -> Iterator[Spectrum]:
    """The spectra of some layers' composites: σ (layers, head, rank) and their facts (layers, head, 16)."""
    for index, composite in composites.stored.items():
        for head, id in enumerate(_ids_of(composite)):
            at, failure = (index - composites.layers.start, head), composites.failures.get(index)
            yield Spectrum(
                id=id,
                matrix=id,
                layer=composite.layer,
                role=composite.role,
                head=head if composite.kind == CIRCUIT else None,
                rows=composite.rows,
                cols=composite.cols,
                rank=composite.rank,
                sigma=known_sigma(sigma[at][: composite.rank], facts[at], failure),
                facts=facts[at],
                failure=failure,
            )


def _ids_of(composite: StoredComposite) -> list[str]:
    """The ids of the matrices that a composite is: one for each head of a circuit, one of a delta."""
    if composite.kind != CIRCUIT:
        return [str(composite.id)]
    return [f"{composite.id}.{head}" for head in range(composite.heads)]
