"""REDUCE on the CPU: numba for what is summed and counted, LAPACK for spectra. The only folder that imports numba.

Arrays in, arrays out; nothing here knows files, tensors or tasks.
"""

from shardscan.kernels.cpu.channels import channel_sums, keys
from shardscan.kernels.cpu.fits import FITS, spectrum_fits
from shardscan.kernels.cpu.patterns import count_patterns, count_truncated
from shardscan.kernels.cpu.spectra import column_grams, exact_spectrum, gram_spectra, row_grams
from shardscan.kernels.cpu.values import to_float64

__all__ = [
    "FITS",
    "channel_sums",
    "column_grams",
    "count_patterns",
    "count_truncated",
    "exact_spectrum",
    "gram_spectra",
    "keys",
    "row_grams",
    "spectrum_fits",
    "to_float64",
]
