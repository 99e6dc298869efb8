"""REDUCE, its composites: spectra of the products of two heads, from d×d cores and never from the product itself.

With QR of both factors the product is Q₁·R₁·R₂ᵀ·Q₂ᵀ, so its σ are those of R₁·R₂ᵀ. One head is in memory at a time, and
the core of a KV head serves all its query heads.

    composites          of a layer: σ (heads, rank)
    composites_facts    SPECTRUM_FACTS of each
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from shardscan.anatomy.composites import Composite, Factor
from shardscan.reduce.kernels import FITS, cpu
from shardscan.reduce.products import CompositeSteps, Stack, StackedArrays
from shardscan.reduce.selfcheck import check_norms
from shardscan.reduce.spectra import METHODS, SELF_CHECK, SPECTRUM_FACTS, fit_spectra, stacked_spectra
from shardscan.reduce.values import head_slices

# what compares σ with those of one matrix of random entries, which a product is not
OF_ONE_MATRIX = [SPECTRUM_FACTS.index(name) for name in FITS if name.startswith(("mp_", "snr"))]


def _reduce(composite: Composite) -> dict[str, np.ndarray]:
    """The singular values of the composites of all heads of one layer; Inconsistent where they miss their norm."""
    sigma = np.full((composite.heads, composite.rank), np.nan)
    methods = np.full(composite.heads, METHODS.index("none"))
    largest, checks = np.full(composite.heads, np.nan), np.full(composite.heads, np.nan)
    queries = composite.heads // composite.right.heads.count
    rights = _cores(composite.right, composite.right.heads.count)
    for head, left in enumerate(_cores(composite.left, composite.heads)):
        if head % queries == 0:
            right = next(rights)
        spectrum = left and right and cpu.product_spectrum(left, right)
        if spectrum:
            sigma[head], largest[head], checks[head] = spectrum
            methods[head] = METHODS.index("qr_cores")
    spectra = fit_spectra(sigma, methods, composite.rows, composite.cols, largest)
    # QR, Gram and products err by about (rows + cols)·d·eps of ‖A‖_F²·‖B‖_F² at most (Higham 2002, §3.5 and §19.3),
    # 5e-10 for heads of 128 × 8192: what cancels in A·B does not, so TOLERANCE is relative to that
    spectra.facts[:, SELF_CHECK] = checks
    spectra.facts[:, OF_ONE_MATRIX] = np.nan
    check_norms(spectra, of_heads=True)
    return spectra.arrays("composites")


def _cores(factor: Factor, heads: int) -> Iterator[cpu.Core | None]:
    for w in head_slices(factor.placed, factor.matrix, range(heads)):
        yield cpu.core(w.T if factor.heads.axis == "out" else w)


def _composite_arrays(stack: Stack, composites: Sequence[Composite]) -> StackedArrays:
    return stacked_spectra("composites", stack, [(c.heads, c.rank) for c in composites])


STEPS = CompositeSteps(words={"spectrum_fact": SPECTRUM_FACTS}, composite_arrays=_composite_arrays, reduce=_reduce)
