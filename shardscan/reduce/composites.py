"""REDUCE, its composites: spectra of the products of two heads, from d×d cores and never from the product itself.

With QR of both factors the product is Q₁·R₁·R₂ᵀ·Q₂ᵀ, so its σ are those of R₁·R₂ᵀ. One head is in memory at a time, and
the core of a KV head serves all its query heads.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shardscan.anatomy.composites import Composite, Factor
from shardscan.errors import CheckpointError
from shardscan.reduce.kernels import FITS, cpu
from shardscan.reduce.result import Result
from shardscan.reduce.selfcheck import missed
from shardscan.reduce.spectra import METHODS, SELF_CHECK, SPECTRUM_FACTS, fitted
from shardscan.reduce.values import head_slices

# what compares σ with those of one matrix of random entries, which a product is not
OF_ONE_MATRIX = [SPECTRUM_FACTS.index(name) for name in FITS if name.startswith(("mp_", "snr"))]


def reduce_composite(composite: Composite) -> Result:
    """The singular values of the composites of all query heads of one layer."""
    sigma = np.full((composite.heads, composite.rank), np.nan)
    methods = np.full(composite.heads, METHODS.index("none"))
    largest, checks = np.full(composite.heads, np.nan), np.full(composite.heads, np.nan)
    queries = composite.heads // composite.right.heads.count
    try:
        rights = _cores(composite.right, composite.right.heads.count)
        for head, left in enumerate(_cores(composite.left, composite.heads)):
            if head % queries == 0:
                right = next(rights)
            found = left and right and cpu.product_spectrum(left, right)
            if found:
                sigma[head], largest[head], checks[head] = found
                methods[head] = METHODS.index("qr_cores")
    except (CheckpointError, np.linalg.LinAlgError) as error:  # one bad tensor costs only its composites
        return Result(failure=str(error))
    spectra = fitted(sigma, methods, composite.rows, composite.cols, largest)
    # QR, Gram and products err by about (rows + cols)·d·eps of ‖A‖_F²·‖B‖_F² at most (Higham 2002, §3.5 and §19.3),
    # 5e-10 for heads of 128 × 8192: what cancels in A·B does not, so TOLERANCE is relative to that
    spectra.facts[:, SELF_CHECK] = checks
    spectra.facts[:, OF_ONE_MATRIX] = np.nan
    failure = missed(spectra, of_heads=True)
    return Result(failure=failure) if failure else Result(composites=spectra)


def _cores(factor: Factor, heads: int) -> Iterator[cpu.Core | None]:
    for w in head_slices(factor.placed, factor.matrix, range(heads)):
        yield cpu.core(w.T if factor.heads.axis == "out" else w)
