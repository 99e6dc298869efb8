"""ASK: a question becomes an Arrow table, over a locked connection in a bounded process."""
