"""What must be equal in two stores that two devices have filled with scans of one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import shardscan

COUNTED = {
    "tensors": "tensor, min, max, absmax, absmin, zeros, near_zeros, nans, infs, p99_abs, p999_abs",
    "channels": "matrix, axis, channel, min, max, absmax, zeros, violations_2_4, violations_4_8, fingerprint",
    "distribution": "*",
    "matrices": "*",
}
SUMMED = {
    "tensors": ("tensor", "mean, std, mean_abs, rms, kurtosis"),
    "channels": ("matrix, axis, channel", "mean, std, mean_abs, rms, kurtosis"),
    "spectra": ("spectrum", "sigma_max, sigma_min, frobenius, floor, below_floor"),
    "singular_values": ("spectrum, i", "sigma"),
    "spectrum_fits": ("spectrum", "alpha, xmin, mp_edge, mp_spikes, snr"),
}


def query(store: Path, sql: str) -> list[tuple[Any, ...]]:
    with shardscan.connect(store) as connection:
        return connection.sql(sql).fetchall()


def same_tables(on_gpu: Path, on_cpu: Path) -> None:
    """What is counted is equal, what is summed within 1e-9, and all spectra are from where they should be."""
    methods = "select distinct method from spectra"
    assert query(on_cpu, methods) == [("gram",)]
    assert query(on_gpu, methods) == [("gram_gpu",)]
    for table, columns in COUNTED.items():
        sql = f"select {columns} from {table} order by all"
        assert query(on_gpu, sql) == query(on_cpu, sql)
    for table, (key, columns) in SUMMED.items():
        sql = f"select {columns} from {table} order by {key}"
        found, expected = (np.array(query(store, sql), float) for store in (on_gpu, on_cpu))
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=table)
