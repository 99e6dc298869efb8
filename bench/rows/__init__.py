"""The rows by the name that `--rows` takes, in the order in which they run; a function may give several Rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.row import Context, Row
from bench.rows import differences, large, models, smollm2, tensors

ROWS: Mapping[str, Callable[[Context], Sequence[Row]]] = {
    "ingest-8b": large.ingest,
    "memory-512MB": lambda context: large.memory(context, "512MB", 512_000_000),
    "memory-4GB": lambda context: large.memory(context, "4GB", 4_000_000_000),
    "memory-16GB": lambda context: large.memory(context, "16GB", 16_000_000_000),
    "disk-8b": large.disk,
    "queries-8b": large.queries,
    "diff-8b": differences.values,
    "channels": tensors.channels,
    "heads-8b-layer": tensors.heads,
    "full-4096": lambda context: tensors.full(context, 4096, 4096, (0.5, 1.2)),
    "full-4096x14336": lambda context: tensors.full(context, 14336, 4096, (1.3, 2.0)),
    "gpu": tensors.gpu,
    "smollm2-per-head-table": smollm2.per_head_table,
    "weightlens-8-layers": models.weightlens,
    "weightwatcher-smollm2": models.weightwatcher,
    "scaling": large.scaling,
    "first-run": smollm2.first_run,
    "torch-script-smollm2": smollm2.torch_script,
    "heads-smollm2": smollm2.heads,
}
