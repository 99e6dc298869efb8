"""REDUCE, its conscience: Σσ² of every spectrum is ‖W‖_F², which the statistics have summed without any of LAPACK."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shardscan.anatomy.matrices import Matrix
from shardscan.reduce.moments import CHANNEL_STATISTICS
from shardscan.reduce.result import Inconsistent
from shardscan.reduce.spectra import Spectra

TOLERANCE = 1e-8  # more than this is not rounding: both sums are good to 1e-9
RMS = CHANNEL_STATISTICS.index("rms")


def compare_with_norms(spectra: Spectra, matrix: Matrix, side: str, stored: Callable[[str], np.ndarray]) -> Spectra:
    """The spectra with their self-check, from the rms of the channels of one side, 'out' or 'in'.

    `stored` gives an array of the matrix. Channels are divided among the spectra in order: those of each head, or all.
    """
    across = matrix.cols if side == "out" else matrix.rows
    squares = stored(f"channels_{side}")[RMS].reshape(len(spectra.sigma), -1) ** 2 * across
    return spectra.checked(squares.sum(axis=1))


def check_norms(spectra: Spectra, *, of_heads: bool) -> None:
    """Inconsistent where one of the spectra misses its norm by more than rounding."""
    if not (spectra.self_check > TOLERANCE).any():
        return
    worst = int(np.nanargmax(spectra.self_check))
    which = f"of head {worst} " if of_heads else ""
    error = float(spectra.self_check[worst])
    raise Inconsistent(f"the squares of the singular values {which}miss the norm of the weights by {error:.1e}")
