"""Arrow → eyes: tables, JSON, CSV, Markdown, Parquet, and progress."""
