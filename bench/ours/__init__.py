"""Our side of the rows that are no whole ingest: scripts that prepare, warm up, time themselves and print JSON."""
