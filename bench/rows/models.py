"""Whole tools on whole models: WeightLens and WeightWatcher beside an ingest."""

from __future__ import annotations

from pathlib import Path

from bench.measure import in_turn, run
from bench.row import Context, Goal, Row, memory_of, needs, needs_option, versus

PEERS = Path(__file__).parents[1] / "peers"


def weightlens(context: Context) -> list[Row]:
    """`lens analyze`, which has tensors' statistics only, beside a whole ingest with heads; both with a warm cache."""
    needs("weightlens")
    path = context.checkpoint(8)
    run([str(PEERS / "cold_read.py"), str(path)])
    ours, theirs = in_turn(
        context.runs,
        lambda: context.ingest(path, context.store("weightlens")),
        lambda: run([str(PEERS / "weightlens_analyze.py"), str(path)]),
    )
    row = versus("weightlens-8-layers", "weightlens 0.3 lens analyze", ours, theirs, Goal(10, 25), checkpoint=path.name)
    return [row, memory_of(row, 10)]


def weightwatcher(context: Context) -> list[Row]:
    """`analyze` of every matrix, beside an ingest with full spectra and heads, whole processes."""
    needs("weightwatcher", "transformers")
    needs_option("--spectra", "full")
    path = context.smollm2()
    ours, theirs = in_turn(
        context.runs,
        lambda: context.ingest(path, context.store("weightwatcher"), "--spectra", "heads,full"),
        lambda: run([str(PEERS / "weightwatcher_analyze.py"), str(path)]),
    )
    row = versus("weightwatcher-smollm2", "WeightWatcher 0.7.7 analyze", ours, theirs, Goal(4, 10))
    return [row, memory_of(row, 1)]
