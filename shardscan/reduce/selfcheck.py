"""REDUCE, its conscience: Σσ² of every spectrum is ‖W‖_F², which the statistics have summed without any of LAPACK."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from shardscan.plan import Unit
from shardscan.reduce.moments import CHANNEL_STATISTICS
from shardscan.reduce.result import Result, Spectra

TOLERANCE = 1e-8  # more than this is not rounding: both sums are good to 1e-9
RMS = CHANNEL_STATISTICS.index("rms")


def checked(unit: Unit, result: Result, channels: Callable[[str], np.ndarray]) -> Result:
    """The result with the self-check of its spectra, or a failure that says which of them disagrees.

    `channels` gives the channel statistics (9, n) of one side of the unit, 'out' or 'in'.
    """
    matrix = unit.placed.matrix
    if matrix is None or result.failure:
        return result
    if result.heads and matrix.heads:
        side = matrix.heads.axis
        result = dataclasses.replace(result, heads=_checked(result.heads, channels(side), _across(unit, side)))
    if result.full:
        result = dataclasses.replace(result, full=_checked(result.full, channels("out"), _across(unit, "out")))
    for spectra in (result.heads, result.full):
        if failure := spectra and missed(spectra, of_heads=spectra is result.heads):
            return Result(failure=failure)
    return result


def missed(spectra: Spectra, *, of_heads: bool) -> str | None:
    """What to say of spectra of which one misses its norm by more than rounding."""
    if not (spectra.self_check > TOLERANCE).any():
        return None
    worst = int(np.nanargmax(spectra.self_check))
    which = f"of head {worst} " if of_heads else ""
    error = float(spectra.self_check[worst])
    return f"the squares of the singular values {which}miss the norm of the weights by {error:.1e}"


def _across(unit: Unit, side: str) -> int:
    """Values in one channel of a side."""
    matrix = unit.placed.matrix
    assert matrix
    return matrix.cols if side == "out" else matrix.rows


def _checked(spectra: Spectra, channels: np.ndarray, across: int) -> Spectra:
    """Channels are divided among the spectra in order: those of each head, or all."""
    squares = channels[RMS].reshape(len(spectra.sigma), -1) ** 2 * across
    return spectra.checked(squares.sum(axis=1))
