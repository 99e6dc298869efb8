"""Benchmarks: `python -m bench` times shardscan beside what people do today, in one run, and prints the ratios."""
