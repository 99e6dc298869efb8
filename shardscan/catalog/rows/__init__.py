"""CATALOG, its rows: one scan's, or two scans', arrays and commits as Arrow tables, with the columns of sql/schema.

NULL means not computed: a NaN never becomes a value.
"""

from shardscan.catalog.rows.columns import Rows
from shardscan.catalog.rows.comparison import of_alignments, of_comparison
from shardscan.catalog.rows.scan import of_scan, said

__all__ = ["Rows", "of_alignments", "of_comparison", "of_scan", "said"]
