"""STORE, its names: what files are called that others look for, who need know nothing else of a store."""

from __future__ import annotations

CATALOG = "catalog.duckdb"  # beside commits and arrays
PARTIAL = ".partial"  # how files end that are being written, zarr's too
