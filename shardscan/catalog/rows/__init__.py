"""CATALOG, its rows: one scan's, or two scans', arrays and commits as Arrow tables, with the columns of sql/schema.

NULL means not computed: a NaN never becomes a value.
"""

from shardscan.catalog.rows.columns import Rows
from shardscan.catalog.rows.comparison import alignment_rows, comparison_rows
from shardscan.catalog.rows.scan import describe_checkpoint, scan_rows

__all__ = ["Rows", "alignment_rows", "comparison_rows", "describe_checkpoint", "scan_rows"]
