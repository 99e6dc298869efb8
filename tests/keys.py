"""The keys of the tables, which no index enforces: what conftest checks of every catalog that a test builds."""

from pathlib import Path

import duckdb

KEYS = {
    "models": "model",
    "files": "model, file",
    "runs": "model, run",
    "tensors": "model, tensor",
    "matrices": "model, matrix",
    "channels": "model, matrix, axis, channel",
    "spectra": "model, spectrum",
    "singular_values": "model, spectrum, i",
    "spectrum_fits": "model, spectrum",
    "distribution": "model, tensor, bin",
}


def repeated(catalog: Path) -> list[str]:
    """The tables in which a key stands twice."""
    with duckdb.connect(catalog, read_only=True) as connection:
        counts = {
            table: connection.execute(f"select count(*), count(distinct ({key},)) from {table}").fetchall()
            for table, key in KEYS.items()
        }
    return [table for table, ((rows, distinct),) in counts.items() if rows != distinct]
