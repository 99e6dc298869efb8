"""REDUCE on the GPU: raw CUDA kernels for what is summed and counted, cuBLAS and cuSOLVER for spectra.

The only folder that imports CuPy, and only when something is computed. NumPy arrays in, NumPy arrays out, as on the
CPU, but for one step: `load` puts a block on the device once, for all that is asked of it. Counts, extremes and
fingerprints equal the CPU's; sums agree to 1e-9. Work goes to the thread's current device, which `use` selects.
"""

from shardscan.reduce.kernels.gpu.channels import statistics
from shardscan.reduce.kernels.gpu.device import NoDevice, OutOfMemory, available, use
from shardscan.reduce.kernels.gpu.spectra import Inaccurate, column_grams, full_spectrum, gram_spectra, row_grams
from shardscan.reduce.kernels.gpu.values import Block, load

__all__ = [
    "Block",
    "Inaccurate",
    "NoDevice",
    "OutOfMemory",
    "available",
    "column_grams",
    "full_spectrum",
    "gram_spectra",
    "load",
    "row_grams",
    "statistics",
    "use",
]
