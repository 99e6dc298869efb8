"""CATALOG: commits become DuckDB tables, which are derived and never migrated.

This file stays empty, or a process that runs a query would load zarr.
"""
