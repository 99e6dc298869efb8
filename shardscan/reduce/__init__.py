"""REDUCE: blocks → partial sums → merged statistics and spectra; the only package that imports dask."""
