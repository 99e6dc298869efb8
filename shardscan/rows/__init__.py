"""CATALOG, its rows: one scan's arrays and commits as Arrow tables, with the columns of sql/schema.

NULL means not computed: a NaN never becomes a value.
"""

from shardscan.rows.columns import Rows
from shardscan.rows.scan import config, of_scan

__all__ = ["Rows", "config", "of_scan"]
