"""REDUCE, what comes out: the results of one tensor, and the order of the statistics in their arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardscan.reduce.moments import CHANNEL_STATISTICS
from shardscan.reduce.spectra import Spectra

VIOLATIONS = ("violations_2_4", "violations_4_8")
# of one channel, as they are stored; of an input channel there are no violations
STORED_STATISTICS = (*CHANNEL_STATISTICS, *VIOLATIONS)


@dataclass(frozen=True, slots=True)
class MatrixResult:
    """Of one matrix; a field is None where its product was not asked for or does not exist.

    channels_out and _in (9, channels) in the order of CHANNEL_STATISTICS; fingerprints (channels,) uint64; VIOLATIONS
    of output channels (2, channels); the spectra of all heads, and that of the whole matrix.
    """

    channels_out: np.ndarray | None = None
    channels_in: np.ndarray | None = None
    fingerprints_out: np.ndarray | None = None
    fingerprints_in: np.ndarray | None = None
    violations: np.ndarray | None = None
    heads: Spectra | None = None
    full: Spectra | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """Of one unit: tensor (14,) in the order of TENSOR_MOMENTS; counts (65536,) uint64; its matrices in their order.

    Of a composite there is nothing but the spectra of its heads.
    `failure` says why there is nothing at all.
    """

    tensor: np.ndarray | None = None
    counts: np.ndarray | None = None
    digest: str | None = None
    matrices: tuple[MatrixResult, ...] = ()
    composites: Spectra | None = None
    failure: str | None = None
