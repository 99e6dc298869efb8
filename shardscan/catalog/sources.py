"""CATALOG, what its rows come of: scans, and comparisons and alignments of two of them.

Each source has rows of its own, under the names of its models, in the tables whose `.sql` files say so (`-- of:`). An
origin says what rows were built from: where it is not that of the source any more, they are stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from shardscan.catalog import comparisons, rows, sqlfiles
from shardscan.catalog.comparisons import Aligned, Comparison
from shardscan.catalog.scans import Contents, read_contents
from shardscan.errors import shown
from shardscan.store import commits
from shardscan.store.commits import Scan

Source = Contents | Comparison | Aligned
Models = tuple[str, ...]  # the names of the one or two that a source is of
Identity = tuple[str, Models]  # of a source: its kind, as in SOURCE_KINDS of sqlfiles, and its models
Origin = tuple[Any, ...]  # what its rows were built from


def read_sources(scans: Sequence[Scan]) -> Iterator[Source]:
    """Every source of a store: its scans, and then what is of two of them."""
    yield from map(read_contents, scans)
    yield from comparisons.read_current_comparisons(scans)


def identify_source(source: Source) -> Identity:
    """Its kind and its models."""
    match source:
        case Contents():
            return "a scan", (source.model,)
        case Comparison():
            return "a comparison", source.models
        case Aligned():
            return "alignments", source.models


def name_models(source: Source) -> str:
    """Its models, as a message names them."""
    _, models = identify_source(source)
    return " with ".join(map(shown, models))


def bind_models(source: Source) -> dict[str, str]:
    """The columns that say of which models a row is, with its models."""
    _, models = identify_source(source)
    columns = ("model",) if isinstance(source, Contents) else ("model_a", "model_b")
    return dict(zip(columns, models, strict=True))


def list_tables(source: Source) -> list[str]:
    """The tables that have rows of it."""
    kind, _ = identify_source(source)
    return [name for name, table in sqlfiles.tables().items() if table.of == kind]


def make_rows(source: Source) -> Iterator[rows.Rows]:
    """All its rows, piece by piece."""
    match source:
        case Contents():
            return rows.scan_rows(source)
        case Comparison():
            return rows.comparison_rows(source)
        case Aligned():
            return rows.alignment_rows(source)


def is_current(origin: Origin | None, source: Source) -> bool:
    """Whether rows of this origin are of what is committed now; never where there are none."""
    if isinstance(source, Aligned):
        return origin == (source.state,)
    *built_from, channels = origin or (None,)
    is_as_chosen = source.channels in (None, channels)  # once somebody has chosen, it is never None again
    runs = [len(commits.read_runs(source.scan))] if isinstance(source, Contents) else []
    return built_from == [source.scan.id, source.state, *runs] and is_as_chosen
