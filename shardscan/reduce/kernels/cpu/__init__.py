"""REDUCE on the CPU: numba for what is summed and counted, LAPACK for spectra. The only folder that imports numba.

Arrays in, arrays out; nothing here knows files, tensors or tasks.
"""

from shardscan.reduce.kernels.cpu.channels import channel_sums, keys
from shardscan.reduce.kernels.cpu.fits import spectrum_fits
from shardscan.reduce.kernels.cpu.lapack import add_gram, eigenvalues, triangle
from shardscan.reduce.kernels.cpu.patterns import count_patterns, count_truncated
from shardscan.reduce.kernels.cpu.sparsity import group_violations
from shardscan.reduce.kernels.cpu.spectra import (
    LEAST_SIGMA,
    Core,
    column_grams,
    core,
    exact_full_spectrum,
    exact_spectrum,
    full_spectrum,
    gram_spectra,
    product_spectrum,
    row_grams,
)
from shardscan.reduce.kernels.cpu.statistics import compiled, statistics
from shardscan.reduce.kernels.cpu.values import to_float64

__all__ = [
    "LEAST_SIGMA",
    "Core",
    "add_gram",
    "channel_sums",
    "column_grams",
    "compiled",
    "core",
    "count_patterns",
    "count_truncated",
    "eigenvalues",
    "exact_full_spectrum",
    "exact_spectrum",
    "full_spectrum",
    "gram_spectra",
    "group_violations",
    "keys",
    "product_spectrum",
    "row_grams",
    "spectrum_fits",
    "statistics",
    "to_float64",
    "triangle",
]
