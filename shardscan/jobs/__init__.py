"""Jobs: each walks the whole line once."""
