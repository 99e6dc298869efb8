"""REDUCE, its kernels: the same few functions for each device; arrays in, arrays out."""

# what kernels read off a spectrum, in the order of their columns
FITS = (
    "alpha",
    "xmin",
    "ks_distance",
    "tail_values",
    "alpha_weighted",
    "log_alpha_norm",
    "log_norm",
    "log_spectral_norm",
    "mp_edge",
    "mp_spikes",
    "mp_soft_rank",
    "snr",
    "snr_threshold",
)
