"""REDUCE, its conscience: Σσ² of every spectrum is ‖W‖_F², which the statistics have summed without any of LAPACK."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from shardscan.anatomy.matrices import Matrix
from shardscan.plan.tasks import Unit
from shardscan.reduce.moments import CHANNEL_STATISTICS
from shardscan.reduce.result import Result
from shardscan.reduce.spectra import Spectra

TOLERANCE = 1e-8  # more than this is not rounding: both sums are good to 1e-9
RMS = CHANNEL_STATISTICS.index("rms")


def checked(unit: Unit, result: Result, channels: Callable[[int, str], np.ndarray]) -> Result:
    """The result with the self-check of its spectra, or a failure that says which of them disagrees.

    `channels` gives the channel statistics (9 or more, n) of one side of the unit's i-th matrix, 'out' or 'in'.
    """
    if result.failure:
        return result
    kept = []
    for i, (matrix, found) in enumerate(zip(unit.matrices, result.matrices, strict=True)):
        of = partial(channels, i)
        if found.heads and matrix.heads:
            found = dataclasses.replace(found, heads=_checked(matrix, found.heads, matrix.heads.axis, of))
        if found.full:
            found = dataclasses.replace(found, full=_checked(matrix, found.full, "out", of))
        for spectra in (found.heads, found.full):
            if failure := spectra and missed(spectra, of_heads=spectra is found.heads):
                return Result(failure=failure)
        kept.append(found)
    return dataclasses.replace(result, matrices=tuple(kept))


def missed(spectra: Spectra, *, of_heads: bool) -> str | None:
    """What to say of spectra of which one misses its norm by more than rounding."""
    if not (spectra.self_check > TOLERANCE).any():
        return None
    worst = int(np.nanargmax(spectra.self_check))
    which = f"of head {worst} " if of_heads else ""
    error = float(spectra.self_check[worst])
    return f"the squares of the singular values {which}miss the norm of the weights by {error:.1e}"


def _checked(matrix: Matrix, spectra: Spectra, side: str, channels: Callable[[str], np.ndarray]) -> Spectra:
    """Channels are divided among the spectra in order: those of each head, or all."""
    across = matrix.cols if side == "out" else matrix.rows
    squares = channels(side)[RMS].reshape(len(spectra.sigma), -1) ** 2 * across
    return spectra.checked(squares.sum(axis=1))
