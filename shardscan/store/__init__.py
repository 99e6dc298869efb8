"""STORE: what is committed, as Zarr arrays and small records; the only room that knows Zarr.

This file stays empty, or a process that runs a query would load zarr.
"""
