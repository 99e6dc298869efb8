"""REDUCE: blocks → partial sums → merged statistics and spectra; the only room that imports dask."""
